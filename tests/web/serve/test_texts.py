"""Texts of the prediction page in other languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune.messages import languages, script_messages
from finetune.web import messages

WEB = Path(messages.__file__).parent
STRING = r'"((?:[^"\\]|\\.)*)"'


def texts() -> set[str]:
    """All texts of the script and the template."""
    script = (WEB / "static" / "serve.js").read_text("utf-8")
    found = set(re.findall(rf"\bt\(\s*{STRING}", script))
    found |= {one for one, _ in re.findall(rf"\btn\(\s*{STRING},\s*{STRING}", script)}
    page = (WEB / "templates" / "serve.html").read_text("utf-8")
    return found | set(re.findall(rf"\b_\({STRING}\)", page))


@pytest.mark.parametrize("language", languages()[1:])
def test_every_text_is_translated_with_its_values(language: str) -> None:
    catalog = script_messages(language, "serve")
    assert len(texts()) > 40
    for text in texts():
        found = catalog[text]
        for form in [found] if isinstance(found, str) else found:
            assert form
            assert set(re.findall(r"\{\w+\}", form)) == set(re.findall(r"\{\w+\}", text))
    assert catalog.keys() <= texts()
