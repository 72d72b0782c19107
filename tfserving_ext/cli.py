"""The command line, `nann`: one subcommand a stage. Each calls one Python function of the same meaning."""

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext import __version__
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


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise NannError(
            f"{name} is {text!r}, it must be whole numbers with commas between, such as 100,200,400"
        ) from error


def _share(text: str) -> int | float:
    """A number of users, or a fraction of them."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise NannError(f"got {text!r}, allowed are a number of users (10000) or a fraction (0.1)") from error


Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write; an existing one is replaced.")]
Frontier = Annotated[int, typer.Option(help="Best-first search: items expanded per step.", min=1)]
Pool = Annotated[int, typer.Option(help="Best-first search: scored items that are kept; at least k.", min=1)]
EfOption = Annotated[str, typer.Option(help="The paper's search: beam width per layer, start layer first.")]
RoundsOption = Annotated[str, typer.Option(help="The paper's search: rounds per layer, start layer first.")]
K = Annotated[int, typer.Option("-k", "--k", help="Length of the answers.", min=1)]


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
        "rounds": Rounds(_numbers("--ef", ef), _numbers("--rounds", rounds)),
    }
    wanted = [] if brute_force else [name.value for name in search or SearchName]
    figures = run(data, model, index, out, {name: searches[name] for name in wanted}, k, positions, max_cases)
    outcome("evaluate", summary(figures))


_EXPORT_EXAMPLES = """Example: nann export model index -o models/nann/1

nann export ranker.keras index --seeds item_history -o models/ranker/1

nann export my_models:ranker index -o models/ranker/1

nann export --reuse-model models/nann/1 index -o models/nann/2"""


@app.command(epilog=_EXPORT_EXAMPLES)
def export(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] INDEX",
            help="MODEL: what `nann train` wrote, a SavedModel with functions user and score, a .keras archive, "
            "alibaba/nann's folder with frozen_graph.pb, or MODULE:NAME. INDEX: what `nann index` wrote, or "
            "alibaba/nann's folder of .npy files.",
        ),
    ],
    out: Out = Path("models/nann/1"),
    k: K = 200,
    frontier: Frontier = 16,
    pool: Pool = 200,
    ef: EfOption = "100,200,400",
    rounds: RoundsOption = "1,1,3",
    seeds: Annotated[str | None, typer.Option(help="The model's feature that holds the user's own item ids.")] = None,
    item_input: Annotated[str, typer.Option(help="The input of a .keras archive for the item embedding.")] = "",
    embeddings: Annotated[
        Path | None, typer.Option(help="Where item_ids.npy and item_embs.npy of alibaba/nann's INDEX lie.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON of figures to keep in the manifest.")] = None,
    graphs: Annotated[Path | None, typer.Option(help="Also write the GraphDefs of all functions here.")] = None,
    reuse_model: Annotated[
        Path | None, typer.Option(help="Take the model from this export, and INDEX in place of its index.")
    ] = None,
) -> None:
    """Write one SavedModel with the index as assets; the options are what requests may leave out."""
    from export_tools import Defaults
    from export_tools import export as run
    from export_tools import reuse as run_reuse
    from tfserving_ext.retrieval import BestFirst, Rounds

    wanted = 1 if reuse_model is not None else 2
    if len(arguments) != wanted:
        raise NannError(
            f"{len(arguments)} arguments were given, allowed are MODEL INDEX, or INDEX alone with --reuse-model"
        )
    if reuse_model is not None:
        run_reuse(reuse_model, arguments[0], out, evaluation)
    else:
        paper = Rounds(_numbers("--ef", ef), _numbers("--rounds", rounds))
        run(
            arguments[0],
            arguments[1],
            out,
            Defaults(k, BestFirst(frontier, pool), paper),
            seeds=seeds,
            item_input=item_input,
            embeddings=embeddings,
            evaluation=evaluation,
            graphs=graphs,
        )
    outcome("export", f"{out}")


@app.command(epilog="Example: nann verify models/nann/1")
def verify(
    saved_model: Annotated[Path, typer.Argument(help="What `nann export` wrote, or any SavedModel.")],
    least_coverage: Annotated[
        float, typer.Option(help="Refuse less, of made-up users against brute force.", min=0, max=1)
    ] = 0.5,
) -> None:
    """Check a SavedModel in a fresh process: checksums, warm-up records, signatures, answers against brute force."""
    from export_tools import verify as run

    found = run(saved_model, least_coverage)
    for name, outputs in found["signatures"].items():
        shapes = ", ".join(f"{key} {value['dtype']} {value['shape']}" for key, value in outputs.items())
        outcome("verify", f"{name}: {shapes}")
    place = "on a read-only file system" if found["read_only"] else "in a fresh process"
    outcome("verify", f"{found['warm_up_records']} warm-up records replayed {place}")
    if "coverage" in found:
        outcome("verify", f"{found['files']} checksums, coverage {found['coverage']:.3f} of brute force")


@app.command(epilog="Example: nann inspect models/nann/1")
def inspect(
    saved_model: Annotated[Path, typer.Argument(help="What `nann export` wrote, or any SavedModel.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what is in a SavedModel: sizes, signatures, search parameters, where it came from. Nothing in it is run."""
    import json

    from export_tools import inspect as run
    from export_tools.inspect import summary

    found = run(saved_model)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    outcome("inspect", f"{saved_model}")
    print(summary(found))


@app.command(epilog="Example: nann serve models/nann --port 8500 --rest-api-port 8501")
def serve(
    base_path: Annotated[Path, typer.Argument(help="A folder of versions, such as models/nann with 1/ in it.")],
    name: Annotated[str, typer.Option(help="The model's name in requests.")] = "nann",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="gRPC port; 8500, or a free one where it is taken.")] = None,
    rest_api_port: Annotated[int | None, typer.Option(help="REST port; 8501, or a free one.")] = None,
) -> None:
    """Serve a SavedModel with TensorFlow Serving's API, for development."""
    from tfserving_ext.serving.server import run_forever

    run_forever(name, base_path, host=host, grpc_port=port, rest_port=rest_api_port)


@app.command(epilog="Example: nann smoke 127.0.0.1:8500")
def smoke(
    target: Annotated[str, typer.Argument(help="HOST:PORT of the gRPC port.")] = "127.0.0.1:8500",
    name: Annotated[str, typer.Option(help="The model's name.")] = "nann",
) -> None:
    """Send the original's smoke request to a running server."""
    from tfserving_ext.serving.client import smoke as run

    answer = run(target, name)
    outcome("smoke", f"top_k {answer.dtype} {list(answer.shape)}, first ids {answer.ravel()[:5].tolist()}")


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
