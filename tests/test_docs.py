"""What the pages and docstrings point to is there."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "voc", "cache", "tutor_gen", "student", "commands")
PAGES = sorted(
    p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "cache" / "FORMAT.md"]
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FILE = re.compile(rf"`((?:{'|'.join((*ROOMS, 'benchmarks', 'scripts', 'docs'))})/[\w./-]*)`")
NAME = re.compile(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`")


def sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from (ROOT / room).rglob("*.py")


def links_of(page: Path) -> list[str]:
    """Links to files of a page, those in code left out."""
    text = re.sub(r"(?ms)^```.*?^```|^    .*?$|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    return LINK.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_point_to_what_is_there(page: Path) -> None:
    missing = [link for link in links_of(page) if not (page.parent / link).exists()]
    paths = FILE.findall(page.read_text(encoding="utf-8"))
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_docstrings_name_what_is_there() -> None:
    names = {name for path in sources() for name in NAME.findall(path.read_text("utf-8"))}
    assert len(names) > 10
    assert not [name for name in sorted(names) if not is_there(f"kdcli.{name}")]


def is_there(name: str) -> bool:
    """Whether it is a module, or something in one."""
    module, _, rest = name, "", ""
    while module:
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
            continue
        for part in filter(None, rest.split(".")):
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_the_readme_leads_to_every_page() -> None:
    found, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        found.add(page)
        links = (page.parent / link for link in links_of(page))
        todo += [p.resolve() for p in links if p.suffix == ".md" and p.resolve() not in found]
    assert set(PAGES) <= found
