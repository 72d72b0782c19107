"""Writes docs/performance.md from the JSON of the benchmarks; the same JSON gives the same page.

python -m benchmarks.suite.performance --results benchmarks/results/bench
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.suite.page_tables import table
from benchmarks.suite.parts import PARTS, Part
from tfserving_ext.artifacts import atomic_file, read_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

PAGE, RESULTS = Path("docs/performance.md"), Path("benchmarks/results/bench")
RUN = "run.json"  # The record of a run, which `make bench` keeps with the parts' JSON.
MUCH_OTHER_WORK = 0.1  # If other processes used a larger part of all cores, a part's section says so.
HEAD = """<!-- Written by `make bench`; do not edit. -->

# Performance

`make bench` measures all of this in one run and writes this page. Its parts are the quick forms of the benchmarks that
[benchmarks/README.md](../benchmarks/README.md) explains, with the results of their full runs. Compare ratios within a
part, as machines differ and are shared.
"""


def write_page(results: Path, page: Path, parts: Sequence[Part] = PARTS) -> None:
    """Writes the page, whole or not at all; see `make_page`.

    Raises:
      NannError: as `make_page` does, or the page cannot be written.
    """
    text = make_page(results, parts)
    with atomic_file(page) as path:
        path.write_text(text)


def make_page(results: Path, parts: Sequence[Part] = PARTS) -> str:
    """Returns the page, in Markdown.

    Args:
      results: folder with a JSON file for each part that was measured, and perhaps `RUN`.
      parts: all parts, in the page's order.

    Raises:
      NannError: a file is not JSON, or not in the form that its benchmark writes.
    """
    run = read_json(results / RUN) if (results / RUN).exists() else {}
    found = {part.name: read_json(path) for part in parts if (path := results / f"{part.name}.json").exists()}
    pieces = [HEAD]
    try:
        pieces.append(_demo(run))
        took = {name: (one["seconds"], one.get("other_work")) for name, one in run.get("parts", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NannError(f"{results / RUN} is not what `make bench` writes ({error!r}); run it again") from error
    for part in parts:
        if part.name not in found:
            continue
        try:
            pieces.append(_section(part, found[part.name], took.get(part.name, (None, None))))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            path = results / f"{part.name}.json"
            raise NannError(f"{path} is not what `{part.command}` writes ({error!r}); measure it again") from error
    pieces.append(_not_measured([part for part in parts if part.name not in found]))
    pieces.insert(1, _origins(found))
    return "\n".join(piece for piece in pieces if piece)


def _section(part: Part, figures: Mapping[str, Any], took: tuple[float | None, float | None]) -> str:
    """Returns the section of a part; numbers that are missing or None are left out."""
    seconds, others = took
    summary = figures["summary"]
    names = part.figures or {name: name.replace("_", " ") for name in summary}
    rows = [[words, summary[name]] for name, words in names.items() if _is_plain(summary.get(name))]
    facts = [f"`{part.command}`" if figures.get("quick", True) else f"`{part.command.replace(' QUICK=1', '')}`"]
    facts += [f"{figures['date'][:10]}"] if "date" in figures else []
    facts += [f"took {seconds:,.0f} s"] if seconds is not None else []
    pieces = [f"## {part.title}\n", f"{', '.join(facts)}; raw figures in `{part.name}.json`.\n"]
    if others is not None and others > MUCH_OTHER_WORK:
        pieces.append(
            f"**Other work used {100 * others:.0f} % of the cores in the meantime, so these figures are rough.**\n"
        )
    pieces += [table(["figure", "value"], rows)] if rows else []
    pieces += [part.tables(figures)] if part.tables else []
    return "\n".join(pieces)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _demo(run: Mapping[str, Any]) -> str:
    """Returns a paragraph on the demo's model, which the parts measure."""
    demo = run.get("demo")
    if not demo:
        return ""
    made = "" if demo["seconds"] is None else f" Making it took {demo['seconds']:,.0f} s."
    scored = f"{100 * demo['scored_fraction']:.1f} %"
    return (
        f"The demo's model: {demo['items']:,} products, recall@{demo['k']} by brute force {demo['recall_all']:.4f}; "
        f"the default search covers {demo['coverage']:.4f} of it and scores {scored} of the products.{made}\n"
    )


def _origins(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the section on machine, versions and commit, for each group of parts that share them."""
    groups: dict[str, list[str]] = {}
    for name, figures in found.items():
        key = json.dumps({key: figures.get(key) for key in ("machine", "versions", "commit")})
        groups.setdefault(key, []).append(name)
    pieces = ["## The machine\n"] if groups else []
    for key, names in groups.items():
        facts = json.loads(key)
        if len(groups) > 1:
            pieces.append(f"For {', '.join(names)}:\n")
        rows = [[name.replace("_", " "), _joined(value)] for name, value in (facts["machine"] or {}).items()]
        versions = ", ".join(f"{name} {value}" for name, value in (facts["versions"] or {}).items())
        rows += [["versions", versions or "not recorded"], ["commit", facts["commit"] or "not recorded"]]
        pieces.append(table(["", ""], rows))
    return "\n".join(pieces)


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _not_measured(parts: Sequence[Part]) -> str:
    lines = [f"- {part.title}: `{part.command}`\n" for part in parts]
    return "## Not measured\n\n" + "".join(lines) if lines else ""


def main(
    results: Annotated[Path, typer.Option(help="Folder of the parts' JSON.")] = RESULTS,
    page: Annotated[Path, typer.Option(help="Markdown file to write.")] = PAGE,
) -> None:
    """Write the page of all benchmarks from their JSON.

    Example: python -m benchmarks.suite.performance --results benchmarks/out --page performance.md
    """
    try:
        write_page(results, page)
    except NannError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    console.print(f"{page}, from {results}")


if __name__ == "__main__":
    typer.run(main)
