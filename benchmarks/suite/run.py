"""`make bench`: measures every part in a process of its own, then writes docs/performance.md.

If a part fails, the others are still measured; the failed part is named at the end, and the exit status is 1. Parts
that an interrupted or failed run has measured are not measured again by the next run of the same commit on the same
machine.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.processes import OtherWork
from benchmarks.suite.doc_figures import PAGES, write_pages
from benchmarks.suite.parts import PARTS, Part
from benchmarks.suite.performance import PAGE, RESULTS, RUN, make_page
from tfserving_ext.artifacts import atomic_file, read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, outcome

OUT = Path("benchmarks/out/bench")
DEMO_FILES = ("evaluation.json", "models/nann/1/saved_model.pb")  # The demo is complete if both of them exist.


class Suite:
    """One run of the parts, with its record in `run.json`.

    Attributes:
      failed: names of the parts that failed, in order.
    """

    def __init__(
        self, demo: Path, out: Path, parts: Sequence[Part] = PARTS, only: Sequence[str] = (), again: bool = False
    ) -> None:
        """Continues the run in the folder, or begins a new one.

        Args:
          demo: the demo's folder; the demo is made if it does not exist.
          out: folder for the parts' JSON and the record.
          parts: all parts, in order.
          only: names of the only parts to measure, even if they have been measured; all by default.
          again: also measure parts that an interrupted or failed run has measured.

        Raises:
          NannError: `only` has a name that no part has.
        """
        names = [part.name for part in parts]
        unknown = sorted(set(only) - set(names))
        if unknown:
            raise NannError(f"there is no part {', '.join(unknown)}; the parts are {', '.join(names)}")
        self._demo, self._out, self._parts = demo, out, parts
        self._chosen = [part for part in parts if not only or part.name in only]
        self.failed: list[str] = []
        self._begin = time.monotonic()
        origin = {name: value for name, value in provenance().items() if name != "date"}
        before = _record_of(out)
        goes_on = not again and not only and not before["complete"] and _same(before, origin)
        wanted = set() if goes_on else {part.name for part in self._chosen}
        self._record: dict[str, Any] = {
            **origin,
            "complete": False,
            "demo": before["demo"],
            "parts": {name: one for name, one in before["parts"].items() if name not in wanted},
        }

    def run(self) -> None:
        """Makes the demo and measures the parts that are not measured yet; goes on if one fails."""
        self._out.mkdir(parents=True, exist_ok=True)
        stages = len(self._chosen) + 1
        self._announce(1, stages, "demo", "the demo's model, which the parts measure")
        has_demo = self._make_demo()
        write_json(self._out / RUN, self._record)
        for number, part in enumerate(self._chosen, 2):
            self._announce(number, stages, part.name, part.title)
            if part.needs_demo and not has_demo:
                outcome(part.name, "not measured: there is no demo's model")
                self._target(part).unlink(missing_ok=True)
                self.failed.append(part.name)
            else:
                self._measure(part)
        self._record["complete"] = all(part.name in self._record["parts"] for part in self._parts)
        write_json(self._out / RUN, self._record)

    def publish(self, results: Path, page: Path) -> None:
        """Copies the JSON to `results`, replacing that of an earlier run, and writes the page.

        Raises:
          NannError: a part's JSON is not in the form that its benchmark writes, or a file cannot be written.
        """
        text = make_page(self._out, self._parts)  # Made before anything is replaced, as it may fail.
        try:
            results.mkdir(parents=True, exist_ok=True)
            for name in (RUN, *(f"{part.name}.json" for part in self._parts)):
                (results / name).unlink(missing_ok=True)
                if (self._out / name).exists():
                    shutil.copyfile(self._out / name, results / name)
            with atomic_file(page) as path:
                path.write_text(text)
        except OSError as error:
            raise NannError(f"cannot write to {results}: {error}") from error

    def summary(self) -> list[str]:
        """Returns a line for each part: whether it failed, and how long it took."""
        spent = self._record["parts"]
        spent_or_failed = {name: f"{one['seconds']:,.0f} s" for name, one in spent.items()} | dict.fromkeys(
            self.failed, "FAILED"
        )
        return [f"{part.name:12} {spent_or_failed.get(part.name, 'not measured')}" for part in self._parts]

    def _target(self, part: Part) -> Path:
        return self._out / f"{part.name}.json"

    def _announce(self, number: int, stages: int, name: str, title: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        console.print(f"\n[bold]\\[{number}/{stages}] {name}[/]: {title} ({minutes}:{seconds:02} so far)")

    def _make_demo(self) -> bool:
        if not all((self._demo / name).exists() for name in DEMO_FILES):
            begin = time.monotonic()
            nann = Path(sys.executable).with_name("nann")
            if subprocess.run([str(nann), "demo", "--folder", str(self._demo)], check=False).returncode:
                outcome("demo", f"failed after {time.monotonic() - begin:,.0f} s")
                self.failed.append("demo")
                return False
            self._record["demo"] = {"seconds": round(time.monotonic() - begin, 1)}
        # The time is that of the run that made the demo, perhaps an earlier one.
        seconds = (self._record["demo"] or {}).get("seconds")
        self._record["demo"] = {"seconds": seconds, **_facts(self._demo / DEMO_FILES[0])}
        outcome("demo", f"{self._demo}" + ("" if seconds is None else f", made in {seconds:,.0f} s"))
        return True

    def _measure(self, part: Part) -> None:
        target = self._target(part)
        if part.name in self._record["parts"] and target.exists():
            outcome(part.name, f"measured before, by a run that did not finish: {target}")
            return
        self._record["parts"].pop(part.name, None)
        target.unlink(missing_ok=True)
        folder = ["--folder", str(self._demo)] if part.needs_demo else []
        command = [sys.executable, "-m", f"benchmarks.{part.module}", *folder, *part.options]
        begin, others = time.monotonic(), OtherWork()
        status = subprocess.run([*command, "--out", str(target)], check=False).returncode
        seconds = round(time.monotonic() - begin, 1)
        if status or not target.exists():
            outcome(part.name, f"failed after {seconds:,.0f} s with exit status {status}; its output is above")
            target.unlink(missing_ok=True)
            self.failed.append(part.name)
            return
        share = others.share()
        self._record["parts"][part.name] = {
            "seconds": seconds,
            "other_work": None if share is None else round(share, 3),
        }
        write_json(self._out / RUN, self._record)
        outcome(part.name, f"{seconds:,.0f} s: {target}")


def _record_of(out: Path) -> Mapping[str, Any]:
    """Returns the record of the previous run, or an empty one if there is none that can be read."""
    nothing: dict[str, Any] = {"complete": True, "demo": None, "parts": {}}
    try:
        found = read_json(out / RUN)
    except NannError:
        return nothing
    return found if isinstance(found, dict) and set(nothing) <= set(found) else nothing


def _same(record: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    """Returns whether a recorded run used the same code, as far as git can tell, on the same machine."""
    commit = origin["commit"]
    known = bool(commit) and not commit.endswith("-dirty")
    return known and all(record.get(name) == value for name, value in origin.items())


def _facts(evaluation: Path) -> dict[str, Any]:
    """Returns the facts about the demo's model that the page shows."""
    figures = read_json(evaluation)
    search = figures["searches"]["surrogate"]
    kept = {name: figures[name] for name in ("k", "items", "recall_all")}
    return kept | {name: search[name] for name in ("coverage", "scored_fraction")}


