"""Progress bars and outcome lines, in the same form for every stage.

On a terminal, a bar is redrawn in place. In a log, a line is printed at most every ten seconds.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_WIDTH = 120
console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)

Advance = Callable[..., None]
LOG_SECONDS = 10.0


@contextlib.contextmanager
def progress(description: str, total: float) -> Iterator[Advance]:
    """Shows a progress bar of `total` steps; yields the function `advance(steps=1, note="")`."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total, note="")

            def advance(steps: float = 1, note: str = "") -> None:
                bar.update(task, advance=steps, note=note)

            yield advance
        return

    done, start, shown = 0.0, time.monotonic(), time.monotonic()

    def advance_log(steps: float = 1, note: str = "") -> None:
        nonlocal done, shown
        done += steps
        now = time.monotonic()
        if now - shown >= LOG_SECONDS:
            shown = now
            left = (now - start) * (total - done) / max(done, 1e-9)
            percent = 100 * done / max(total, 1e-9)
            print(f"  {description}: {percent:3.0f} %, about {left:.0f} s left  {note}".rstrip(), flush=True)

    yield advance_log


def outcome(stage: str, text: str) -> None:
    """Prints one line with the outcome of a stage."""
    console.print(f"[bold green]{stage:9}[/] {text}")
    sys.stdout.flush()
