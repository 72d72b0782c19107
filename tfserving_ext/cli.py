"""The command line, `nann`: one subcommand a stage. Each calls one Python function of the same meaning."""

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext import __version__
from tfserving_ext.commands import exporting, serving
from tfserving_ext.commands.options import EfOption, Frontier, K, Out, Pool, RoundsOption, numbers
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

# The functions behind the commands are imported when a command runs: TensorFlow takes seconds, `--help` should not.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`nann demo` runs all stages on real purchases.",
    help="Top-k of millions of items under your own ranking model, served by TensorFlow Serving.",
)


def _share(text: str) -> int | float:
    """A number of users, or a fraction of them."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise NannError(f"got {text!r}, allowed are a number of users (10000) or a fraction (0.1)") from error


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show tracebacks of errors.")] = False,
) -> None:
    del traceback  # Read in main().
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: nann convert UserBehavior.csv -o data --validation 10000 --test 10000")
def convert(
    csv: Annotated[Path, typer.Argument(help="UserBehavior CSV (plain or .gz), without a header.")],
    out: Out = Path("data"),
    min_item_count: Annotated[int, typer.Option(help="Drop items with fewer behaviours.", min=1)] = 5,
    validation: Annotated[str, typer.Option(help="Validation users: a number, or a fraction below 1.")] = "10000",
    test: Annotated[str, typer.Option(help="Test users: a number, or a fraction below 1.")] = "10000",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
) -> None:
    """Convert a UserBehavior CSV into sequences, split by user."""
    from tfserving_ext.data.convert import convert as run
    from tfserving_ext.data.sequences import Sequences

    run(csv, out, min_item_count=min_item_count, validation=_share(validation), test=_share(test), seed=seed)
    counts = Sequences.open(out).counts
    outcome(
        "convert", f"{counts['behaviors']:,} behaviours, {counts['users']:,} users, {counts['items']:,} items: {out}"
    )


class ModelName(str, Enum):
    """The models that can be trained (tfserving_ext/models/registry.py)."""

    nann_attention = "nann_attention"
    two_sided = "two_sided"


@app.command(epilog="Example: nann train data -o model --steps 20000 --epsilon 0.1")
def train(
    data: Annotated[Path, typer.Argument(help="What `nann convert` wrote.")],
    out: Out = Path("model"),
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 6000,
    batch_size: Annotated[int, typer.Option(help="Histories per step.")] = 32,
    targets: Annotated[int, typer.Option(help="Behaviours after each history that count as positives.")] = 20,
    negatives: Annotated[int, typer.Option(help="Sampled negatives per step, shared by the batch.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW; decays by a cosine.")] = 3e-3,
    epsilon: Annotated[float, typer.Option(help="FGSM step relative to the embeddings' scale; 0 for none.")] = 0.1,
    mask_padding: Annotated[bool, typer.Option(help="Keep padding out of the attention.")] = True,
    seed: Annotated[int, typer.Option(help="Of weights, batches and negatives.")] = 0,
    model: Annotated[ModelName, typer.Option(help="Which model.")] = ModelName.nann_attention,
    start_from: Annotated[
        Path | None, typer.Option(help="A model of the same items whose item embeddings are the start.")
    ] = None,
) -> None:
    """Train a model. Called again after an interruption, it resumes."""
    from tfserving_ext.models import model_named
    from tfserving_ext.training import TrainingConfig
    from tfserving_ext.training import train as run

    config = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        targets=targets,
        negatives=negatives,
        learning_rate=learning_rate,
        epsilon=epsilon,
        seed=seed,
    )
    report = run(data, out, config, model_named(model.value).config_type(mask_padding=mask_padding), start_from)
    outcome("train", f"{report['histories']:,} histories: {out}")


@app.command(epilog="Example: nann extract model -o embeddings")
def extract(
    model: Annotated[Path, typer.Argument(help="What `nann train` wrote.")], out: Out = Path("embeddings")
) -> None:
    """Write item_ids.npy and item_embs.npy of a trained model."""
    from tfserving_ext.training import extract as run

    n, dim = run(model, out)
    outcome("extract", f"{n:,} embeddings of width {dim}: {out}")


class TableType(str, Enum):
    """How an index holds its embeddings."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@app.command(epilog="Example: nann index embeddings -o index --m 32 --ef-construction 40")
