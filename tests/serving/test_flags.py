"""TensorFlow Serving's command line: each of its flags works, or is ignored with a note that says why."""

import re
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
import typer
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2
from typer.testing import CliRunner

from tests.serving.test_lifecycle import eventually
from tfserving_ext import cli
from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, LocalServer, ServerOptions, models
from tfserving_ext.serving.config_file import read_models
from tfserving_ext.serving.flags import FLAGS, read_flags
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.models import LoadError, ModelOptions, ServingError, Signature, load_servable
from tfserving_ext.serving.session_config import session_config
from tfserving_ext.serving.versions import LoadOptions

DOCS = Path(__file__).parents[2] / "docs/serving.md"
# The names of the flags in the usage text of tensorflow_model_server 2.20.0.
OF_TENSORFLOW_SERVING = set(
    re.findall(
        r"\w+",
        """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name model_base_path
num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file tensorflow_intra_op_parallelism
tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph
prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file
mixed_precision skip_initialize_tpu enable_grpc_healthcheck_service enable_serialization_as_tensor_content
""",
    )
)
WORKING = [name for name, flag in FLAGS.items() if not flag.ignored and not flag.refused]
X = {"x": np.array([2.0], np.float32)}


def command():
    return typer.main.get_command(cli.app).commands["serve"]


def options_of_serve():
    found = {}
    for parameter in command().params:
        if parameter.param_type_name == "option":
            found |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), not parameter.is_flag)
    return found | {"--help": False}


def test_every_flag_of_tensorflow_serving_is_known_and_documented():
    """First contact, line 21."""
    assert set(FLAGS) == OF_TENSORFLOW_SERVING
    text = DOCS.read_text()
    rows = dict(re.findall(r"^\| `--(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert {name: flag.ignored or flag.refused for name, flag in FLAGS.items() if name not in WORKING} == rows
    for name in WORKING:
        assert f"`--{name}`" in text, name


@pytest.mark.parametrize("name", WORKING)
def test_a_flag_that_works_is_an_option_of_its_kind(name):
    options = options_of_serve()
    assert options["--" + name.replace("_", "-")] == (FLAGS[name].kind != "bool")


@pytest.mark.parametrize("name", [name for name in FLAGS if name not in WORKING])
def test_a_flag_that_does_nothing_here_says_so_unless_nothing_is_asked_of_it(name):
    flag, said = FLAGS[name], []
    other = {"bool": "false" if flag.as_here == "true" else "true", "int": "3", "float": "0.5", "text": "x"}[flag.kind]
    if flag.refused:
        with pytest.raises(NannError, match=f"--{name}={other} is refused: {re.escape(flag.refused)}"):
            read_flags([f"--{name}={other}"], {}, said.append)
    else:
        assert read_flags(["a", f"--{name}={other}", "b"], {}, said.append) == ["a", "b"]
        assert said == [f"note: --{name}={other} is ignored: {flag.ignored}"]
    said.clear()
    if flag.as_here:
        assert read_flags([f"--{name}={flag.as_here}"], {}, said.append) == []
        assert said == []


OPTIONS = {"--port": True, "--log-requests": False, "--no-log-requests": False, "--version": False}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["--port=1", "--log_requests"], ["--port=1", "--log-requests"]),
        (["--port", "1", "m"], ["--port=1", "m"]),
        (["--port", "-1"], ["--port=-1"]),
        (["--log_requests=true", "m"], ["--log-requests", "m"]),
        (["--log-requests=1"], ["--log-requests"]),
        (["--log_requests=False"], ["--no-log-requests"]),
        (["--no-log-requests"], ["--no-log-requests"]),
        (["--version=false"], []),
        (["--enable_batching", "m"], ["m"]),
        (["--num_load_threads", "4", "m"], ["m"]),
        (["-h", "--", "--anything"], ["-h", "--", "--anything"]),
    ],
)
def test_command_lines(given, left):
    """TensorFlow Serving's own scripts write --flag=true and --flag=false. First contact, line 21."""
    assert read_flags(given, OPTIONS, lambda line: None) == left


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--log_requests=maybe"], "--log_requests is 'maybe', allowed are true, false, 1 and 0"),
        (["--enable_batching=2"], "--enable_batching is '2', allowed are true, false, 1 and 0"),
        (["--num_load_threads=many"], "--num_load_threads is 'many', it must be a number"),
        (["--port"], "--port needs a value, as in --port=VALUE"),
        (["--num_load_threads"], "--num_load_threads needs a value"),
        (["--grpc_max_thread=3"], "not a flag of this server or of TensorFlow Serving 2.20; did you mean --grpc_max_threads?"),
        (["--log-request"], "did you mean --log-requests?"),
        (["--zzzzzzz"], "`nann serve --help` lists the flags"),
    ],
)  # fmt: skip
def test_refusals(given, words):
    with pytest.raises(NannError, match=re.escape(words)):
        read_flags(given, OPTIONS, lambda line: None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["m", "--model_config_file_poll_wait_seconds=1"], "without a --model_config_file to poll"),
        (["m", "--rest_api_tls"], "without an --ssl_config_file"),
        (["m", "--grpc_channel_arguments=a=1,b"], "has 'b', each part must be NAME=VALUE"),
        (["m", "--use_alts_credentials"], "is refused"),
        (["m", "--nope"], "not a flag of this server"),
    ],
)
def test_the_command_refuses(line, words):
    ran = CliRunner().invoke(cli.app, ["serve", *line])
    assert isinstance(ran.exception, NannError)
    assert words in str(ran.exception)


