"""Texts of the pages: none is missing in any language."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from starlette.requests import Request

from finetune.errors import FinetuneError
from finetune.messages import LOCALE_FOLDER, languages, script_messages, translations
from finetune.photos.catalog.store import translated
from finetune.web import messages
from finetune.web.annotate.actions import BadRequestError, read_action, read_label
from finetune.web.annotate.descriptions import ACTIONS, LABEL_EDITS, REFUSALS, localized
from finetune.web.annotate.label_edits import read_label_edit, write_label_edit
from finetune.web.annotate.session import Session
from finetune.web.messages import language_of

WEB = Path(messages.__file__).parent
STRING = r'"((?:[^"\\]|\\.)*)"'


def texts() -> set[str]:
    """All texts that are shown: of the scripts, the template and marked ones of the server."""
    found: set[str] = set()
    for script in (WEB / "static" / "annotate").glob("*.js"):
        code = re.sub(r"^\s*//.*$", "", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found.update(re.findall(rf"\bt\(\s*{STRING}", code))
        for one, many in re.findall(rf"\btn\(\s*{STRING},\s*{STRING}", code):
            found.update((one, many))
    page = (WEB / "templates" / "annotate.html").read_text(encoding="utf-8")
    found.update(re.findall(rf"\b_\({STRING}\)", page))
    for module in (*WEB.glob("*.py"), *(WEB / "annotate").glob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "marked":
                (argument,) = node.args
                if isinstance(argument, ast.Constant):
                    found.add(str(argument.value))
    return found


def po_entries(path: Path) -> dict[str, list[str]]:
    """The translations in a catalog's source, by English text."""
    entries: dict[str, list[str]] = {}
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if match := re.match(r'(msg\w+(?:\[\d\])?) "', line):
                name = match[1]
            if not line.startswith("#") and '"' in line:
                fields[name] = fields.get(name, "") + ast.literal_eval(line[line.index('"') :])
        if fields.get("msgid"):
            strings = [text for key, text in fields.items() if key.startswith("msgstr")]
            entries[fields["msgid"]] = strings
            if "msgid_plural" in fields:
                entries[fields["msgid_plural"]] = strings
    return entries


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_there_are_many_texts_and_a_language() -> None:
    assert len(texts()) > 250
    assert languages() == ("en", "ja")


@pytest.mark.parametrize("language", languages()[1:])
def test_no_text_is_missing_and_none_loses_a_value(language: str) -> None:
    source = LOCALE_FOLDER / language / "LC_MESSAGES" / "annotate.po"
    entries = po_entries(source)
    shown = texts()
    assert shown - entries.keys() == set()
    assert entries.keys() - shown - {"{count} photos", "{count} stars"} == set()
    for text in shown:
        assert all(entries[text]), text
        for translation in entries[text]:
            assert placeholders(translation) <= placeholders(text), text
            assert placeholders(text) - placeholders(translation) <= {"count"}, text


@pytest.mark.parametrize("language", languages()[1:])
def test_the_compiled_catalog_is_that_of_its_source(language: str) -> None:
    entries = po_entries(LOCALE_FOLDER / language / "LC_MESSAGES" / "annotate.po")
    compiled = script_messages(language)
    singular = {text for text in compiled if text in entries}
    assert singular == compiled.keys()
    for text, translation in compiled.items():
        assert entries[text] == ([translation] if isinstance(translation, str) else translation)


@pytest.mark.parametrize(
    ("query", "header", "language"),
    [
        ("", "", "en"),
        ("", "ja", "ja"),
        ("", "de-DE, ja-JP;q=0.8, en;q=0.5", "ja"),
        ("", "en-US,en;q=0.9,ja;q=0.8", "en"),
        ("lang=ja", "en", "ja"),
        ("lang=xx", "ja;q=x", "ja"),
    ],
)
def test_the_language_is_asked_for_or_the_browsers(query: str, header: str, language: str) -> None:
    scope = {
        "type": "http",
        "query_string": query.encode(),
        "headers": [(b"accept-language", header.encode())],
    }
    assert language_of(Request(scope)) == language


def test_descriptions_of_the_journal_are_translated() -> None:
    japanese = translations("ja")
    assert localized("label 1,200 photos as 'heron'", japanese) == "1,200枚に'heron'のラベル"
    assert localized("label 1 photo as none of the labels", japanese) == "1枚にどれでもないのラベル"
    assert localized("give 2 photos 3 stars", japanese) == "2枚に星3つ"
    assert localized("something else", japanese) == "something else"
    assert localized("flag 3 photos", translations("en")) == "flag 3 photos"
    values = {"photos": "2 photos", "names": "'a'", "stars": "1 star", "label": "'a'", "to": "'b'"}
    for template in (*ACTIONS.values(), *LABEL_EDITS.values()):
        assert localized(template.format(**values), japanese) != template.format(**values)


def refusals(folder: Path) -> list[Exception]:
    """Errors that the server passes on to the page, raised by the code that refuses."""
    folder.mkdir()
    (folder / "heron.jpg").write_bytes(b"not a photo")
    session = Session(folder, labels=["owl"])
    (state,) = session.index.states()
    (folder / "heron.jpg").unlink()
    edit = read_label_edit({"kind": "delete", "label": "owl"})
    calls: list[Callable[[], object]] = [
        lambda: read_label("a\nb"),
        lambda: read_label("x" * 201),
        lambda: session.edit_label(read_label_edit({"kind": "delete", "label": "wren"})),
        lambda: session.act(read_action({"kind": "flag", "photos": {"0" * 16: ""}})),
        lambda: session.act(read_action({"kind": "flag", "photos": {state.id: ""}})),
        lambda: write_label_edit(Mock(), edit, {"digest": "owl"}, ["owl"], {}),
    ]
    for text in ("database or disk is full", "database is locked", "disk I/O error"):
        calls.append(partial(_fail_in, session.catalog.path, text))
    found = []
    for call in calls:
        with pytest.raises((BadRequestError, FinetuneError)) as raised:
            call()
        found.append(raised.value)
    session.close()
    return found


def _fail_in(path: Path, text: str) -> None:
    with translated(path):
        raise sqlite3.OperationalError(text)


def test_refusals_of_the_server_are_translated(tmp_path: Path) -> None:
    japanese = translations("ja")
    found = [str(error) for error in refusals(tmp_path / "photos")]
    jobs = ["No suggestions: damaged", "Photos could not be read; see the terminal."]
    for text in (*found, *jobs):
        assert localized(text, translations("en")) == text
        assert localized(text, japanese) != text, text
    assert localized("There is no label 'wren'.", japanese) == "ラベル'wren'はありません。"
    missing = localized(found[4], japanese)
    assert missing.startswith("heron.jpgを読み込めません(ファイルがない)")
    templates = [template for template in REFUSALS if "{" not in template]
    assert all(localized(template, japanese) != template for template in templates)
