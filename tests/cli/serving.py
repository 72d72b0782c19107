"""The options of `nann export`, `verify`, `inspect`, `explain`, `serve`, `smoke`, `retrieve-all` and `demo`."""

from pathlib import Path
from types import SimpleNamespace

from export_tools.batch import Retrieved
from tests.cli.entries import GONE, Command, Option, search
from tfserving_ext.serving.recommendation import Recommendation
from tfserving_ext.serving.request_log import log_json

_WITH_ITEMS = ("model", "--items", "a.parquet"), ("arguments",)
EXPORT = Command(
    {"arguments": "model index"},
    {"export_tools:export": None, "export_tools:reuse": None, "export_tools.cut:explain_cut": "text"},
    {},
    {
        "arguments": Option("a b", {"export.model": Path("a"), "export.index": Path("b")}),
        "out": Option("elsewhere", {"export.target": Path("elsewhere")}),
        "k": Option("30", {"export.defaults.k": 30}),
        "search": Option("surrogate", {"export.defaults.search": "surrogate"}),
        **search("export", "defaults.{}"),
        "coverage": Option("0.98", {"export.defaults.coverage": 0.98}),
        "seeds": Option("history", {"export.source.seeds": "history"}),
        "item_input": Option("vector", {"export.source.item_input": "vector"}),
        "output": Option("click", {"export.source.output": "click"}),
        "objective": Option("buy=5", {"export.source.objectives.buy": 5.0}),
        "feature_default": Option("hour=12", {"export.source.defaults.hour": "12"}),
        "feature": Option("age=user/age", {"export.source.rename.age": "user/age"}),
        "embeddings": Option("vectors", {"export.options.embeddings": Path("vectors")}),
        "evaluation": Option("figures.json", {"export.options.evaluation": Path("figures.json")}),
        "graphs": Option("drawn", {"export.options.graphs": Path("drawn")}),
        "rewrite": Option(None, {"export.options.rewrite": False}),
        "fold_items": Option(None, {"export.options.fold_items": False}),
        "measure": Option(None, {"export.options.measure": False}),
        "assume": Option("plain", {"export.options.assume": "plain"}),
        "allow_non_finite": Option("age", {"export.options.allow_non_finite": ["age"]}),
        "items": Option(
            "b.csv",
            {"export.index.table": Path("b.csv")},
            ("model", "--items", "a.parquet"),
            ("arguments",),
        ),
        "item_id": Option("sku", {"export.index.id_column": "sku"}, *_WITH_ITEMS),
        "item_column": Option("kind=category", {"export.index.columns.kind": "category"}, *_WITH_ITEMS),
        "user_input": Option("price", {"export.index.user_inputs": ("price",)}, *_WITH_ITEMS),
        "embedding": Option("tower", {"export.index.embedding": "tower"}, *_WITH_ITEMS),
        "filter_by": Option("price,kind", {"export.index.filter_by": ["price", "kind"]}, *_WITH_ITEMS),
        "explain_cut": Option(
            None,
            {
                "export": GONE,
                "explain_cut.path": Path("model"),
                "explain_cut.items.table": Path("a.parquet"),
                "explain_cut.*": "the cut is shown, and nothing exported",
            },
            *_WITH_ITEMS,
        ),
        "force": Option(None, {"export.force": True}),
        "reuse_model": Option(
            "models/2", {"reuse.exported": Path("models/2")}, ("--reuse-model", "models/1", "index"), ("arguments",)
        ),
    },
)
VERIFY = Command(
    {"saved_model": "models/1"},
    {"export_tools:verify": {"signatures": {}, "read_only": True, "warm_up_records": 1}},
    {},
    {
        "saved_model": Option("models/2", {"verify.saved_model": Path("models/2")}),
        "least_coverage": Option("0.75", {"verify.least_coverage": 0.75}),
    },
)
INSPECT = Command(
    {"saved_model": "models/1"},
    {"export_tools:inspect": {"found": 1}, "export_tools.inspect:summary": ""},
    {},
    {
        "saved_model": Option("models/2", {"inspect.saved_model": Path("models/2")}),
        "as_json": Option(None, {"summary": GONE}),
    },
)
EXPLAIN = Command(
    {"saved_model": "models/1"},
    {"export_tools:explain": SimpleNamespace(facts=dict), "export_tools.graphs.tables:summary": ""},
    {},
    {
        "saved_model": Option("models/2", {"explain.saved_model": Path("models/2")}),
        "output": Option("drawn.html", {"explain.output": Path("drawn.html")}),
        "as_json": Option(None, {"summary": GONE}),
        "top": Option("3", {"explain.top": 3, "summary.top": 3}),
        "items": Option("512", {"explain.items": 512}),
        "batch": Option("64", {"explain.batch": 64}),
        "fold_items": Option(None, {"explain.fold_items": True}),
    },
)
_OPTIONS = "run_forever.options"
SERVE = Command(
    {"base_path": "models/nann"},
    {"tfserving_ext.serving.server:run_forever": None},
    {
        "tfserving_ext.serving.text_protos:read_metrics_path": lambda path: f"path of {path}",
        "tfserving_ext.serving.text_protos:read_tls": lambda path: f"keys of {path}",
        "tfserving_ext.serving.session_config:session_config": lambda *given: given,
    },
    {
        "base_path": Option("other", {"run_forever.models.nann": Path("other")}),
        "name": Option("other", {"run_forever.models.nann": GONE, "run_forever.models.other": Path("models/nann")}),
        "model_base_path": Option(
            "other", {"run_forever.models.nann": Path("other")}, ("--model-base-path", "models/nann"), ("base_path",)
        ),
        "model_config_file": Option(
            "models.config",
            {
                "run_forever.models.nann": GONE,
                "run_forever.models.a.base_path": Path("/b"),
                "run_forever.models.a.*": "what the file says besides",
                f"{_OPTIONS}.config_file": Path("models.config"),
            },
            (),
            ("base_path",),
        ),
        "model_config_file_poll_wait_seconds": Option(
            "9", {f"{_OPTIONS}.config_poll_seconds": 9.0}, ("--model-config-file", "models.config"), ("base_path",)
        ),
        "grpc_socket_path": Option("a/socket", {f"{_OPTIONS}.grpc.socket_path": "a/socket"}),
        "grpc_channel_arguments": Option("a=1,b=c", {f"{_OPTIONS}.grpc.channel_arguments": (("a", 1), ("b", "c"))}),
        "rest_api_num_threads": Option("3", {f"{_OPTIONS}.rest.threads": 3}),
        "rest_api_max_queue": Option("4", {f"{_OPTIONS}.rest.queue": 4}),
        "rest_api_timeout_in_ms": Option("500", {f"{_OPTIONS}.rest.timeout_seconds": 0.5}),
        "rest_api_enable_cors_support": Option(None, {f"{_OPTIONS}.rest.cors": True}),
        "rest_api_tls": Option(
            None, {f"{_OPTIONS}.rest.tls": "keys of tls.config"}, ("--ssl-config-file", "tls.config")
        ),
        "saved_model_tags": Option("serve,gpu", {f"{_OPTIONS}.model.tags": ("serve", "gpu")}),
        "enable_model_warmup": Option(None, {f"{_OPTIONS}.model.warm_up_runs": 0}),
        "num_request_iterations_for_warmup": Option("3", {f"{_OPTIONS}.model.warm_up_runs": 3}),
        "tensorflow_session_config_file": Option(
            "session", {f"{_OPTIONS}.model.session": (Path("session"), 0, 0, 0, 0.0)}
        ),
        "tensorflow_session_parallelism": Option("2", {f"{_OPTIONS}.model.session": (None, 2, 0, 0, 0.0)}),
        "tensorflow_intra_op_parallelism": Option("2", {f"{_OPTIONS}.model.session": (None, 0, 2, 0, 0.0)}),
        "tensorflow_inter_op_parallelism": Option("2", {f"{_OPTIONS}.model.session": (None, 0, 0, 2, 0.0)}),
        "per_process_gpu_memory_fraction": Option("0.5", {f"{_OPTIONS}.model.session": (None, 0, 0, 0, 0.5)}),
        "enable_signature_method_name_check": Option(None, {f"{_OPTIONS}.check_methods": True}),
        "enable_serialization_as_tensor_content": Option(None, {f"{_OPTIONS}.grpc.as_content": True}),
        "version": Option(None, {"run_forever": GONE}),
        "host": Option("0.0.0.0", {f"{_OPTIONS}.host": "0.0.0.0"}),
        "port": Option("1234", {f"{_OPTIONS}.grpc_port": 1234}),
        "rest_api_port": Option("1234", {f"{_OPTIONS}.rest_port": 1234}),
        "grpc_max_threads": Option("3", {f"{_OPTIONS}.grpc.threads": 3}),
        "grpc_max_queue": Option("4", {f"{_OPTIONS}.grpc.queue": 4}),
        "grpc_max_message_mb": Option("5", {f"{_OPTIONS}.grpc.max_message_bytes": 5 << 20}),
        "file_system_poll_wait_seconds": Option("6", {f"{_OPTIONS}.load.poll_seconds": 6.0}),
        "max_num_load_retries": Option("7", {f"{_OPTIONS}.load.retries": 7}),
        "load_retry_interval_micros": Option("8000000", {f"{_OPTIONS}.load.retry_seconds": 8.0}),
        "allow_version_labels_for_unavailable_models": Option(None, {f"{_OPTIONS}.load.labels_ahead": True}),
        "monitoring_config_file": Option("m.config", {f"{_OPTIONS}.rest.metrics_path": "path of m.config"}),
        "ssl_config_file": Option("tls.config", {f"{_OPTIONS}.grpc.tls": "keys of tls.config"}),
        "deltas": Option("deltas", {f"{_OPTIONS}.deltas": Path("deltas")}),
        "log_requests": Option(None, {f"{_OPTIONS}.log": log_json}),
    },
)
_UPDATED = SimpleNamespace(items=1, sequence=1, model="models/1", unindexed=0)
_UPDATE = {"model": "models/nann", "deltas": "deltas"}
UPSERT = Command(
    {**_UPDATE, "items": "items.csv"},
    {"export_tools.updates:upsert": _UPDATED},
    {},
    {
        "model": Option("models/other", {"upsert.exported": Path("models/other")}),
        "deltas": Option("others", {"upsert.folder": Path("others")}),
        "items": Option("new.parquet", {"upsert.items": Path("new.parquet")}),
        "item_id": Option("sku", {"upsert.item_id": "sku"}),
        "embedding": Option("vector", {"upsert.embedding": "vector"}),
        "ranker": Option("mine.keras", {"upsert.ranker": Path("mine.keras")}),
    },
)
DELETE = Command(
    {**_UPDATE, "ids": "5"},
    {"export_tools.updates:delete": _UPDATED},
    {},
    {
        "model": Option("models/other", {"delete.exported": Path("models/other")}),
        "deltas": Option("others", {"delete.folder": Path("others")}),
        "ids": Option("gone.parquet", {"delete.item_ids": "gone.parquet"}),
        "item_id": Option("sku", {"delete.item_id": "sku"}),
    },
)
COMPACT = Command(
    _UPDATE,
    {
        "export_tools.compact:compact": SimpleNamespace(
            items=1, updates=1, carried=0, removed=0, folder="index", model="models/2"
        )
    },
    {},
    {
        "model": Option("models/other", {"compact.exported": Path("models/other")}),
        "deltas": Option("others", {"compact.folder": Path("others")}),
        "index": Option("old", {"compact.index": Path("old")}),
        "out": Option("new", {"compact.target": Path("new")}),
        "threads": Option("1", {"compact.threads": 1}),
        "force": Option(None, {"compact.force": True}),
    },
)
SMOKE = Command(
    {"target": "127.0.0.1:1"},
    {"tfserving_ext.serving.client:smoke": {}},
    {},
    {
        "target": Option("127.0.0.1:2", {"smoke.target": "127.0.0.1:2"}),
        "name": Option("other", {"smoke.name": "other"}),
        "tls": Option(None, {"smoke.tls.ca": None, "smoke.tls.cert": None, "smoke.tls.key": None}),
        "ca": Option("ca.pem", {"smoke.tls.ca": Path("ca.pem")}, ("--tls",)),
        "cert": Option("c.pem", {"smoke.tls.cert": Path("c.pem")}, ("--tls",)),
        "key": Option("c.key", {"smoke.tls.key": Path("c.key")}, ("--tls",)),
        "filter": Option("price<3", {"smoke.filter": "price<3"}),
        "path": Option("models/nann/1", {"smoke.path": Path("models/nann/1")}),
    },
)
_ONE = {"coverage": 1.0, "items_scored": 1.0, "intervals": {"coverage": (1, 1)}}
_FIGURES = {"answers": {"exact": _ONE, "retrieve": _ONE}, "k": 1, "items": 1, "requests": 1, "by": "", "segments": {}}
JUDGE = Command(
    {"saved_model": "models/nann/1", "requests": "requests.json"},
    {"export_tools.judge:judge": _FIGURES},
    {},
    {
        "saved_model": Option("other", {"judge.saved_model": Path("other")}),
        "requests": Option("other.json", {"judge.requests": Path("other.json")}),
        "k": Option("7", {"judge.k": 7}),
        "out": Option("figures.json", {"judge.target": Path("figures.json")}),
        "signature": Option("retrieve_rounds", {"judge.signatures": ("retrieve_rounds",)}),
        "server": Option("127.0.0.1:1", {"judge.server": "127.0.0.1:1"}),
        "by": Option("country", {"judge.by": "country"}),
    },
)
RETRIEVE_ALL = Command(
    {"saved_model": "models/nann/1", "users": "users.parquet"},
    {"export_tools.batch:retrieve_all": Retrieved(Path("answers"), 1, 1, 1.0, 1)},
    {},
    {
        "saved_model": Option("other", {"retrieve_all.saved_model": Path("other")}),
        "users": Option("other.json", {"retrieve_all.users": Path("other.json")}),
        "out": Option("elsewhere", {"retrieve_all.target": Path("elsewhere")}),
        "k": Option("7", {"retrieve_all.options.k": 7}),
        "signature": Option("retrieve_rounds", {"retrieve_all.options.signature": "retrieve_rounds"}),
        "keep": Option("user", {"retrieve_all.options.keep": ("user",)}),
        "batch": Option("32", {"retrieve_all.options.batch": 32}),
        "part_users": Option("100", {"retrieve_all.options.part_users": 100}),
        "beam": Option("--runner=A --b", {"retrieve_all.beam": ("--runner=A", "--b")}),
        "force": Option(None, {"retrieve_all.force": True}),
    },
)
_WHOM = ("--user", "5", "--data", "data")
RECOMMEND = Command(
    {"model": "models/nann/1"},
    {"tfserving_ext.serving.recommendation:recommend": Recommendation([], [], 0)},
    {},
    {
        "model": Option("other", {"recommend.saved_model": Path("other")}, _WHOM),
        "user": Option("7", {"recommend.asked.user": "7"}, _WHOM),
        "data": Option("other", {"recommend.asked.data": Path("other")}, _WHOM),
        "features": Option('{"age":[3]}', {"recommend.asked.features.age": [3]}, ("--features", "{}")),
        "names": Option("a.csv", {"recommend.names": Path("a.csv")}, _WHOM),
        "k": Option("7", {"recommend.k": 7}, _WHOM),
        "new": Option(None, {"recommend.asked.new": True}, _WHOM),
        "filter": Option("a = 3", {"recommend.asked.inputs.filter": "a = 3"}, _WHOM),
        "cap_by": Option("brand", {"recommend.asked.inputs.cap_by": "brand", "recommend.asked.inputs.cap": 1}, _WHOM),
        "cap": Option("2", {"recommend.asked.inputs.cap": 2}, (*_WHOM, "--cap-by", "brand")),
        "signature": Option("other", {"recommend.signature": "other"}, _WHOM),
    },
)
DEMO = Command(
    {},
    {"tfserving_ext.demo:run_demo": None},
    {},
    {
        "folder": Option("elsewhere", {"run_demo.folder": Path("elsewhere")}),
        "steps": Option("3", {"run_demo.steps": 3}),
        "train": Option(None, {"run_demo.train": True}),
        "serve_forever": Option(None, {"run_demo.keep_serving": True}),
    },
)
