"""The options of `nann convert` to `nann index`, and of `nann` itself."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.cli.entries import GONE, Command, Option, arguments
from tfserving_ext.data.conversion import convert

_MAPPED = ("--columns", "user=a,item=b,event=c,rating=d")
_ANY = {"translated.*": "files are read by a layout", "convert_behaviors.*": "what was translated is converted"}
_RULES = "convert_behaviors.rules"
CONVERT = Command(
    {"sources": "UserBehavior.csv"},
    {
        "tfserving_ext.data.convert:convert_behaviors": None,
        "tfserving_ext.data.layouts.translation:translated": nullcontext(SimpleNamespace(behaviors="a.parquet")),
        "tfserving_ext.data.original_format:write_original": None,
        "tfserving_ext.data.beam:convert_by_beam": None,
    },
    {
        "tfserving_ext.data.conversion:convert": convert,
        "tfserving_ext.data.sequence_format:read_manifest": {"counts": {"behaviors": 1, "users": 1, "items": 1}},
        "tfserving_ext.artifacts:read_json": {"num_train_samples": 1, "num_item": 1},
    },
    {
        "sources": Option("a.csv b.csv", {"convert_behaviors.sources": [Path("a.csv"), Path("b.csv")]}),
        "out": Option("elsewhere", {"convert_behaviors.target": Path("elsewhere")}),
        "behaviors": Option("buy,cart", {f"{_RULES}.behaviors": ("buy", "cart")}),
        "time_range": Option("3..1970-01-02", {f"{_RULES}.time_range": (3, 86400)}),
        "min_item_count": Option("9", {f"{_RULES}.min_item_count": 9}),
        "min_user_count": Option("8", {f"{_RULES}.min_user_count": 8}),
        "validation": Option("0.25", {f"{_RULES}.validation": 0.25}),
        "test": Option("77", {f"{_RULES}.test": 77}),
        "split": Option("time", {f"{_RULES}.split": "time"}),
        "test_from": Option("1970-01-02", {f"{_RULES}.test_from": 86400}, ("--split", "time")),
        "seed": Option("6", {f"{_RULES}.seed": 6}),
        "memory": Option("2.5", {"convert_behaviors.memory_bytes": 5 << 29}),
        "force": Option(None, {"convert_behaviors.force": True}),
        "columns": Option("user=c,item=d", {"translated.layout.user": "c", "translated.layout.item": "d", **_ANY}),
        "preset": Option("s3rec", {"translated.layout.history": True, **_ANY}),
        "event": Option("a=pv,b=buy", {"translated.layout.events": (("a", "pv"), ("b", "buy"))}, _MAPPED),
        "time_unit": Option("ms", {"translated.layout.time_unit": "ms"}, _MAPPED),
        "min_rating": Option("4", {"translated.layout.min_rating": 4.0}, _MAPPED),
        "separator": Option("tab", {"translated.layout.separator": "\t"}, _MAPPED),
        "layout": Option(
            "original",
            {
                "convert_behaviors": GONE,
                "write_original.data": Path("UserBehavior.csv"),
                "write_original.target": Path("data"),
                "write_original.seed": 0,
                "write_original.force": False,
            },
        ),
        "beam": Option("--runner=A --b", {"convert_by_beam.options": ["--runner=A", "--b"]}, ("--beam", "")),
    },
)
_SYNTH = "synth.config"
SYNTH = Command(
    {},
    {"tfserving_ext.data.synth:synth": 1},
    {},
    {
        "out": Option("other.csv", {"synth.target": Path("other.csv")}),
        "rows": Option("1000", {f"{_SYNTH}.rows": 1000}),
        "users": Option("5000", {f"{_SYNTH}.users": 5000}),
        "items": Option("40", {f"{_SYNTH}.items": 40}),
        "categories": Option("30", {f"{_SYNTH}.categories": 30}),
        "seed": Option("6", {f"{_SYNTH}.seed": 6}),
        "force": Option(None, {"synth.force": True}),
    },
)


def _trained(value: str | None, name: str, changed: Any, *beside: str) -> Option:
    return Option(value, {f"train.recipe.training.{name}": changed}, beside)


_WANTED = "train.recipe"
TRAIN = Command(
    arguments("data"),
    {"tfserving_ext.training:train": {"histories": 1}, "tfserving_ext.models:import_models": None},
    {},
    {
        "data": Option("other", {"train.data": Path("other")}),
        "out": Option("elsewhere", {"train.target": Path("elsewhere")}),
        "model": Option(
            "mine:Model",
            {
                "import_models.module": "mine",
                f"{_WANTED}.model.model_class": "mine:Model",
                f"{_WANTED}.*": "the recipe of such a model",
            },
        ),
        "history_length": Option("60", {f"{_WANTED}.model.history_length": 60}),
        "size": Option("matches=3", {f"{_WANTED}.model.matches": 3}),
        "mask_padding": Option(None, {f"{_WANTED}.model.mask_padding": False}),
        "start_from": Option("trained", {"train.start_from": Path("trained"), f"{_WANTED}.start": None}),
        "start_steps": Option("5", {f"{_WANTED}.start.steps": 5}),
        "force": Option(None, {"train.force": True}),
        "seed": Option("3", {f"{_WANTED}.training.seed": 3, f"{_WANTED}.start.seed": 3}),
        "steps": _trained("7", "steps", 7),
        "batch_size": _trained("9", "batch_size", 9),
        "targets": _trained("4", "targets", 4),
        "loss": _trained("sigmoid", "loss", "sigmoid"),
        "negatives": _trained("12", "negatives", 12),
        "sampler": _trained("log_uniform", "sampler", "log_uniform"),
        "epsilon": _trained("0.7", "epsilon", 0.7),
        "epsilon_scale": _trained("absolute", "epsilon_scale", "absolute"),
        "learning_rate": _trained("0.5", "learning_rate", 0.5),
        "schedule": _trained("linear", "schedule", "linear"),
        "warmup": _trained("13", "warmup", 13),
        "weight_decay": _trained("0.3", "weight_decay", 0.3),
        "clip_norm": _trained("2.5", "clip_norm", 2.5),
        "max_minutes": _trained("8", "max_minutes", 8.0),
        "checkpoint_minutes": Option(
            "3", {f"{_WANTED}.training.checkpoint_minutes": 3.0, f"{_WANTED}.start.checkpoint_minutes": 3.0}
        ),
        "validate_every": _trained("11", "validate_every", 11),
        "validation_cases": _trained("17", "validation_cases", 17),
        "patience": _trained("2", "patience", 2, "--validate-every", "11"),
        "tensorboard": _trained("log", "tensorboard", "log"),
        "mixed_precision": _trained(None, "mixed_precision", True),
        "deterministic": Option(
            None, {f"{_WANTED}.training.deterministic": True, f"{_WANTED}.start.deterministic": True}
        ),
        "xla": _trained(None, "xla", True),
    },
)
EXTRACT = Command(
    arguments("model"),
    {"tfserving_ext.training:extract": (1, 1)},
    {},
    {
        "model": Option("other", {"extract.model": Path("other")}),
        "out": Option("elsewhere", {"extract.target": Path("elsewhere")}),
        "force": Option(None, {"extract.force": True}),
    },
)
INDEX = Command(
    arguments("embeddings"),
    {
        "tfserving_ext.index:build_index": SimpleNamespace(item_ids=(), entry_points=(), manifest={}),
        "tfserving_ext.index:import_original": SimpleNamespace(item_ids=(), entry_points=(), manifest={}),
    },
    {
        "tfserving_ext.index.original:load_array": lambda path: path,
        "tfserving_ext.index.attributes:read_attributes": lambda path, id_column: (path, id_column),
        "tfserving_ext.index.key_table:read_keys": lambda path, item_ids: (path, item_ids),
    },
    {
        "embeddings": Option(
            "other",
            {
                "build_index.item_ids": Path("other/item_ids.npy"),
                "build_index.item_embeddings": Path("other/item_embs.npy"),
            },
        ),
        "out": Option("elsewhere", {"build_index.target": Path("elsewhere")}),
        "m": Option("12", {"build_index.hnsw.m": 12}),
        "ef_construction": Option("99", {"build_index.hnsw.ef_construction": 99}),
        "threads": Option("3", {"build_index.hnsw.threads": 3}),
        "seed": Option("4", {"build_index.hnsw.seed": 4}),
        "dtype": Option("int8", {"build_index.dtype": "int8"}),
        "gpu": Option(None, {"build_index.hnsw.gpu": True}),
        "graph": Option("knn", {"build_index.hnsw.graph": "knn"}),
        "neighbors": Option("17", {"build_index.hnsw.neighbors": 17}, ("--graph", "knn")),
        "force": Option(None, {"build_index.force": True}),
        "original": Option(
            "theirs",
            {
                "build_index": GONE,
                "import_original.index_folder": Path("theirs"),
                "import_original.embeddings_folder": Path("embeddings"),
                "import_original.target": Path("index"),
                "import_original.dtype": "float32",
                "import_original.force": False,
                "import_original.attributes": None,
            },
        ),
        "keys": Option("k.csv", {"build_index.item_ids": (Path("k.csv"), Path("embeddings/item_ids.npy"))}),
        "attributes": Option("a.csv", {"build_index.attributes": (Path("a.csv"), "item_id")}),
        "attribute_id": Option("sku", {"build_index.attributes": (Path("a.csv"), "sku")}, ("--attributes", "a.csv")),
    },
)
# Options before the subcommand. `--traceback` is handled outside Typer; tests/cli/test_options.py tests it.
NANN = Command(
    {},
    {"tfserving_ext.models:import_models": None, "tfserving_ext.training:extract": (1, 1)},
    {},
    {
        "version": Option(None, {"extract": GONE}),
        "traceback": Option(None, {}),
        "modules": Option("mine", {"import_models.module": "mine"}),
    },
)
