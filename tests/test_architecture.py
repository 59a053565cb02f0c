from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "finetune"

LAYERS = [
    {
        "errors",
        "config",
        "config_io",
        "files",
        "fonts",
        "formatting",
        "malloc",
        "messages",
        "processes",
        "spreadsheets",
    },
    {"demo_data"},
    {"photos"},
    {"augmentation"},
    {"data"},
    {"models"},
    {"evaluation"},
    {"tasks"},
    {"curation"},
    {"runs"},
    {"training"},
    {"experiments"},
    {"reporting"},
    {"prediction"},
    {"api", "diagnostics"},
    {"web"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def dotted(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it, ``from package import module`` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & set(MODULES) or {node.module}
            if not submodules <= set(MODULES):
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m) in RANK])
def test_imports_point_one_way(module: str) -> None:
    climbs = {
        used
        for used in IMPORTS[module]
        if used.startswith("finetune.") and RANK[layer_of(used)] > RANK[layer_of(module)]
    }
    assert not climbs, f"{module} imports {climbs} from a higher layer"


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other in a loop (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for used in imports[node] & imports.keys():
            if used not in index:
                visit(used)
                low[node] = min(low[node], low[used])
            elif used in stack:
                low[node] = min(low[node], index[used])
        if low[node] == index[node]:
            at = stack.index(node)
            component = set(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for node in imports:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(imports) == [{"b", "c"}]


def test_no_modules_import_each_other() -> None:
    # The package's face loads names on first use and is imported for its version alone.
    inside = {m: used - {"finetune"} for m, used in IMPORTS.items() if m != "finetune"}
    assert circles(inside) == []


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m) == "photos"])
def test_photos_know_no_torch(module: str) -> None:
    roots = {used.partition(".")[0] for used in IMPORTS[module]}
    assert not roots & {"torch", "timm", "torchvision"}


def test_albumentations_is_imported_in_one_place_only() -> None:
    users = {m for m, used in IMPORTS.items() if any(u.startswith("albumentations") for u in used)}
    assert users == {"finetune.augmentation.random_mobius"}


def test_only_the_console_prints() -> None:
    for module, path in MODULES.items():
        if module == "finetune.cli.console":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path} prints in line {node.lineno}"


def test_no_module_imports_click() -> None:
    assert not [m for m, used in IMPORTS.items() if any("click" in name for name in used)]


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


def test_a_split_needs_no_torch() -> None:
    code = "import finetune.tasks.data_split, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_the_public_names_are_there() -> None:
    import finetune

    for name in finetune.__all__:
        assert getattr(finetune, name) is not None
    assert "train" in dir(finetune)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = finetune.nothing
