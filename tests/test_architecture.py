"""Imports run one way, and nothing global is seeded or unpickled."""

import ast
from pathlib import Path

import pytest

import learndyn

ROOT = Path(learndyn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FOUNDATION = {"errors", "noise", "storage", "__init__"}
#: room -> rooms it may import
ALLOWED = {
    "errors": set(),
    "noise": {"errors"},
    "storage": {"errors"},
    "runtime": set(),
    "groups": {"errors", "noise"},
    "tasks": {"errors", "noise", "groups"},
    "neurons": {"errors", "noise", "groups"},
    "models": {"errors"},
    "symmetries": {"errors", "noise"},
    "optimizers": {"errors"},
    "dynamics": {*FOUNDATION, "tasks", "optimizers", "neurons"},
    "observables": {*FOUNDATION, "groups", "tasks", "dynamics"},
    "laws": {"errors", "neurons"},
    "recorder": {*FOUNDATION, "dynamics", "laws"},
    "regime": {*FOUNDATION, "tasks", "models", "symmetries", "dynamics", "observables", "laws"},
    "plateau": {"errors", "noise", "tasks", "neurons", "symmetries", "dynamics", "observables", "laws"},
    "compare": {"errors"},
    "record": FOUNDATION,
    "names": {*FOUNDATION, "tasks", "models", "optimizers", "dynamics"},
    "report": {*FOUNDATION, "compare", "record"},
    "experiments": {
        *FOUNDATION,
        "groups",
        "neurons",
        "tasks",
        "models",
        "optimizers",
        "dynamics",
        "observables",
        "symmetries",
        "recorder",
        "regime",
        "plateau",
        "laws",
        "compare",
        "record",
        "names",
        "report",
    },
    "run": {*FOUNDATION, "runtime", "record", "names", "experiments"},
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "learndyn":
            inside = node.module.split(".")[1:2]
            found |= set(inside) if inside else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] if "." in alias.name else "__init__"
                for alias in node.names
                if alias.name.split(".")[0] == "learndyn"
            }
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path):
    here = room(path)
    if here in ("__main__", "__init__", "commands"):  # the command line: everything
        return
    assert here in ALLOWED, f"{here} is a new room: say in ALLOWED and docs/architecture.md what it may import"
    assert imported(path) <= ALLOWED[here] | {here}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_global_seed_and_no_unpickling(path: Path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    safe = [node for node in nodes if "weights_only=True" in ast.unparse(node) and path.name == "storage.py"]
    calls = {ast.unparse(node.func) for node in nodes if node not in safe}
    assert not calls & {
        "torch.manual_seed",
        "np.random.seed",
        "numpy.random.seed",
        "random.seed",
        "pickle.load",
        "pickle.loads",
        "torch.load",
    }


def test_architecture_page_knows_every_room():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in page for name in ALLOWED)