def test_the_versions_are_printed():
    ran = CliRunner().invoke(cli.app, ["serve", "--version"])
    assert ran.exit_code == 0
    assert f"TensorFlow: {tf.__version__}" in ran.output


# What the flags do.


def config_of(toy, tmp_path, label, *versions):
    """Writes a model config that gives `label` to the first of these versions."""
    specific = " ".join(f"versions: {version}" for version in versions)
    path = tmp_path / "models.config"
    path.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{toy}" model_platform: "tensorflow" '
        f'model_version_policy {{ specific {{ {specific} }} }} version_labels {{ key: "{label}" value: {versions[0]} }} '
        "} }"
    )
    return path


def test_labels_roll_by_editing_the_model_config(toy, tmp_path):
    """Editing the file moves labels, by --model_config_file_poll_wait_seconds. First contact, line 21."""
    logged = []
    path = config_of(toy, tmp_path, "stable", 2, 10)
    options = ServerOptions(
        grpc_port=0,
        rest_port=0,
        load=LoadOptions(labels_ahead=True),
        config_file=path,
        config_poll_seconds=0.05,
        log=lambda **facts: logged.append(facts),
    )

    def version_of(label):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.version_label = "m", label
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(X["x"]))
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                predict_pb2.PredictRequest.SerializeToString,
                predict_pb2.PredictResponse.FromString,
            )
            try:
                return call(request).model_spec.version.value
            except grpc.RpcError as error:
                return error.code().name

    with LocalServer(read_models(path), options) as server:
        assert version_of("stable") == 2
        config_of(toy, tmp_path, "stable", 10, 2)
        eventually(lambda: version_of("stable") == 10)
        path.write_text("model_config_list { config {")  # Like a file that is still being written.
        eventually(lambda: any(one["event"] == "model config not applied" for one in logged if "event" in one))
        assert version_of("stable") == 10
        config_of(toy, tmp_path, "canary", 2)
        eventually(lambda: version_of("canary") == 2)
        assert version_of("stable") == "INVALID_ARGUMENT"
    failures = [one for one in logged if one.get("event") == "model config not applied"]
    assert len(failures) == 1 and "not a ModelServerConfig" in failures[0]["error"]


def test_a_unix_socket_and_arguments_of_grpc(toy, tmp_path):
    path = tmp_path / "socket"
    grpc_options = GrpcOptions(socket_path=str(path), channel_arguments=(("grpc.max_receive_message_length", 1000),))
    with LocalServer({"m": toy}, ServerOptions(grpc_port=0, rest_port=0, grpc=grpc_options)) as server:
        for target in (f"unix:{path}", f"127.0.0.1:{server.grpc_port}"):
            with Client(target, "m") as client:
                assert client.predict("", X)["y"].tolist() == [3.0]
                with pytest.raises(NannError, match="RESOURCE_EXHAUSTED"):
                    client.predict("", {"x": np.zeros(1000, np.float32)})
    with pytest.raises(NannError, match=r"cannot listen for gRPC on unix:/nowhere/"):
        LocalServer({"m": toy}, ServerOptions(grpc_port=0, rest_port=0, grpc=GrpcOptions(socket_path="/nowhere/s")))


def test_the_session_is_that_of_the_configuration(toy, slow, tmp_path):
    path = tmp_path / "session.config"
    path.write_text("operation_timeout_in_ms: 500")
    servable = load_servable(slow / "1", ModelOptions(session=session_config(path)))
    with pytest.raises(ServingError, match="Timed out"):
        servable.signature("").run({"n": np.int32(2_000_000_000)})
    servable.close()
    with pytest.raises(LoadError):
        load_servable(toy / "10", ModelOptions(tags=("serve", "gpu")))


def test_flags_overwrite_the_session_configuration_as_in_tensorflow_serving(tmp_path):
    path, said = tmp_path / "session.config", []
    path.write_text(
        "intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 5 allow_soft_placement: true "
        "gpu_options { allow_growth: true per_process_gpu_memory_fraction: 0.5 }"
    )
    found = session_config(path, 0, 0, 5, 0.0, said.append)
    wanted = "inter_op_parallelism_threads: 5 allow_soft_placement: true gpu_options { allow_growth: true }"
    assert found == text_format.Parse(wanted, config_pb2.ConfigProto())
    assert [line.split()[1] for line in said] == ["intra_op_parallelism_threads:", "per_process_gpu_memory_fraction:"]
    both = session_config(parallelism=4, intra_op=2)
    assert (both.intra_op_parallelism_threads, both.inter_op_parallelism_threads) == (2, 4)
    path.write_text("nothing")
    with pytest.raises(NannError, match="is not a ConfigProto in text form"):
        session_config(path)
    with pytest.raises(NannError, match="none"):
        session_config(tmp_path / "none")


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_warm_up_records_run_as_often_as_asked_for(toy, monkeypatch, runs):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(X["x"]))
    monkeypatch.setattr(models, "predict_requests", lambda folder: [request, request])
    ran, run = [], Signature.run
    monkeypatch.setattr(Signature, "run", lambda self, inputs: ran.append(1) or run(self, inputs))
    load_servable(toy / "10", ModelOptions(warm_up_runs=runs)).close()
    assert len(ran) == 2 * runs
