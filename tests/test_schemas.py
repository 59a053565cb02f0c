"""Schemas of the documents that commands print, and of the files of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
import typer.main
from typer.testing import CliRunner

from finetune.cli import app
from finetune.cli.documents import DOCUMENTS
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.scan import scan
from finetune.runs import validation

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "docs" / "schemas"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def schemas() -> dict[str, str]:
    """Returns the text of every schema by its file name."""

    def hook(kind: type) -> dict[str, Any]:
        return {"type": "string"} if issubclass(kind, Path) else {}

    types = dict(DOCUMENTS)
    types |= {f"run-{name.removesuffix('.json')}": t for name, t in validation.SCHEMAS.items()}
    types["run-log"] = validation.Epoch
    return {
        f"{name}.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema"}
            | msgspec.json.schema(kind, schema_hook=hook),
            indent=1,
            sort_keys=True,
        )
        + "\n"
        for name, kind in types.items()
    }


def test_every_command_with_json_has_a_schema() -> None:
    with_json = {
        name for name, command in COMMANDS.items() if any(p.name == "json" for p in command.params)
    }
    assert with_json == set(DOCUMENTS)


def test_the_schemas_in_the_docs_are_those_of_the_types() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in SCHEMAS.iterdir()}
    assert written == schemas(), "run scripts/schemas"


def conforms(name: str, text: str) -> None:
    """Checks a document: its types, and that each of its keys is in the schema."""
    document = json.loads(text)
    kind = DOCUMENTS[name]
    msgspec.json.decode(text, type=kind, strict=True)
    if isinstance(document, dict):
        assert set(document) <= set(get_type_hints(kind))


@pytest.fixture(scope="module")
def folder(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a table of labels, and a run."""
    root = tmp_path_factory.mktemp("schemas")
    train_tiny(root)
    shutil.copytree(root / "runs" / "tiny", root / "runs" / "other")
    (root / "labels.csv").write_text("path,label\nant/0.png,wasp\n")
    return root


@pytest.mark.parametrize(
    "line",
    [
        "scan photos",
        "duplicates photos",
        "similar photos/ant/0.png --from photos --by hash",
        "crop photos --method center",
        "split photos",
        "split photos --folds 3",
        "import labels.csv photos --dry-run",
        "export-photos copy photos --layout csv",
        "preview photos --augment mobius -o preview",
        "models test_res*",
        "summary simple_cnn",
        "predict photos/ant --run tiny",
        "evaluate tiny",
        "report tiny --no-explain",
        "compare tiny other",
        "export tiny --format torchscript",
        "doctor --no-self-test",
        "watch tiny --no-evaluate",
    ],
)
def test_a_document_conforms_to_its_schema(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*line.split(), "--json"])
    assert done.exit_code == 0, done.output
    name = line.split()[0]
    for text in done.stdout.splitlines() if name == "watch" else [done.stdout]:
        conforms(name, text)


def test_train_conforms_to_its_schema(
    folder: Path, tiny_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in tiny_settings.items()]
    done = CliRunner().invoke(app, ["train", "photos", "--mode", "head", "--json", *flags])
    assert done.exit_code == 0, done.output
    conforms("train", done.stdout)


@pytest.mark.parametrize(
    "line",
    [
        "ablate photos --augment none,standard --mode head --seeds 1 --name ablation",
        "lr-find photos --steps 20",
        "tune photos --trials 2 --views 1",
    ],
)
def test_an_experiment_conforms_to_its_schema(
    line: str, folder: Path, tiny_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    name = line.split()[0]
    left_out = {"tune": {"batch_size", "head_l2"}, "lr-find": {"epochs"}}.get(name, set())
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in tiny_settings.items()
        if name not in left_out
    ]
    done = CliRunner().invoke(app, [*line.split(), "--json", *flags])
    assert done.exit_code == 0, done.output + repr(done.exception)
    conforms(name, done.stdout)


def test_demo_conforms_to_its_schema(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "demo"), "--per-label", "6", "--json"])
    assert done.exit_code == 0, done.output
    conforms("demo", done.stdout)


def test_annotate_conforms_to_its_schema(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"ant": 2, "bee": 2})
    with open_catalog(root) as catalog:
        catalog.set_labels([scan(root, workers=1).photos[0].digest], ["bee"])
    for words in (["--agreement"], ["--apply", "--yes"]):
        done = CliRunner().invoke(app, ["annotate", str(root), *words, "--json"])
        assert done.exit_code == 0, done.output
        conforms("annotate", done.stdout)
        assert isinstance(json.loads(done.stdout), list)


def test_the_files_of_a_run_conform_to_their_schemas(folder: Path) -> None:
    run = folder / "runs" / "tiny"
    checked = 0
    for name, kind in validation.SCHEMAS.items():
        if (run / name).is_file():
            msgspec.convert(json.loads((run / name).read_text()), kind, strict=True)
            checked += 1
    assert checked >= 5