def main(
    demo: Annotated[Path, typer.Option("--folder", help="The demo's folder; made if it does not exist.")] = Path(
        "demo"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for raw JSON.")] = OUT,
    results: Annotated[Path, typer.Option(help="Folder to which the JSON is copied at the end.")] = RESULTS,
    page: Annotated[Path, typer.Option(help="The page to write.")] = PAGE,
    only: Annotated[list[str] | None, typer.Option(help="Measure only this part; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also measure parts that an earlier run measured.")] = False,
) -> None:
    """Measure everything and write docs/performance.md.

    Example: python -m benchmarks.suite.run --folder demo --again
    """
    begin = time.monotonic()
    try:
        suite = Suite(demo, out, only=only or (), again=again)
        suite.run()
        suite.publish(results, page)
        if results == RESULTS and Path(PAGES[0]).exists():
            write_pages(Path())  # Other pages show some of these figures too.
    except KeyboardInterrupt:  # The record already has each part that ended.
        print(f"interrupted; what is measured stays in {out}", file=sys.stderr)
        raise SystemExit(130) from None
    except NannError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    console.print("\n" + "\n".join(suite.summary()), markup=False)
    console.print(f"{(time.monotonic() - begin) / 60:.0f} minutes; page: {page}, raw figures: {results}")
    if suite.failed:
        print(f"failed: {', '.join(suite.failed)}; the page has the figures of the others", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
