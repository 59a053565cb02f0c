"""MkDocs hook: pages made from the command line, README, changelog and benchmarks.

They have one source each, so the site cannot say something else than the program.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

COPIES = {
    "README.md": "index.md",
    "README.ja.md": "index.ja.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/RESULTS.md": "measured.md",
    "examples/first_hour.ipynb": "examples/first_hour.ipynb",
    **{
        path.relative_to(ROOT).as_posix(): f"examples/{path.parent.name}.md"
        for path in sorted(ROOT.glob("examples/*/README.md"))
    },
}
"""Pages of the site that are files elsewhere in the repository."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the page of each command into the navigation."""
    for entry in config.nav or []:
        if entry.get("Commands") == "commands/index.md":
            groups = [{"All commands": "commands/index.md"}]
            for panel, names in _panels().items():
                groups.append({panel: [{name: f"commands/{name}.md"} for name in names]})
            entry["Commands"] = groups
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from elsewhere."""
    for source, target in COPIES.items():
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=_linked(text, source)))
    files.append(File.generated(config, "commands/index.md", content=_command_list()))
    for name in sorted(_commands()):
        page = "\n".join(_command_page(name)) + "\n"
        files.append(File.generated(config, f"commands/{name}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to files outside docs/ to their pages."""
    if page.file.generated_by is not None:
        return markdown
    return _linked(markdown, f"docs/{page.file.src_uri}")


def _linked(text: str, source: str) -> str:
    """Returns a file's text with links between pages as the site has them."""
    folder = (ROOT / source).parent

    def replaced(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = (folder / target).resolve()
        if (path / "README.md").is_file():
            path = path / "README.md"
        if not path.is_relative_to(ROOT) or not path.exists():
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        if name in COPIES:
            name = f"docs/{COPIES[name]}"
        if not name.startswith("docs/"):
            return found[0]
        depth = COPIES.get(source, source.removeprefix("docs/")).count("/")
        return f"]({'../' * depth}{name.removeprefix('docs/')}{anchor})"

    return re.sub(r"\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)", replaced, text)


def _commands() -> dict[str, Any]:
    import typer.main

    from finetune.cli import app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return commands


def _panels() -> dict[str, list[str]]:
    panels: dict[str, list[str]] = {}
    for name, command in _commands().items():
        panels.setdefault(str(command.rich_help_panel), []).append(name)
    return panels


def _command_list() -> str:
    lines = [
        "# Commands",
        "",
        "Made from the program; `finetune COMMAND --help` prints the same.",
        "",
    ]
    for panel, names in _panels().items():
        lines += [f"## {panel}", "", "| command | what it does |", "|---|---|"]
        for name in names:
            lines.append(f"| [`finetune {name}`]({name}.md) | {_short(_commands()[name])} |")
        lines.append("")
    return "\n".join(lines)


def _short(command: Any) -> str:
    return str(command.get_short_help_str(200))


def _command_page(name: str) -> Iterator[str]:
    """Yields the lines of a command's page: usage, description, and its options by panel."""
    command = _commands()[name]
    with command.make_context(name, [], resilient_parsing=True) as context:
        yield f"# finetune {name}"
        yield ""
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```\nfinetune {name} {usage}\n```"
        yield ""
        yield re.sub(r"[ \t]*\n[ \t]*", "\n", (command.help or "").strip())
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            panel = "Arguments" if is_argument else parameter.rich_help_panel or "Options"
            panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            yield f"\n## {panel}\n"
            yield "| name | meaning |"
            yield "|---|---|"
            for names, text in records:
                yield f"| <code>{_cell(names)}</code> | {_cell(text)} |"


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split())).replace("|", "&#124;")
