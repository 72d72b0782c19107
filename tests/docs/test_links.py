"""Links within README, docs/ and the pages beside them: files and anchors, without building the site."""

import itertools
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PICTURES = sorted((ROOT / "docs" / "images").glob("*.svg"))
DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


def prose(path: Path) -> str:
    """A page without its blocks of code and comments."""
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,4} (.+)$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, count in found.items() for number in range(count + 1)}


def broken(path: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "page.md").write_text("# A `b` c!\n[1](gone.md) [2](#a-b-c) [3](page.md#a-b) ![4](gone.svg)\n")
    assert broken(tmp_path / "page.md") == ["gone.md", "page.md#a-b", "gone.svg"]


def test_every_page_is_on_the_site():
    """A page that no table of contents names is met by nobody."""
    docs = ROOT / "docs"
    named = set()
    for path in docs.rglob("*.md"):
        for tree in re.findall(r"^:::\{toctree\}\n(.*?)^:::$", path.read_text(), re.DOTALL | re.MULTILINE):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            patterns = itertools.chain.from_iterable(path.parent.glob(f"{entry}.*") for entry in entries)
            named |= {found.relative_to(docs) for found in patterns}
    pages = {path.relative_to(docs) for path in docs.rglob("*") if path.suffix in (".md", ".rst")}
    assert pages - named == {Path("index.md")}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_files_in_pictures_exist(path):
    files = re.findall(r">((?:\w+/)+\w+\.\w+)<", path.read_text())
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_number_and_status(path):
    title, blank, status = path.read_text().splitlines()[:3]
    assert title.startswith(f"# {int(path.stem[:4])}. ")
    assert blank == ""
    assert re.fullmatch(r"Status: (accepted\.|(accepted; .*)?superseded by \[ADR \d+\]\(\d{4}-.*\.md\)\.)", status)
    later = re.findall(r"ADR (\d+)\]\((\d{4})", status)
    assert all(int(number) == int(name) > int(path.stem[:4]) for number, name in later)
