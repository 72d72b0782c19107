"""`nann upsert`, `nann delete`, `nann compact`: the items of a model change while it is served."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext.progress import outcome

_Model = Annotated[
    Path, typer.Argument(help="An exported model: the folder of its versions, such as models/nann, or one version.")
]
_Deltas = Annotated[Path, typer.Argument(help="The folder of deltas that the servers follow.")]
# Every search scores each item that is in no graph; so many take a millisecond or more.
MANY = 4096


def upsert(
    model: _Model,
    deltas: _Deltas,
    items: Annotated[
        Path,
        typer.Argument(help="A .parquet or .csv table with a row per item: its id, embedding and attributes."),
    ],
    item_id: Annotated[str, typer.Option(help="The column with the items' ids.")] = "item_id",
    embedding: Annotated[
        str, typer.Option(help="The column with the items' embeddings, lists of floats; without it, they stay.")
    ] = "embedding",
    ranker: Annotated[
        Path | None,
        typer.Option(
            help="The .keras archive or SavedModel that the model was exported from with a table of its items: it "
            "computes the embeddings from the same columns."
        ),
    ] = None,
) -> None:
    """Add items to a served model, or change their embeddings and attributes."""
    from export_tools.updates import upsert as run

    made = run(model, deltas, items, item_id, embedding, ranker)
    outcome("upsert", f"{made.items:,} items: update {made.sequence} of {made.model}")
    if made.unindexed > MANY:
        outcome(
            "upsert",
            f"every search scores {made.unindexed:,} items that are new or have another embedding; above {MANY:,} it "
            "gets slow: fold them into a new version by `nann compact`",
        )


def delete(
    model: _Model,
    deltas: _Deltas,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of items; or one .parquet or .csv table with a column of them.")
    ],
    item_id: Annotated[str, typer.Option(help="The column with the ids in a table.")] = "item_id",
) -> None:
    """Delete items from a served model."""
    from export_tools.updates import delete as run

    given: Any = ids[0]
    if len(ids) > 1 or Path(ids[0]).suffix not in (".parquet", ".csv"):
        given = ids
    made = run(model, deltas, given, item_id)
    outcome("delete", f"{made.items:,} ids: update {made.sequence} of {made.model}")


def compact(
    model: _Model,
    deltas: _Deltas,
    index: Annotated[
        Path | None,
        typer.Argument(
            help="The index that the newest version was exported with. Only needed where the scorer is folded, as the "
            "export then has no embeddings."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the new index.")] = Path("index"),
    threads: Annotated[
        int | None, typer.Option(help="Threads for building the graph; with 1 it is reproducible.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace whatever OUT holds.")] = False,
) -> None:
    """Fold the updates of a served model into a new index and a new version."""
    from export_tools.compact import compact as run

    made = run(model, deltas, out, index, threads=threads, force=force)
    outcome(
        "compact", f"{made.items:,} items, {made.updates:,} updates folded in, {made.carried:,} carried: {made.model}"
    )
    if made.removed:
        outcome("compact", f"removed the updates of {made.removed} versions that are gone")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(
        epilog="Example: nann upsert models/nann deltas items.parquet\n\n"
        "nann upsert models/shop deltas new_items.parquet --ranker ranker.keras"
    )(upsert)
    app.command(
        epilog="Example: nann delete models/nann deltas 1001 1002\n\nnann delete models/nann deltas gone.parquet"
    )(delete)
    app.command(epilog="Example: nann compact models/nann deltas index -o index_2")(compact)
