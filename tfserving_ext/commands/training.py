"""`nann train`, `nann extract` and `nann index`: from data to an index."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.commands.options import Out
from tfserving_ext.progress import outcome


class ModelName(str, Enum):
    """The models that can be trained (tfserving_ext/models/registry.py)."""

    nann_attention = "nann_attention"
    two_sided = "two_sided"


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


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: nann train data -o model --steps 20000 --epsilon 0.1")(train)
    app.command(epilog="Example: nann extract model -o embeddings")(extract)
    app.command(epilog="Example: nann index embeddings -o index --m 32 --ef-construction 40")(index)
