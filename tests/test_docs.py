"""Checks the commands that README, docs and examples print, and runs the quick ones."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import finetune
from finetune.cli import app
from finetune.demo_data import draw_collection, draw_unseen

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands_in(page: Path) -> list[str]:
    """Returns the `finetune ...` lines of a page's code blocks, without prompts and remarks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [
        re.split(r"\s{2,}|\s#", line)[0]
        for line in lines
        if re.match(r"finetune( [a-z-]+|$)", line)
    ]


def mentions_in(page: Path) -> list[str]:
    """Returns the commands that the sentences of a page mention in backticks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`finetune ([a-z-][^`]*)`", prose)


LINES = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands_in(page)]

QUICK = (
    "finetune scan photos",
    "finetune duplicates photos",
    "finetune split photos",
    "finetune preview photos --augment mobius",
    "finetune crop photos --clear",
    "finetune similar chosen/*.jpg --from photos --by hash",
    "finetune import labels.csv photos --dry-run",
    "finetune export-photos copy photos --layout csv",
    "finetune models",
    "finetune summary tf_efficientnet_lite2",
    "finetune predict unseen --run garden",
    "finetune evaluate garden",
    "finetune report garden --no-explain",
    "finetune compare garden park",
    "finetune export garden --format torchscript",
    "finetune watch garden --no-evaluate",
)
"""Documented commands that take at most a second or two."""


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the quick commands name: photos, a table of labels and two runs."""
    folder = tmp_path_factory.mktemp("docs")
    drawn = draw_collection(
        folder / "photos", species=3, photos_per_species=9, size=(240, 160), flaws=False, workers=1
    )
    draw_unseen(folder / "unseen", count=2, species=3, size=(240, 160))
    (folder / "chosen").mkdir()
    shutil.copy(folder / "photos" / drawn.photos[0].path, folder / "chosen" / "one.jpg")
    (folder / "labels.csv").write_text(f"path,label\n{drawn.photos[0].path},wren\n")
    settings: dict[str, Any] = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48}
    settings |= {"device": "cpu", "mode": "head", "epochs": 2}
    finetune.train(folder / "photos", run="garden", runs=folder / "runs", **settings)
    shutil.copytree(folder / "runs" / "garden", folder / "runs" / "park")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def test_docs_print_commands() -> None:
    assert len(LINES) > 60


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_a_printed_command_parses(page: str, line: str) -> None:
    name, *words = shlex.split(line)[1:] or ["--help"]
    if name.startswith("-"):
        assert CliRunner().invoke(app, [name]).exit_code == 0
    else:
        COMMANDS[name].make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_mentioned_command_has_its_options(page: Path) -> None:
    for mention in mentions_in(page):
        name, *words = mention.split()
        if name.startswith("-"):
            continue
        options = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options | {"--help", "--help-all"}, mention


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_imports_of_a_python_block_exist(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune"):
                module = importlib.import_module(str(node.module))
                assert [n.name for n in node.names if not hasattr(module, n.name)] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_documented(name: str) -> None:
    printed = {line.split()[1] for _, line in LINES if " " in line}
    assert name in printed


@pytest.mark.parametrize("line", QUICK)
def test_a_quick_command_runs(line: str, folder: Path) -> None:
    assert line in {printed for _, printed in LINES}, "no page prints it"
    words = [
        found
        for word in shlex.split(line)[1:]
        for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def test_the_modules_in_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page)
    assert len(modules) > 15
    for module in modules:
        assert (ROOT / "finetune" / module).is_file() or (ROOT / module).is_file(), module
