from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "finetune"

LAYERS = [
    {"errors", "config", "settings", "files"},
    {"aviary"},
    {"photos"},
    {"augmentation"},
    {"data"},
    {"models"},
    {"curation"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"reporting"},
    {"prediction"},
    {"api"},
    {"web"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """The finetune modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer in ("__init__", "__main__"):
        return
    for module in imports_of(path):
        root, _, rest = module.partition(".")
        if root == "finetune" and rest:
            used = rest.partition(".")[0]
            assert RANK[used] <= RANK[layer], f"{path.name} of {layer} imports {module}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer_of(p) == "photos"], ids=lambda p: p.name
)
def test_photos_know_no_torch(path: Path) -> None:
    assert not {m.partition(".")[0] for m in imports_of(path)} & {"torch", "timm", "torchvision"}


def test_albumentations_is_imported_in_one_place_only() -> None:
    users = {
        str(p.relative_to(PACKAGE))
        for p in MODULES
        if any(m.partition(".")[0] == "albumentations" for m in imports_of(p))
    }
    assert users == {"augmentation/cpu.py"}


def test_only_the_console_prints() -> None:
    for path in MODULES:
        if path.relative_to(PACKAGE).as_posix() == "cli/console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path} prints in line {node.lineno}"


def test_no_module_imports_click() -> None:
    assert not [p for p in MODULES if any("click" in m for m in imports_of(p))]


@pytest.mark.parametrize("code", ["import finetune", "import finetune.cli"])
def test_import_loads_nothing_heavy(code: str) -> None:
    heavy = ["torch", "timm", "cv2", "albumentations", "torchvision", "scipy", "plotly"]
    check = f"{code}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_help_of_every_command_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from finetune.cli import app\n"
        "top = CliRunner().invoke(app, ['--help'])\n"
        "assert top.exit_code == 0, top.output\n"
        "names = [c.name or c.callback.__name__ for c in app.registered_commands]\n"
        "for name in names:\n"
        "    shown = CliRunner().invoke(app, [name, '--help'])\n"
        "    assert shown.exit_code == 0, shown.output\n"
        "print([m for m in ('torch', 'timm', 'cv2', 'albumentations') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import finetune

    for name in finetune.__all__:
        assert getattr(finetune, name) is not None
    assert "train" in dir(finetune)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = finetune.nothing
