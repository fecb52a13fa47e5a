"""Imports between the package's modules point down, as CONTRIBUTING.md says."""

import ast
from pathlib import Path
from typing import Iterator, Tuple

import pytest

import magnus_peewee_store

PACKAGE = Path(magnus_peewee_store.__file__).parent
NAME = PACKAGE.name

# From top to bottom. A module imports only from layers below its own, and from its own folder.
LAYERS = (
    ("cli",),
    ("report",),
    ("configuration", "integrations", "parallel", "runs"),
    ("store", "timeline"),
    ("logs",),
    ("heartbeat",),
    ("fragments", "origin"),
    ("scrub",),
    ("db",),
    ("exceptions", "metrics", "times"),
)
LEVELS = {part: level for level, layer in enumerate(LAYERS) for part in layer}


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == NAME:
            yield from (f"{NAME}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def part_of(path: Path) -> str:
    """Return the folder or module of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
EDGES: Tuple[Tuple[Path, str], ...] = tuple((path, name) for path in MODULES for name in imports(path))


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in MODULES} == set(LEVELS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        if name.startswith(f"{NAME}."):
            other = name.split(".")[1]
            assert other == own or LEVELS[other] > LEVELS[own], f"{own} imports {name}"


@pytest.mark.parametrize("part", ["db", "exceptions", "times"])
def test_another_host_can_use_it_without_magnus(part: str) -> None:
    assert not [(path.name, name) for path, name in EDGES if part_of(path) == part and name.split(".")[0] == "magnus"]


def test_no_two_modules_have_one_name() -> None:
    names = [path.stem for path in MODULES if path.stem != "__init__"]
    assert sorted(set(names)) == sorted(names)


def test_no_two_public_classes_have_one_name() -> None:
    names = [
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted(set(names)) == sorted(names)


def test_fragments_know_no_database() -> None:
    assert not [
        name for path, name in EDGES if part_of(path) == "fragments" and name.startswith((f"{NAME}.db", "peewee"))
    ]
