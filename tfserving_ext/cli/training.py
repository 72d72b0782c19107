"""`nann train`, `nann extract` and `nann index`: from data to an index."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tfserving_ext.cli.options import Force, Out
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

if TYPE_CHECKING:
    import numpy as np

    from tfserving_ext.index import KeyedIds

_TRAIN_EXAMPLES = """Example: nann train data -o model

nann train data -o model --max-minutes 60 --validate-every 500 --patience 4 --tensorboard logs

nann train data -o two_sided --model two_sided

nann train data -o model --start-from two_sided --epsilon 0.03

nann train data -o model --model my_module:MyModel --steps 20000"""
_INDEX_EXAMPLES = """Example: nann index embeddings -o index --m 32 --ef-construction 40

nann index embeddings -o index --graph knn --neighbors 32

nann index embeddings -o index --attributes items.parquet

nann index embeddings -o index --keys data/item_keys.parquet"""
_LOSS, _OPTIMIZER, _RUN = "Loss", "Optimizer", "Run"
_OWN = "depends on the model"


def _sized(usual: Any, model: str, sizes: list[str], changed: dict[str, Any]) -> Any:
    """Returns the model's usual configuration with the given changes."""
    values = {name: value for name, value in changed.items() if value is not None}
    known = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    numbers = {name: value for name, value in known.items() if type(value) in (int, bool)}
    for size in sizes:
        name, _, text = size.partition("=")
        if name not in numbers or not text.isdecimal():
            raise NannError(
                f"--size is {size!r}; allowed is NAME=NUMBER with a number from 0, where NAME for {model} is one of "
                f"{', '.join(numbers)}"
            )
        values[name] = type(numbers[name])(int(text))
    return dataclasses.replace(usual, **values)