def index(
    embeddings: Annotated[Path, typer.Argument(help="A folder with item_ids.npy and item_embs.npy.")],
    out: Out = Path("index"),
    m: Annotated[int, typer.Option(help="Neighbours per item in upper layers, twice as many at the ground.")] = 32,
    ef_construction: Annotated[int, typer.Option(help="Breadth of the search while building.")] = 40,
    threads: Annotated[int | None, typer.Option(help="Threads; 1 gives the same graph every time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the layers that items are drawn into.")] = 12345,
    dtype: Annotated[TableType, typer.Option(help="How to hold the embeddings.")] = TableType.float32,
    original: Annotated[
        Path | None, typer.Option(help="Take the graph from this folder of the original's .npy files instead.")
    ] = None,
) -> None:
    """Build the HNSW index with Faiss, or import one of the original's."""
    from tfserving_ext.index import build_index, read_original, write_index
    from tfserving_ext.index.original import load_array

    if original is not None:
        item_ids, item_embeddings, entry_points, layers = read_original(original, embeddings)
        source = {"imported_from": "alibaba/nann"}
        made = write_index(out, item_ids, item_embeddings, entry_points, layers, source, dtype.value)
    else:
        arrays = load_array(embeddings / "item_ids.npy"), load_array(embeddings / "item_embs.npy")
        made = build_index(*arrays, out, m, ef_construction, threads, seed, dtype.value)
    outcome("index", f"{len(made.item_ids):,} items, {len(made.entry_points):,} entry points: {out}")


class SearchName(str, Enum):
    """The searches that can be measured."""

    best_first = "best_first"
    rounds = "rounds"


@app.command(epilog="Example: nann evaluate data model index -o evaluation.json --positions 9")
def evaluate(
    data: Annotated[Path, typer.Argument(help="What `nann convert` wrote.")],
    model: Annotated[Path, typer.Argument(help="What `nann train` wrote.")],
    index: Annotated[Path, typer.Argument(help="What `nann index` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the figures.")] = None,
    k: K = 200,
    search: Annotated[list[SearchName] | None, typer.Option(help="Measure this one; all by default.")] = None,
    frontier: Frontier = 16,
    pool: Pool = 200,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    positions: Annotated[int, typer.Option(help="Test cases per user; 1 is the middle of the history.", min=1)] = 1,
    max_cases: Annotated[int | None, typer.Option(help="Evaluate this many cases only.", min=1)] = None,
    brute_force: Annotated[bool, typer.Option("--brute-force", help="Recall by brute force alone.")] = False,
) -> None:
    """Measure recall, coverage and the scored fraction on held-out users."""
    from tfserving_ext.retrieval import BestFirst, Rounds
    from tfserving_ext.retrieval.evaluate import evaluate as run
    from tfserving_ext.retrieval.evaluate import summary

    searches: dict[str, BestFirst | Rounds] = {
        "best_first": BestFirst(frontier, pool),
        "rounds": Rounds(numbers("--ef", ef), numbers("--rounds", rounds)),
    }
    wanted = [] if brute_force else [name.value for name in search or SearchName]
    figures = run(data, model, index, out, {name: searches[name] for name in wanted}, k, positions, max_cases)
    outcome("evaluate", summary(figures))


exporting.add_to(app)
serving.add_to(app)


@app.command(epilog="Example: nann demo --folder demo")
def demo(
    folder: Annotated[Path, typer.Option(help="Where all artefacts go; finished stages in it are reused.")] = Path(
        "demo"
    ),
    steps: Annotated[int | None, typer.Option(help="Training steps; the default takes about five minutes.")] = None,
    serve_forever: Annotated[bool, typer.Option("--keep-serving", help="Go on serving at the end.")] = False,
) -> None:
    """Run all stages on real purchases (Complete Journey), and ask for recommendations."""
    from tfserving_ext.demo import run_demo

    run_demo(folder, steps, serve_forever)


def main() -> None:
    """Entry point: errors that a user can act on are one line on standard error and exit status 1."""
    # TensorFlow's own log says "error" where a machine merely has no GPU; what goes wrong here raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        app()
    except SystemExit as ending:
        if ending.code == 130:  # Ctrl-C, for which Typer has no words.
            print("interrupted; nothing is half written, and a training resumes", file=sys.stderr)
        raise
    except (NannError, ImportError, OSError) as error:
        if "--traceback" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
