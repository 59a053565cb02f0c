"""Texts of reports and comparisons in other languages."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune.errors import ConfigError
from finetune.messages import (
    COUNTED,
    REPORT,
    counted,
    in_language,
    languages,
    plural,
    script_messages,
    text,
)
from finetune.reporting.compare import compare, contender
from finetune.reporting.comparison_page import write_comparison
from finetune.reporting.report import write_report
from finetune.reporting.run_record import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun

PACKAGE = Path(__file__).resolve().parents[2] / "finetune"
TEMPLATES = PACKAGE / "reporting" / "templates"
STRING = r'"((?:[^"\\]|\\.)*)"'
MODULES = (
    *(PACKAGE / "reporting").glob("*.py"),
    *(PACKAGE / "tasks").glob("*.py"),
    PACKAGE / "messages.py",
    PACKAGE / "runs" / "answers.py",
    PACKAGE / "runs" / "outlook.py",
)
FUNCTIONS = ("text", "marked", "plural", "marked_plural")


def texts() -> set[str]:
    """All texts of the templates, the scripts and the modules; the first form of a plural."""
    found: set[str] = set()
    for file in (*TEMPLATES.glob("*.j2"), *TEMPLATES.glob("*.js")):
        code = file.read_text("utf-8")
        found.update(re.findall(rf"\b(?:t|rich)\({STRING}", code))
        found.update(re.findall(rf"\btn\({STRING}", code))
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in FUNCTIONS:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


@pytest.mark.parametrize("language", languages(REPORT)[1:])
def test_every_text_is_translated_with_its_values(language: str) -> None:
    catalog = script_messages(language, REPORT)
    shown = texts()
    assert len(shown) > 250
    for one in shown:
        translation = catalog.get(one)
        assert translation, one
        for form in [translation] if isinstance(translation, str) else translation:
            assert sorted(re.findall(r"\{[^}]*\}", form)) == sorted(re.findall(r"\{[^}]*\}", one))


def test_a_text_is_in_the_language_of_the_innermost_block() -> None:
    assert languages(REPORT) == ("en", "ja")
    assert text("Loss by epoch") == "Loss by epoch"
    with in_language("ja"):
        assert text("Loss by epoch") == "エポックごとの損失"
        assert counted(1234, "photo") == "写真 1,234 枚"
        with in_language("en"):
            assert text("Loss by epoch") == "Loss by epoch"
        with in_language(None) as language:
            assert language == "ja"
    assert counted(1, "photo") == "1 photo"
    assert plural("{count} of {all} is", "{count} of {all} are", 2, all=3) == "2 of 3 are"


def test_an_unknown_language_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match=re.escape("--language xx is not one of en, ja.")),
        in_language("xx"),
    ):
        pass


def test_counted_nouns_are_marked() -> None:
    forms = {one for one, _ in COUNTED}
    for module in MODULES:
        code = module.read_text("utf-8")
        for noun in re.findall(r'\bcounted\([^"\n]*, ["\']([a-z -]+)["\']', code):
            assert f"{{count}} {noun}" in forms, noun


def test_report_and_comparison_are_written_in_japanese(
    two_run_folders: tuple[MadeRun, MadeRun], tmp_path: Path
) -> None:
    first = two_run_folders[0]
    with in_language("ja"):
        made = write_report(first.path, photos_root=None, output=tmp_path / "report.html")
        runs = [contender(run.path.name, read_run(run.path)) for run in two_run_folders]
        page = write_comparison(tmp_path / "compare.html", compare(runs), runs)
    report, comparison = made.path.read_text("utf-8"), page.read_text("utf-8")
    for content, heading, english in (
        (report, "次にすること", "What to do next"),
        (comparison, "ラベルごとの変化", "Changes by label"),
    ):
        body = content.partition("<body>")[2].partition('<script type="application/json"')[0]
        assert '<html lang="ja">' in content
        assert heading in body
        assert english not in body
