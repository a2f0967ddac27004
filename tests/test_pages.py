"""The map of the package, and the links of the documentation."""

import ast
import re
from pathlib import Path

import pytest

from tests.test_floors import FLOORS, PACKAGE

ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def purpose(path: Path) -> str:
    """The first sentence of a module, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def map_of_the_package() -> str:
    """Every folder and file with what it is, floor by floor."""
    rows: list[tuple[str, str]] = []
    for part in (part for floor in FLOORS for part in floor):
        single = PACKAGE / f"{part}.py"
        if single.is_file():
            rows.append((single.name, purpose(single)))
            continue
        for path in sorted((PACKAGE / part).rglob("*.py"), key=lambda p: (p.parent, p.name)):
            name = path.relative_to(PACKAGE)
            if path.name == "__init__.py":
                rows += [("", ""), (f"{name.parent.as_posix()}/", purpose(path))]
            else:
                rows.append((f"  {name.name}", purpose(path)))
    return "\n".join(f"    {name:<22} {what}".rstrip() for name, what in rows)


def test_the_map_is_the_package() -> None:
    drawn = map_of_the_package()
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawn in page, f"the map in docs/architecture.md should be:\n\n{drawn}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
