"""Griffe extension: the docstring section ``Example:`` is shown as the code that it is."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class DocstringExamples(Extension):
    """Renames the section to the name that griffe knows."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Changes the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
