"""Converts behaviours to sequences, and sequences to the original's layout and back: what `nann convert` does."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tfserving_ext.data.layouts.layout import Mapped
from tfserving_ext.data.rows import Rules
from tfserving_ext.errors import NannError
from tfserving_ext.extras import require
from tfserving_ext.outputs import SEQUENCES, check_replaceable


def convert(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapped,
    target: str | os.PathLike[str],
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    memory_bytes: int | None = None,
    layout: Literal["sequences", "original"] = "sequences",
    beam: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Converts behaviours to a `nann-sequences` folder, or such a folder to the original's layout.

    Call it again with the same arguments to resume a conversion that was interrupted.

    Example:
      >>> from tfserving_ext.data.rows import Rules
      >>> rules = Rules(min_item_count=2, validation=0.1, test=0.2)
      >>> nann.convert("UserBehavior.csv", "converted", rules).name
      'converted'

    Args:
      sources: files (CSV, plain or in gzip or zip; Parquet) or folders of such files. Their rows are user_id, item_id,
        category_id, behavior_type, timestamp, in any order. Or one folder: of alibaba/nann's TFRecords, or, for the
        layout "original", of sequences. Or `Mapped` files (tfserving_ext.data.layouts.layout), whose layout says which
        column is what; ids that are not whole numbers are numbered, and `user_keys.parquet` and `item_keys.parquet` in
        `target` have the number of each.
      target: the folder to write; it appears whole or not at all, and replaces an earlier conversion.
      rules: what to keep, and how to split users. Of the original's layout, only `seed` may be another than by default:
        it orders the training windows.
      memory_bytes: upper bound of the process's memory, in bytes; 4 GB by default.
      layout: "sequences", or "original" for alibaba/nann's TFRecords, one record per window.
      beam: convert with Apache Beam and these pipeline options, on many machines; [] runs it here.
      force: replace whatever `target` holds.

    Returns:
      `target`.

    Raises:
      NannError: a source is missing or bad (the message names the line), nothing is left, memory does not suffice, or
        an argument does not apply to this conversion.
    """
    if layout not in ("sequences", "original"):
        raise NannError(f"layout is {layout!r}, allowed are 'sequences' and 'original'")
    if isinstance(sources, Mapped):
        return _convert_mapped(sources, target, rules, memory_bytes, (layout, beam), force)
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if layout == "original":
        from tfserving_ext.data.original_format import write_original

        _check_whole(sources, rules, memory_bytes, beam)
        return write_original(sources[0], target, rules.seed, force)
    from tfserving_ext.data.original_windows import convert_original, is_original

    if any(is_original(Path(source)) for source in sources):
        _check_whole(sources, rules, memory_bytes, beam)
        return convert_original(sources[0], target, force)
    if beam is not None:
        _check_no_memory(memory_bytes)
        return _convert_by_beam(sources, target, rules, beam, force)
    return _convert_rows(sources, target, rules, memory_bytes, force)


def _convert_rows(
    sources: list[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    rules: Rules,
    memory_bytes: int | None,
    force: bool,
) -> Path:
    from tfserving_ext.data.convert import MEMORY_BYTES, convert_behaviors
    from tfserving_ext.data.layouts.recognition import suggestion

    memory_bytes = MEMORY_BYTES if memory_bytes is None else memory_bytes
    try:
        return convert_behaviors(sources, target, rules, memory_bytes=memory_bytes, force=force)
    except NannError as error:
        if (hint := suggestion(sources)) is None:
            raise
        raise NannError(f"{error}; {hint}") from error


def _convert_mapped(
    sources: Mapped,
    target: str | os.PathLike[str],
    rules: Rules,
    memory_bytes: int | None,
    by: tuple[str, Sequence[str] | None],
    force: bool,
) -> Path:
    if by != ("sequences", None):
        raise NannError(f"files of another layout are converted to sequences, without Beam: got layout, beam {by}")
    from tfserving_ext.data.convert import MEMORY_BYTES, convert_behaviors
    from tfserving_ext.data.layouts.translation import translated

    memory_bytes = MEMORY_BYTES if memory_bytes is None else memory_bytes
    check_replaceable(target, SEQUENCES, force, [Path(path) for path in sources.paths])
    with translated(sources.paths, sources.layout, target) as made:
        return convert_behaviors(
            made.behaviors, target, rules, memory_bytes=memory_bytes, translation=made, force=force
        )


def _convert_by_beam(
    sources: list[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    rules: Rules,
    options: Sequence[str],
    force: bool,
) -> Path:
    require("beam")
    from tfserving_ext.data.beam import convert_by_beam

    return convert_by_beam(sources, target, rules, options, force=force)


def _check_whole(
    sources: list[str | os.PathLike[str]], rules: Rules, memory_bytes: int | None, beam: Sequence[str] | None
) -> None:
    """Refuses what does not apply to the original's layout."""
    if len(sources) != 1 or rules != Rules(seed=rules.seed):
        raise NannError(
            f"alibaba/nann's TFRecords are read and written whole: got {len(sources)} sources and {rules}; allowed are "
            "one source, and none of the options that drop rows or split users"
        )
    _check_no_memory(memory_bytes)
    if beam is not None:
        raise NannError(f"beam is {list(beam)}, but alibaba/nann's TFRecords are read and written on one machine only")


def _check_no_memory(memory_bytes: int | None) -> None:
    if memory_bytes is not None:
        raise NannError(
            f"memory is {memory_bytes / 2**30:g} GB, but it applies only to conversions of UserBehavior's format on "
            "one machine"
        )
