"""The pipeline that answers all users: workers take parts of the table, and each part becomes one file of answers.

A worker loads the model once, and the index is mapped, so that the processes of a machine share its memory.
"""

import contextlib
import dataclasses
import functools
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.utils.shared import Shared

from export_tools.batch.answers import OUTPUTS, Answer, Answerer
from export_tools.batch.run import BatchOptions, Retrieved
from export_tools.batch.users import ITEM_IDS, ROW, SCORES, Part, Users
from export_tools.manifest import FILE, read_manifest
from tfserving_ext.artifacts import read_json, sha256, write_json
from tfserving_ext.data.rows import cores
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import ANSWERS, check_replaceable
from tfserving_ext.pipelines import run_pipeline
from tfserving_ext.progress import console, progress
from tfserving_ext.serving.models import ModelOptions, Servable, Signature, load_servable
from tfserving_ext.unfinished import Unfinished

FORMAT, FORMAT_VERSION = "nann-answers", 1
_MANIFEST = "manifest.json"
_LOOK_SECONDS = 1.0  # How often the progress looks for new files.


def run(
    saved_model: Path,
    users: str | os.PathLike[str],
    target: Path,
    options: BatchOptions,
    beam_options: Sequence[str],
    force: bool,
) -> Retrieved:
    """Does what `retrieve_all` says."""
    read_manifest(saved_model)
    table = Users(users)
    check_replaceable(target, ANSWERS, force, [saved_model, users])
    identity = _identity(saved_model, table, options)
    where = cores() if _is_here(beam_options) else None
    if not force and _is_there(target, identity):
        return Retrieved(target, table.count, 0, 0.0, where)
    shared = Shared()
    # This process holds the model until the end: workers that are its threads take it from here.
    servable = shared.acquire(functools.partial(_load, saved_model))
    signature = _signature(servable, options.signature)
    table.check(signature, options.signature, options.keep, [] if options.k is None else ["k"])
    parts = table.parts(options.part_users)
    _try_one(parts[0], signature, options)
    work = Unfinished(target, identity, "retrieving", "run")
    try:
        answering = _Answering(saved_model, options, len(parts), work.folder)
        missing = [part for part in parts if not answering.path(part).exists()]
        seconds = _answer(answering, missing, beam_options, shared) if missing else 0.0
        facts = {"saved_model": str(saved_model), "table": str(users), "users": table.count, "parts": len(parts)}
        write_json(
            work.folder / _MANIFEST,
            {"format": FORMAT, "format_version": FORMAT_VERSION, **facts, "answers_of": identity},
        )
        work.put(target)
    except NannError:
        if not any(work.folder.glob("part-*")):
            work.delete()
        raise
    finally:
        work.close()
    return Retrieved(target, table.count, sum(part.rows for part in missing), seconds, where)


def _identity(saved_model: Path, table: Users, options: BatchOptions) -> dict[str, Any]:
    """Returns what must be equal for two runs to give the same files; how many users a call has makes no difference."""
    asked = {**dataclasses.asdict(options), "keep": [*options.keep]}
    del asked["batch"]
    return {"model": sha256(saved_model / FILE), "users": table.identity(), **asked, "format_version": FORMAT_VERSION}


def _is_here(options: Sequence[str]) -> bool:
    """Returns whether a pipeline with these options runs on this machine."""
    return (PipelineOptions([*options]).view_as(StandardOptions).runner or "DirectRunner") == "DirectRunner"


def _is_there(target: Path, identity: dict[str, Any]) -> bool:
    """Returns whether the answers are there.

    Raises:
      NannError: others are.
    """
    if not (target / _MANIFEST).exists():
        return False
    found = read_json(target / _MANIFEST).get("answers_of", {})
    if other := [name for name in identity if found.get(name) != identity[name]]:
        raise NannError(
            f"{target} holds answers that were made with another value of {', '.join(other)}; choose another folder, "
            "or give --force (force=True) to have them replaced"
        )
    return True


def _load(saved_model: Path) -> Servable:
    servable = load_servable(saved_model, ModelOptions(warm_up_runs=0))
    # A worker ends with its model loaded, and signatures that outlive TensorFlow's modules complain on standard error.
    weakref.finalize(servable, servable.signatures.clear)
    return servable


def _signature(servable: Servable, name: str) -> Signature:
    if name not in servable.signatures:
        raise NannError(f"the model has no signature {name!r}; it has {', '.join(sorted(servable.signatures))}")
    signature = servable.signatures[name]
    if missing := [output for output in OUTPUTS if output not in signature.proto.outputs]:
        raise NannError(f"signature {name!r} returns no {missing[0]}, so that it cannot answer; take retrieve")
    return signature


