"""Shared by the commands of the benchmarks: options, errors, and the summary, printed as JSON in the last line."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

Folder = Annotated[Path, typer.Option("--folder", help="A demo's folder (`make demo`).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Raw JSON.")]


@contextlib.contextmanager
def measuring(out: Path | None = None) -> Iterator[None]:
    """Makes the folder of `out`, has TensorFlow log errors only, and ends the program with a NannError's message."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except NannError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def print_summary(summary: Mapping[str, Any], out: Path | None = None) -> None:
    """Prints where the raw figures are, and the summary as JSON."""
    if out is not None:
        console.print(f"raw figures: {out}")
    print(json.dumps(summary))