def train(
    data: Annotated[Path, typer.Argument(help="Output of `nann convert`.")],
    out: Out = Path("model"),
    model: Annotated[
        str, typer.Option(help="nann_attention, dnn, two_sided, or your own: my_module:MyModel.")
    ] = "nann_attention",
    history_length: Annotated[
        int | None, typer.Option(help="Length of the histories, in behaviours.", min=1, show_default=_OWN)
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Set a size of the model's configuration: NAME=NUMBER, such as embedding_dim=64; may be repeated."
        ),
    ] = None,
    mask_padding: Annotated[bool | None, typer.Option(help="Mask padding in the attention.")] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Start from this trained model of the same items instead of training one first."),
    ] = None,
    start_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of the two-sided model that is trained first as the start; 0 for none.",
            min=0,
            show_default=f"{_OWN}: 8000 for nann_attention and dnn",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and negatives.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default=_OWN)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Histories per step.", show_default=_OWN)] = None,
    targets: Annotated[
        int | None, typer.Option(help="Behaviours after each history that count as positives.", show_default=_OWN)
    ] = None,
    loss: Annotated[
        Literal["softmax", "sigmoid"],
        typer.Option(help="Loss over the positive and the negatives.", rich_help_panel=_LOSS),
    ] = "softmax",
    negatives: Annotated[
        int | None,
        typer.Option(help="Sampled negatives per step, shared by the batch.", rich_help_panel=_LOSS, show_default=_OWN),
    ] = None,
    sampler: Annotated[
        Literal["unigram", "log_uniform"],
        typer.Option(
            help="Sample negatives by how often items appear, or by their popularity rank.", rich_help_panel=_LOSS
        ),
    ] = "unigram",
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Length of the FGSM step; 0 for no adversarial loss.", rich_help_panel=_LOSS, show_default=_OWN
        ),
    ] = None,
    epsilon_scale: Annotated[
        Literal["relative", "absolute"],
        typer.Option(
            help="Epsilon is relative to the embeddings' root mean square, or absolute.", rich_help_panel=_LOSS
        ),
    ] = "relative",
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of AdamW.", rich_help_panel=_OPTIMIZER, show_default=_OWN)
    ] = None,
    schedule: Annotated[
        Literal["cosine", "linear", "constant"],
        typer.Option(help="Decay of the learning rate; cosine and linear end at zero.", rich_help_panel=_OPTIMIZER),
    ] = "cosine",
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Steps in which the learning rate rises from zero.", rich_help_panel=_OPTIMIZER, show_default=_OWN
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.", rich_help_panel=_OPTIMIZER)] = 1e-4,
    clip_norm: Annotated[
        float,
        typer.Option(help="Clip the gradients to this norm; 0 for no limit.", rich_help_panel=_OPTIMIZER),
    ] = 0.0,
    max_minutes: Annotated[
        float,
        typer.Option(
            help="End training, the start included, after this many minutes, and its schedule too; 0 for no limit.",
            rich_help_panel=_RUN,
        ),
    ] = 0.0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.", rich_help_panel=_RUN)] = 0.5,
    validate_every: Annotated[
        int, typer.Option(help="Steps between validations; 0 for none.", rich_help_panel=_RUN)
    ] = 0,
    validation_cases: Annotated[int, typer.Option(help="Cases in each validation.", rich_help_panel=_RUN)] = 200,
    patience: Annotated[
        int,
        typer.Option(
            help="End after this many validations without a better recall; 0 for never.", rich_help_panel=_RUN
        ),
    ] = 0,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for a TensorBoard log.", rich_help_panel=_RUN)
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Compute dense layers in bfloat16.", rich_help_panel=_RUN)
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Give bit-identical results on GPUs too; slower.", rich_help_panel=_RUN),
    ] = False,
    xla: Annotated[
        bool, typer.Option("--xla", help="Compile the training step with XLA.", rich_help_panel=_RUN)
    ] = False,
    force: Force = False,
) -> None:
    """Train a model. Run the same command again after an interruption to resume.

    Options that are not given take the model's own defaults (docs/training.md). A deep model starts from a two-sided
    one, which is trained first. All GPUs of the machine are used; with TF_CONFIG, several machines.
    """
    from tfserving_ext.models import import_models
    from tfserving_ext.training import Recipe, recipe
    from tfserving_ext.training import train as run

    if ":" in model:
        import_models(model.partition(":")[0])
    usual = recipe(model)
    shared: dict[str, Any] = {"seed": seed, "deterministic": deterministic, "checkpoint_minutes": checkpoint_minutes}
    asked: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "targets": targets,
        "negatives": negatives,
        "learning_rate": learning_rate,
        "epsilon": epsilon,
        "warmup": warmup,
    }
    training = dataclasses.replace(
        usual.training,
        **shared,
        **{name: value for name, value in asked.items() if value is not None},
        weight_decay=weight_decay,
        loss=loss,
        sampler=sampler,
        epsilon_scale=epsilon_scale,
        schedule=schedule,
        clip_norm=clip_norm,
        mixed_precision=mixed_precision,
        xla=xla,
        max_minutes=max_minutes,
        validate_every=validate_every,
        validation_cases=validation_cases,
        patience=patience,
        tensorboard="" if tensorboard is None else str(tensorboard),
    )
    start = usual.start
    if start_from is not None and start_steps:
        raise NannError(f"--start-steps is {start_steps}, but --start-from names a trained start; give only one")
    if start is None and start_steps:
        raise NannError(f"--start-steps is {start_steps}, but {model} is trained without a start")
    if start is not None:
        wanted_steps = start.steps if start_steps is None else start_steps
        no_start = start_from is not None or wanted_steps == 0
        start = None if no_start else dataclasses.replace(start, steps=wanted_steps, **shared)
    changed = {"history_length": history_length, "mask_padding": mask_padding}
    sizes = _sized(usual.model, model, size or [], changed)
    report = run(data, out, Recipe(sizes, training, start), start_from, force)
    outcome("train", f"{report['histories']:,} histories: {out}")