@dataclasses.dataclass(frozen=True)
class _Answering:
    """The state that every worker gets: the model, how users are answered, the number of parts, the folder of files."""

    saved_model: Path
    options: BatchOptions
    parts: int
    folder: Path

    def path(self, part: Part) -> Path:
        return self.folder / f"part-{part.number:05d}-of-{self.parts:05d}.parquet"

    def write(self, part: Part, signature: Signature) -> None:
        """Answers the users of a part and writes their file."""
        rows = part.read()
        answers = _answers(part, rows, signature, self.options)
        path = self.path(part)
        # A runner may run two attempts of a part at the same time: only a complete file gets the final name.
        attempt = self.folder / f".{path.name}.{os.urandom(8).hex()}"
        try:
            _table_of(part, rows.select(self.options.keep), answers).write_parquet(attempt)
            attempt.replace(path)
        except OSError as error:
            raise NannError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            attempt.unlink(missing_ok=True)


def _try_one(part: Part, signature: Signature, options: BatchOptions) -> None:
    """Answers the first user, so that what is wrong with all of them is known before the pipeline starts."""
    first = dataclasses.replace(part, rows=1)
    _answers(first, first.read(), signature, options)


def _answers(part: Part, rows: pl.DataFrame, signature: Signature, options: BatchOptions) -> list[Answer]:
    """Returns the answers of a part's users."""
    wanted = rows.select(name for name in rows.columns if name in signature.proto.inputs)
    users = [{name: value for name, value in row.items() if value is not None} for row in wanted.to_dicts()]
    common = {} if options.k is None else {"k": options.k}
    return Answerer(signature, options.batch, common).answer(users, part.row)


def _table_of(part: Part, kept: pl.DataFrame, answers: Sequence[Answer]) -> pl.DataFrame:
    """Returns the table of a part's answers."""
    first = part.before + part.start
    rows = kept if kept.width else pl.DataFrame({ROW: range(first, first + part.rows)}, schema={ROW: pl.Int64})
    text = answers[0].item_ids.dtype == object
    ids = [[one.decode() for one in answer.item_ids] if text else answer.item_ids.tolist() for answer in answers]
    return rows.with_columns(
        pl.Series(ITEM_IDS, ids, dtype=pl.List(pl.String if text else pl.Int64)),
        pl.Series(SCORES, [answer.scores.tolist() for answer in answers], dtype=pl.List(pl.Float32)),
    )


class _AnswerPart(beam.DoFn):
    """Turns parts into files."""

    def __init__(self, answering: _Answering, shared: Shared) -> None:
        self._answering, self._shared = answering, shared

    def setup(self) -> None:
        self._servable = self._shared.acquire(functools.partial(_load, self._answering.saved_model))

    def process(self, part: Part) -> Iterator[Any]:
        if not self._answering.path(part).exists():  # An earlier attempt may have got as far.
            self._answering.write(part, self._servable.signatures[self._answering.options.signature])
        yield from ()


def _answer(answering: _Answering, parts: list[Part], options: Sequence[str], shared: Shared) -> float:
    """Runs the pipeline, and returns the seconds that it took."""
    if before := answering.parts - len(parts):
        console.print(f"  resuming after {before:,} of {answering.parts:,} files that were finished before")
    begin = time.monotonic()
    with _shown(answering, parts), run_pipeline(options) as pipeline:
        _ = (
            pipeline
            | "parts" >> beam.Create(parts)
            | "spread" >> beam.Reshuffle()
            | "answer" >> beam.ParDo(_AnswerPart(answering, shared))
        )
    return time.monotonic() - begin


@contextlib.contextmanager
def _shown(answering: _Answering, parts: Sequence[Part]) -> Iterator[None]:
    """Shows the progress while the block runs, by the files that there are, whoever makes them."""
    ended = threading.Event()
    begin = time.monotonic()

    def look() -> None:
        missing, done = list(parts), 0
        while missing:
            last = ended.wait(_LOOK_SECONDS)
            names = {path.name for path in answering.folder.glob("part-*.parquet")}
            new = sum(part.rows for part in missing if answering.path(part).name in names)
            missing = [part for part in missing if answering.path(part).name not in names]
            done += new
            if new:
                advance(new, f"{done / (time.monotonic() - begin):,.0f} users a second")
            if last:
                return

    with progress("retrieving (users)", sum(part.rows for part in parts)) as advance:
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
