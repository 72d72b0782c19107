"""`nann convert` and `nann synth`: convert behaviours to sequences for training, and make up behaviours."""

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tfserving_ext.cli.options import Force, Out, beam_options
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

if TYPE_CHECKING:
    from tfserving_ext.data.layouts.layout import Mapped

_CONVERT_EXAMPLES = """Example: nann convert UserBehavior.csv.zip -o data --time-range 2017-11-25..2017-12-04

nann convert ml-25m.zip -o data --preset movielens --min-rating 4

nann convert clicks.jsonl -o data --columns user=visitor,item=sku,time=ts,event=kind --event view=pv,order=buy

nann convert parts/ more.parquet -o data --behaviors buy,cart --validation 0.1 --test 0.1 --memory 2

nann convert ml-25m.zip -o data --preset movielens --split time --test-from 2018-01-01

nann convert data -o original --layout original    (and back: nann convert original -o data)

nann convert /shared/parts -o /shared/data --beam '--runner=FlinkRunner --flink_master=flink:8081'"""

# The names of `PRESETS`, which a command cannot import for its help: `nann --help` works without the extra [train].
_PRESETS = "movielens, retailrocket, yoochoose, tmall, tianchi, taobao-ad, amazon, amazon-2023, gowalla, recbole, s3rec"


def _share(option: str, text: str | None) -> int | float | None:
    """Parses a number of users, or a fraction of them."""
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise NannError(f"{option} is {text!r}, allowed are a number of users (10000) or a fraction (0.1)") from error


def _mapped(
    sources: list[Path],
    preset: str | None,
    columns: str | None,
    event: str | None,
    values: tuple[str | None, float | None, str | None],
) -> "list[Path] | Mapped":
    """Returns the sources with the layout that the options say, or alone if there are none.

    Args:
      sources: the files and folders.
      preset: the name of a known layout.
      columns: NAME=COLUMN, separated by commas.
      event: VALUE=BEHAVIOUR, separated by commas.
      values: unit of time, lowest rating, and separator.
    """
    from tfserving_ext.data.layouts.layout import Mapped, make_layout, parse_pairs
    from tfserving_ext.data.layouts.presets import PRESETS

    if all(given is None for given in (preset, columns, event, *values)):
        return sources
    if preset is not None and preset not in PRESETS:
        raise NannError(f"--preset is {preset!r}; allowed are {', '.join(PRESETS)}")
    layout = make_layout(
        None if preset is None else PRESETS[preset],
        None if columns is None else parse_pairs("--columns", columns),
        None if event is None else tuple(parse_pairs("--event", event).items()),
        *values,
    )
    return Mapped(sources, layout)


def _time_range(text: str) -> tuple[int, int]:
    """Parses FIRST..LAST to unix seconds; both are unix seconds or ISO 8601 times, in UTC if they have no zone."""
    first, _, last = text.partition("..")
    try:
        seconds = [int(part) if part.lstrip("-").isdecimal() else _seconds(part) for part in (first, last)]
    except ValueError as error:
        raise NannError(
            f"--time-range is {text!r}; allowed is FIRST..LAST, each in unix seconds or as an ISO 8601 time, such as "
            f"2017-11-25..2017-12-03T23:59:59+08:00"
        ) from error
    return seconds[0], seconds[1]


def _test_from(text: str, chosen: "list[Path] | Mapped") -> int:
    """Parses the moment of a split to unix seconds: an ISO 8601 time, or a number in the unit of the sources' times."""
    from tfserving_ext.data.layouts.layout import Mapped
    from tfserving_ext.data.layouts.times import parse_time

    if isinstance(chosen, Mapped):
        seconds = parse_time(text, chosen.layout.time_unit)
    else:
        seconds = int(text) if text.lstrip("-").isdecimal() else parse_time(text, None)
    if seconds is None:
        raise NannError(
            f"--test-from is {text!r}; allowed are an ISO 8601 time, such as 2023-11-01 or 2023-11-01T08:00:00Z, and a "
            "number in the unit of the file's times"
        )
    return seconds


