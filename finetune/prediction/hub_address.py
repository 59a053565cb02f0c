"""Addresses of models on the Hugging Face hub: ``hf://OWNER/NAME``; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from finetune.errors import RunError

SCHEME = "hf://"


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """Model on the hub.

    Attributes:
        repository: ``OWNER/NAME``.
        revision: Branch, tag or commit; None: the main branch.
    """

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the address in ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

        Raises:
            RunError: It is no such address.

        Example:
            >>> HubAddress.parse("hf://maria/garden-birds@v2")
            HubAddress(repository='maria/garden-birds', revision='v2')
        """
        part = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
        found = re.fullmatch(rf"hf://({part}/{part})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?", text)
        if found is None:
            raise RunError(f"{text} is no model on the hub: it has the form hf://OWNER/NAME.")
        return cls(repository=found[1], revision=found[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_address(source: object) -> bool:
    """Returns whether a source of a run names a model on the hub."""
    return isinstance(source, str) and source.startswith(SCHEME)
