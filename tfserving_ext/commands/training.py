"""`nann train`, `nann extract` and `nann index`: from data to an index."""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext.commands.options import Out
from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome


class Loss(str, Enum):
    """The losses over sampled negatives."""

    softmax = "softmax"
    sigmoid = "sigmoid"


class SamplerName(str, Enum):
    """Where negatives come from."""

    unigram = "unigram"
    log_uniform = "log_uniform"


class EpsilonScale(str, Enum):
    """What epsilon is measured in."""

    relative = "relative"
    absolute = "absolute"


class Schedule(str, Enum):
    """How the learning rate goes to its end."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


_TRAIN_EXAMPLES = """Example: nann train data -o model --steps 20000 --epsilon 0.1

nann train data -o two_sided --model two_sided --steps 2500 --batch-size 128 --negatives 500 --learning-rate 0.01

nann train data -o model --start-from two_sided --size matches=8 --size pools=8 --history-length 200 --targets 2

nann train data -o model --model my_module:MyModel --validate-every 500 --patience 4 --tensorboard logs"""
_LOSS, _OPTIMIZER, _RUN = "Loss", "Optimizer", "Run"


def _model_config(model: str, sizes: list[str], mask_padding: bool, history_length: int | None) -> Any:
    """The sizes of the model that `--model` names."""
    from tfserving_ext.models import ForeignConfig, import_models, model_named

    foreign = ":" in model
    if foreign:
        import_models(model.partition(":")[0])
    kind = ForeignConfig if foreign else model_named(model).config_type
    known = {field.name: getattr(kind, field.name) for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {"mask_padding": mask_padding} | ({"model_class": model} if foreign else {})
    if history_length is not None:
        values["history_length"] = history_length
    for size in sizes:
        name, _, text = size.partition("=")
        numbers = {name: value for name, value in known.items() if type(value) in (int, bool)}
        if name not in numbers or not text.isdecimal():
            raise NannError(f"--size is {size!r}; allowed are a number from 0 for {', '.join(numbers)} of {model}")
        values[name] = type(numbers[name])(int(text))
    return kind(**values)


def train(
    data: Annotated[Path, typer.Argument(help="What `nann convert` wrote.")],
    out: Out = Path("model"),
    model: Annotated[
        str, typer.Option(help="nann_attention, dnn, two_sided, or your own: my_module:MyModel.")
    ] = "nann_attention",
    history_length: Annotated[
        int | None, typer.Option(help="Behaviours that the user consists of; the model's own by default.", min=1)
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER, of the model's configuration: matches=8, embedding_dim=64.")
    ] = None,
    mask_padding: Annotated[bool, typer.Option(help="Keep padding out of the attention.")] = True,
    start_from: Annotated[
        Path | None, typer.Option(help="A model of the same items whose item embeddings are the start.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches and negatives.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 6000,
    batch_size: Annotated[int, typer.Option(help="Histories per step.")] = 32,
    targets: Annotated[int, typer.Option(help="Behaviours after each history that count as positives.")] = 20,
    loss: Annotated[Loss, typer.Option(help="Over positive and negatives.", rich_help_panel=_LOSS)] = Loss.softmax,
    negatives: Annotated[
        int, typer.Option(help="Sampled negatives per step, shared by the batch.", rich_help_panel=_LOSS)
    ] = 100,
    sampler: Annotated[
        SamplerName, typer.Option(help="By how often items appear, or by their rank in that.", rich_help_panel=_LOSS)
    ] = SamplerName.unigram,
    epsilon: Annotated[float, typer.Option(help="Length of the FGSM step; 0 for none.", rich_help_panel=_LOSS)] = 0.1,
    epsilon_scale: Annotated[
        EpsilonScale, typer.Option(help="To the embeddings' root mean square, or not.", rich_help_panel=_LOSS)
    ] = EpsilonScale.relative,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_OPTIMIZER)] = 3e-3,
    schedule: Annotated[
        Schedule, typer.Option(help="Of the learning rate, to zero but for constant.", rich_help_panel=_OPTIMIZER)
    ] = Schedule.cosine,
    warmup: Annotated[
        int, typer.Option(help="Steps in which the learning rate grows.", rich_help_panel=_OPTIMIZER)
    ] = 0,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_OPTIMIZER)] = 1e-4,
    clip_norm: Annotated[
        float,
        typer.Option(help="Most that the gradients' norm may be; 0 for no limit.", rich_help_panel=_OPTIMIZER),
    ] = 0.0,
    max_minutes: Annotated[
        float, typer.Option(help="End after so many minutes, the schedule too; 0 for no limit.", rich_help_panel=_RUN)
    ] = 0.0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.", rich_help_panel=_RUN)] = 0.5,
    validate_every: Annotated[
        int, typer.Option(help="Steps between validations; 0 for none.", rich_help_panel=_RUN)
    ] = 0,
    validation_cases: Annotated[int, typer.Option(help="Cases of a validation.", rich_help_panel=_RUN)] = 200,
    patience: Annotated[
        int, typer.Option(help="End after so many validations without a better recall.", rich_help_panel=_RUN)
    ] = 0,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder of a log for TensorBoard.", rich_help_panel=_RUN)
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Dense layers in bfloat16.", rich_help_panel=_RUN)
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits every time on GPUs too, slower.", rich_help_panel=_RUN),
    ] = False,
    xla: Annotated[bool, typer.Option("--xla", help="Compile the step by XLA.", rich_help_panel=_RUN)] = False,
) -> None:
    """Train a model. Called again after an interruption, it resumes.

    All GPUs of the machine are used; with TF_CONFIG, several machines.
    """
    from tfserving_ext.training import TrainingConfig
    from tfserving_ext.training import train as run

    config = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        targets=targets,
        negatives=negatives,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        epsilon=epsilon,
        seed=seed,
        loss=loss.value,
        sampler=sampler.value,
        epsilon_scale=epsilon_scale.value,
        schedule=schedule.value,
        warmup=warmup,
        clip_norm=clip_norm,
        mixed_precision=mixed_precision,
        xla=xla,
        deterministic=deterministic,
        max_minutes=max_minutes,
        checkpoint_minutes=checkpoint_minutes,
        validate_every=validate_every,
        validation_cases=validation_cases,
        patience=patience,
        tensorboard="" if tensorboard is None else str(tensorboard),
    )
    report = run(data, out, config, _model_config(model, size or [], mask_padding, history_length), start_from)
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
    gpu: Annotated[bool, typer.Option("--gpu", help="Build on a GPU by CAGRA; needs faiss-gpu-cuvs.")] = False,
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
        made = build_index(*arrays, out, m, ef_construction, threads, seed, dtype.value, gpu)
    outcome("index", f"{len(made.item_ids):,} items, {len(made.entry_points):,} entry points: {out}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=_TRAIN_EXAMPLES)(train)
    app.command(epilog="Example: nann extract model -o embeddings")(extract)
    app.command(epilog="Example: nann index embeddings -o index --m 32 --ef-construction 40")(index)
