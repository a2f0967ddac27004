"""The shape of the package: imports only go down, files are named for what is in them."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dalle"
FLOORS = (
    (
        *("errors", "protocols", "config", "layout", "json_files", "pictures", "picture_files"),
        *("processes", "launched"),
    ),
    ("nn",),
    ("models",),
    ("tokenizers",),
    ("pretrained",),
    ("checkpoint",),
    ("sampling", "data"),
    ("training",),
    ("evaluation",),
    ("systems",),
    ("presets",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A file imports from lower floors and from its own folder."""
SHARED_GROUND = FLOORS[0]
LIBRARIES_OF_THE_MODELS = {"torch", "einops", "jaxtyping"}
ADAPTERS = {"models/transformers_folder.py": {"transformers"}}
"""Files that exist to bring another library in."""
BANNED_NAMES = {"utils", "util", "misc", "helpers", "helper", "common", "core", "manager"}

FILES = sorted(PACKAGE.rglob("*.py"))


def modules_in(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, in functions too; of `from dalle import x`, dalle.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full, without leading dots"
            assert node.module is not None
            if node.module == "dalle":
                yield from (f"dalle.{alias.name}" for alias in node.names)
            else:
                yield node.module


def floor_of(part: str) -> int:
    """The number of the floor on which a part of the package lives."""
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def complaints(path: Path, source: str) -> list[str]:
    """What is wrong with the imports of a file; `path` is relative to the package."""
    part = path.parts[0].removesuffix(".py")
    wrong = []
    for module in modules_in(ast.parse(source)):
        names = module.split(".")
        if names[0] != "dalle" or len(names) == 1:
            continue
        other = names[1]
        if not (PACKAGE / other).is_dir() and not (PACKAGE / f"{other}.py").is_file():
            continue  # a name of dalle/__init__.py
        within = other == part or (other in SHARED_GROUND and part in SHARED_GROUND)
        if not within and floor_of(other) >= floor_of(part):
            wrong.append(
                f"dalle/{path} (floor {part}) imports {module} (floor {other}), which is not below "
                "it; move what both need down"
            )
    return wrong


def test_every_part_has_a_floor() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts - {"__init__"} <= {part for floor in FLOORS for part in floor}


def test_imports_only_go_down() -> None:
    wrong = [
        line
        for path in FILES
        if path != PACKAGE / "__init__.py"
        for line in complaints(path.relative_to(PACKAGE), path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("nn/masks.py", "from dalle.models.dvae import Dvae", True),
        ("nn/masks.py", "def f():\n    import dalle.cli", True),
        ("data/loader.py", "from dalle.sampling import decode", True),
        ("config.py", "from dalle import nn", True),
        ("nn/masks.py", "from dalle.nn import cache\nfrom dalle import errors", False),
        ("cli/train.py", "from dalle import __version__, presets", False),
    ],
)
def test_the_check_sees(path: str, source: str, *, found: bool) -> None:
    assert bool(complaints(Path(path), source)) == found


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.relative_to(PACKAGE).parts[0] in ("nn", "models")]
    + [PACKAGE / "sampling" / "decode.py"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_models_need_few_libraries(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    allowed = LIBRARIES_OF_THE_MODELS | ADAPTERS.get(name, set()) | {"dalle"}
    roots = {m.split(".")[0] for m in modules_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert roots - set(sys.stdlib_module_names) <= allowed


def test_names_say_what_is_inside() -> None:
    names = {part for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & BANNED_NAMES