def extract(
    model: Annotated[Path, typer.Argument(help="Output of `nann train`.")],
    out: Out = Path("embeddings"),
    force: Force = False,
) -> None:
    """Write the item ids and embeddings of a trained model, item_ids.npy and item_embs.npy."""
    from tfserving_ext.training import extract as run

    n, dim = run(model, out, force)
    outcome("extract", f"{n:,} embeddings of width {dim}: {out}")


def index(
    embeddings: Annotated[Path, typer.Argument(help="A folder with item_ids.npy and item_embs.npy.")],
    out: Out = Path("index"),
    m: Annotated[
        int, typer.Option(help="Neighbours per item in the upper layers; the ground layer has twice as many.")
    ] = 32,
    ef_construction: Annotated[int, typer.Option(help="Beam width of the search during the build.")] = 40,
    threads: Annotated[
        int | None, typer.Option(help="Threads for the build; with 1 the graph is reproducible.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items' layers.")] = 12345,
    dtype: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Type of the stored embeddings.")
    ] = "float32",
    gpu: Annotated[bool, typer.Option("--gpu", help="Build on a GPU with CAGRA; requires faiss-gpu-cuvs.")] = False,
    graph: Annotated[
        Literal["hnsw", "knn"],
        typer.Option(
            help="The ground layer: HNSW's, or each item's nearest neighbours, linked both ways, for which a search "
            "usually scores fewer items and the build takes longer."
        ),
    ] = "hnsw",
    neighbors: Annotated[
        int | None, typer.Option(help="Nearest neighbours per item with --graph knn.", show_default="32")
    ] = None,
    original: Annotated[
        Path | None, typer.Option(help="Import the graph from this folder of alibaba/nann's .npy files instead.")
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(help="A .parquet or .csv table of the items' attributes, by which searches can filter."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv table of the text that stands for each item id in requests and answers, columns "
            "id and key, such as item_keys.parquet of `nann convert`."
        ),
    ] = None,
    attribute_id: Annotated[str, typer.Option(help="The column of --attributes with the items' ids.")] = "item_id",
    force: Force = False,
) -> None:
    """Build the graph with Faiss, or import one of alibaba/nann."""
    from tfserving_ext.index import Hnsw, build_index, import_original
    from tfserving_ext.index.attribute_file import attribute_facts
    from tfserving_ext.index.original import load_array
    from tfserving_ext.index.reach import graph_facts
    from tfserving_ext.outputs import INDEX, check_replaceable

    check_replaceable(out, INDEX, force, [embeddings, original, attributes, keys])
    table = None
    if attributes is not None:
        from tfserving_ext.index.attributes import read_attributes

        table = read_attributes(attributes, attribute_id)
    if original is not None and keys is not None:
        raise NannError("--keys and --original cannot be given together: an imported graph keeps its integer ids")
    if original is not None:
        made = import_original(original, embeddings, out, dtype, force, table)
    else:
        hnsw = Hnsw(m, ef_construction, threads, seed, gpu, graph, neighbors)
        ids, vectors = load_array(embeddings / "item_ids.npy"), load_array(embeddings / "item_embs.npy")
        made = build_index(ids if keys is None else _keyed(keys, ids), vectors, out, hnsw, dtype, force, table)
    outcome("index", f"{len(made.item_ids):,} items, {len(made.entry_points):,} entry points: {out}")
    for line in graph_facts(made.manifest) + attribute_facts(made.manifest):
        outcome("index", line)


def _keyed(keys: Path, item_ids: "np.ndarray") -> "KeyedIds":
    """Reads `--keys`, which needs Polars."""
    from tfserving_ext.index.key_table import read_keys

    return read_keys(keys, item_ids)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    app.command(epilog=_TRAIN_EXAMPLES)(train)
    app.command(epilog="Example: nann extract model -o embeddings")(extract)
    app.command(epilog=_INDEX_EXAMPLES)(index)
