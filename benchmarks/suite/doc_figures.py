"""Writes measured figures into pages, between marks, from the JSON in benchmarks/results.

A page has the marks `<!-- figures: NAME -->` and `<!-- end of figures -->`. The text between them is made from the JSON
of NAME, and a test checks that it is up to date.

python -m benchmarks.suite.doc_figures
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmarks.suite import doc_tables, page_tables
from tfserving_ext.artifacts import atomic_file, read_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

PAGES = ("benchmarks/README.md", "docs/searches.md", "docs/surrogate.md", "docs/evaluation.md", "docs/paper.md")
_BLOCK = re.compile(r"(<!-- figures: (.*?) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


class Figures(NamedTuple):
    """Where the text of a block comes from.

    Attributes:
      file: a JSON file in benchmarks/results.
      text: makes Markdown from the file's content.
    """

    file: str
    text: Callable[..., str]


FIGURES = {
    "search at equal coverage": Figures("search.json", doc_tables.race_of_both),
    "search over builds": Figures("search.json", doc_tables.builds),
    "search and rerank": Figures("search.json", doc_tables.rerank),
    "search of a large corpus": Figures("search.json", doc_tables.large),
    "walk under the dot product": Figures("search.json", doc_tables.walk),
    "scorers": Figures("scorer.json", page_tables.scorers),
    "scorer in the search": Figures("scorer.json", doc_tables.scorer_in_search),
    "local server": Figures("serve.json", doc_tables.server),
    "conversion of 20 million": Figures("convert.json", doc_tables.conversion),
    "conversion of 100 million": Figures("convert_100m.json", doc_tables.conversion),
    "stages at scale": Figures("scale.json", doc_tables.scale),
    "settings of the searches": Figures("bench/search.json", doc_tables.settings),
    "surrogate": Figures("bench/search.json", doc_tables.surrogate),
    "coverage on request": Figures("asked.json", doc_tables.asked),
    "surrogate on reference models": Figures("bench/search.json", doc_tables.reference),
    "the evaluated model": Figures("paper.json", doc_tables.evaluated),
    "the paper's table 3": Figures("paper.json", doc_tables.paper_table),
}


def rewritten(page: str, results: Path) -> str:
    """Returns the text of a page with its blocks made anew.

    Args:
      page: the text of the page.
      results: the folder of the JSON files.

    Raises:
      NannError: the name of a block is not in `FIGURES`, or its JSON is not in the form that its benchmark writes.
    """

    def made(block: re.Match[str]) -> str:
        begin, name, _, end = block.groups()
        if name not in FIGURES:
            raise NannError(f"figures are named {name!r}; known are {', '.join(FIGURES)}")
        source = FIGURES[name]
        try:
            return f"{begin}\n{source.text(read_json(results / source.file)).strip()}\n\n{end}"
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise NannError(f"{results / source.file} lacks results that {name!r} needs ({error!r})") from error

    return _BLOCK.sub(made, page)


def write_pages(root: Path) -> list[str]:
    """Writes the figures in all pages of a repository anew; returns the pages that changed.

    Raises:
      NannError: as `rewritten` does, or a page cannot be written.
    """
    changed = []
    for name in PAGES:
        before = (root / name).read_text()
        after = rewritten(before, root / "benchmarks" / "results")
        if after != before:
            with atomic_file(root / name) as path:
                path.write_text(after)
            changed.append(name)
    return changed


def main(root: Annotated[Path, typer.Option(help="The repository.")] = Path()) -> None:
    """Write the figures in all pages anew."""
    outcome("figures", f"{', '.join(write_pages(root)) or 'no page'} changed")


if __name__ == "__main__":
    typer.run(main)
