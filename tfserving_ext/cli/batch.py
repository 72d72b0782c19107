"""`nann retrieve-all`: the top k of every user of a table."""

from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.cli.options import Force, beam_options
from tfserving_ext.progress import outcome

_MODEL = "nann retrieve-all models/nann/1 users.parquet -o answers -k 100 --keep user_id"
_SHARED = "nann retrieve-all /shared/models/nann/1 /shared/users -o /shared/answers --keep user_id"
_EXAMPLES = f"""Example: {_MODEL}

{_MODEL} --beam '--direct_num_workers=0 --direct_running_mode=multi_processing'

{_SHARED} --beam '--runner=FlinkRunner --flink_master=flink:8081'"""


def retrieve_all(
    saved_model: Annotated[Path, typer.Argument(help="Output of `nann export`.")],
    users: Annotated[
        Path,
        typer.Argument(
            help="The inputs of one user in each row, by name: Parquet, JSON, JSON lines, or a folder of Parquet files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the answers.")] = Path("answers"),
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="Number of items for each user.", min=1, show_default="the model's")
    ] = None,
    signature: Annotated[str, typer.Option("--signature", "--search", help="The signature that answers.")] = "retrieve",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            "--id",
            help="Carry this column to the answers; may be repeated. Without it, `row` tells the users apart.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Users in each call of the model.", min=1, max=1024)] = 64,
    part_users: Annotated[int, typer.Option(help="Users in each file of answers.", min=1)] = 4096,
    beam: Annotated[str, typer.Option(help="Options of Apache Beam's pipeline; '' runs it here.")] = "",
    force: Force = False,
) -> None:
    """Write the top k of every user. Run the same command again after an interruption to resume."""
    from export_tools.batch import BatchOptions
    from export_tools.batch import retrieve_all as run

    options = BatchOptions(k, signature, tuple(keep or ()), batch, part_users)
    outcome("retrieve", str(run(saved_model, users, out, options, tuple(beam_options(beam)), force)))


def add_to(app: typer.Typer) -> None:
    """Adds the command to `nann`."""
    app.command("retrieve-all", epilog=_EXAMPLES)(retrieve_all)