def _seconds(text: str) -> int:
    time = datetime.fromisoformat(text)
    return int((time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp())


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Files (CSV: plain, .gz, .zip; Parquet) or folders of them, in UserBehavior's format; with --columns "
            "or --preset, in another one, or JSON lines; or a folder of alibaba/nann's TFRecords."
        ),
    ],
    out: Out = Path("data"),
    preset: Annotated[str | None, typer.Option(help=f"The layout of the files: {_PRESETS}.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Which column is what: user=COLUMN,item=COLUMN and, where there are any, category, event, time and "
            "rating. A column is its name or, without a header, its number from 1."
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(help="The events to keep, and what they count as: view=pv,order=buy (pv, buy, cart or fav)."),
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="s, ms, us or ns since 1970, or mmdd; by default told by the values.")
    ] = None,
    min_rating: Annotated[float | None, typer.Option(help="Drop rows with a lower rating.")] = None,
    separator: Annotated[
        str | None,
        typer.Option(help="Between the fields of a line: a character, or tab; by default told by the first line."),
    ] = None,
    behaviors: Annotated[
        str, typer.Option(help="Kinds of behaviours to keep, separated by commas.")
    ] = "pv,buy,cart,fav",
    time_range: Annotated[
        str | None, typer.Option(help="Keep only rows within FIRST..LAST, in unix seconds or as ISO 8601 times.")
    ] = None,
    min_item_count: Annotated[int, typer.Option(help="Drop items with fewer behaviours.", min=1)] = 5,
    min_user_count: Annotated[int, typer.Option(help="Drop users with fewer behaviours.", min=1)] = 2,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Validation users: a number, or a fraction below 1.", show_default="10000, or a tenth if that is fewer"
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Test users: a number, or a fraction below 1. With --split time: the last fraction of the behaviours.",
            show_default="10000, or a tenth if that is fewer; by time a tenth",
        ),
    ] = None,
    split: Annotated[
        Literal["user", "time"],
        typer.Option(
            help="user: hold out users. time: train on what happened before a moment, and test what happened from then "
            "on; items and their counts come from before it."
        ),
    ] = "user",
    test_from: Annotated[
        str | None,
        typer.Option(help="The moment of --split time: an ISO 8601 time, or a number in the unit of the file's times."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.", min=0)] = 0,
    memory: Annotated[float | None, typer.Option(help="Memory to use at most, in GB.", min=1, show_default="4")] = None,
    layout: Annotated[
        Literal["sequences", "original"],
        typer.Option(help="original: write converted data as alibaba/nann's TFRecords, one record per window."),
    ] = "sequences",
    beam: Annotated[
        str | None,
        typer.Option(help="Convert with Apache Beam and these pipeline options, on many machines; '' runs it here."),
    ] = None,
    force: Force = False,
) -> None:
    """Convert behaviours to sequences, split by user or time. Run it again after an interruption to resume.

    A row is user_id,item_id,category_id,behavior_type,timestamp. While it runs, it takes about as much additional disk
    space as the CSV.
    """
    from tfserving_ext.artifacts import read_json
    from tfserving_ext.data.conversion import convert as run
    from tfserving_ext.data.original_format import META_NAME
    from tfserving_ext.data.rows import Rules
    from tfserving_ext.data.sequence_format import read_manifest

    chosen = _mapped(sources, preset, columns, event, (time_unit, min_rating, separator))
    rules = Rules(
        min_item_count=min_item_count,
        min_user_count=min_user_count,
        behaviors=tuple(behaviors.split(",")),
        time_range=None if time_range is None else _time_range(time_range),
        validation=_share("--validation", validation),
        test=_share("--test", test),
        seed=seed,
        split=split,
        test_from=None if test_from is None else _test_from(test_from, chosen),
    )
    options = None if beam is None else beam_options(beam)
    memory_bytes = None if memory is None else int(memory * 2**30)
    run(chosen, out, rules, memory_bytes=memory_bytes, layout=layout, beam=options, force=force)
    if layout == "original":
        meta = read_json(out / META_NAME)
        outcome("convert", f"{meta['num_train_samples']:,} training windows, {meta['num_item']:,} items: {out}")
        return
    manifest = read_manifest(out)
    counts = manifest["counts"]
    rules_dropped = {**manifest.get("layout", {}).get("rows_dropped", {}), **counts.get("rows_dropped", {})}
    dropped = ", ".join(f"{count:,} by {rule}" for rule, count in rules_dropped.items() if count)
    if items_dropped := counts.get("items_dropped"):
        dropped += f" ({items_dropped:,} items with fewer than {min_item_count} rows)"
    outcome(
        "convert",
        f"{counts['behaviors']:,} behaviours, {counts['users']:,} users, {counts['items']:,} items: {out}"
        + (f"\n          dropped rows: {dropped}" if dropped else "")
        + _told_split(manifest),
    )


def _told_split(manifest: dict[str, Any]) -> str:
    """Returns the line about a split by time; empty if the data are split by user."""
    if (split := manifest.get("time_split")) is None:
        return ""
    return (
        f"\n          the test begins at {split['test_from']}: {split['behaviors_tested']:,} behaviours; not in it are "
        f"{manifest['counts']['rows_dropped']['unknown_item']:,} rows of items without enough rows before "
        f"({split['new_items']:,} items appear only from then on)"
    )


def synth(
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV file to write; .gz compresses it.")] = Path(
        "UserBehavior.csv"
    ),
    rows: Annotated[
        int, typer.Option(help="Number of behaviours; by default as many as UserBehavior has.")
    ] = 100_150_807,
    users: Annotated[int | None, typer.Option(help="Approximate number of users; rows / 101 by default.")] = None,
    items: Annotated[
        int | None, typer.Option(help="Largest number of items; by default it grows with the square root of the rows.")
    ] = None,
    categories: Annotated[
        int | None, typer.Option(help="Number of categories; by default it grows with the square root of the rows.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all draws.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Make up behaviours in the shape of UserBehavior, to measure speed and memory at scale, never accuracy."""
    from tfserving_ext.data.synth import SynthConfig
    from tfserving_ext.data.synth import synth as run

    config = SynthConfig(rows, users, items, categories, seed)
    made = run(out, config, force)
    outcome("synth", f"{rows:,} behaviours of {made:,} users, {out.stat().st_size / 1e6:,.0f} MB: {out}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(epilog=_CONVERT_EXAMPLES)(convert)
    app.command(epilog="Example: nann synth -o small.csv --rows 1000000 --items 50000 --seed 1")(synth)
