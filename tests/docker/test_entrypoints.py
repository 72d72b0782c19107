"""The images' entry points start their servers with the flags that they promise, and say which break something."""

import os
import subprocess

import pytest
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2

from tests.docker.stand_ins import DOCKER, script
from tfserving_ext.serving.flags import FLAGS
from tfserving_ext.serving.session_config import session_config

# Where the images have their files.
OF_THE_IMAGE = {
    "NANN_PRELOAD": "",
    "SESSION_CONFIG": str(DOCKER / "session_config.pbtxt"),
    "MONITORING_CONFIG": str(DOCKER / "monitoring.config"),
}


def server_flags(programs, *arguments, **environment):
    """What the entry point starts TensorFlow Serving with, and what it says."""
    path = programs("tensorflow_model_server")
    done = script(DOCKER / "entrypoint_server.sh", *arguments, path=path, **{**OF_THE_IMAGE, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1:], done.stderr


def refused(programs, *arguments, **environment):
    """Why the entry point does not start TensorFlow Serving."""
    path = programs("tensorflow_model_server")
    done = script(DOCKER / "entrypoint_server.sh", *arguments, path=path, **{**OF_THE_IMAGE, **environment})
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_the_server_starts_with_configuration_threads_and_metrics(programs):
    """First contact, line 24: by default TensorFlow Serving refuses what exceeds 4 threads a core; and no XLA."""
    flags, said = server_flags(programs, "--file_system_poll_wait_seconds=5", REST_PORT="9")
    assert flags[:4] == ["--port=8500", "--rest_api_port=9", "--model_name=nann", "--model_base_path=/models/nann"]
    assert flags[-1] == "--file_system_poll_wait_seconds=5"
    assert f"--tensorflow_session_config_file={DOCKER}/session_config.pbtxt" in flags
    assert f"--monitoring_config_file={DOCKER}/monitoring.config" in flags
    assert f"--grpc_max_threads={max(64, 4 * len(os.sched_getaffinity(0)))}" in flags
    assert not any("xla" in flag for flag in flags)
    assert said == ""
    assert "--grpc_max_threads=7" in server_flags(programs, GRPC_MAX_THREADS="7")[0]
    assert "--rest_api_num_threads=9" in server_flags(programs, REST_NUM_THREADS="9")[0]


def test_the_ops_are_preloaded_into_the_server_alone(programs, tmp_path):
    library = tmp_path / "libnann_serving.so"
    server = programs("tensorflow_model_server", 'echo "preloaded $LD_PRELOAD"')
    environment = {**OF_THE_IMAGE, "path": server, "NANN_PRELOAD": str(library)}
    missing = script(DOCKER / "entrypoint_server.sh", **environment)
    assert missing.returncode == 1
    assert f"NANN_PRELOAD is {library}, which cannot be read" in missing.stderr
    subprocess.run(["g++", "-shared", "-x", "c++", "/dev/null", "-o", library], check=True)
    done = script(DOCKER / "entrypoint_server.sh", **environment)
    assert done.stdout.splitlines()[-1] == f"preloaded {library}"
    assert done.stderr == ""


def test_the_server_gets_the_signal_that_ends_its_container(programs):
    path = programs(
        "tensorflow_model_server", "trap 'echo ended; exit 7' TERM; echo ready; while true; do sleep 0.1; done"
    )
    environment = {**OF_THE_IMAGE, "PATH": f"{path}:/usr/bin:/bin"}
    command = [DOCKER / "entrypoint_server.sh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as container:
        assert container.stdout.readline().startswith("tensorflow_model_server --port=8500")
        assert container.stdout.readline() == "ready\n"
        container.terminate()
        assert container.stdout.read() == "ended\n"
    assert container.returncode == 7


VALUES = {"bool": "true", "int": "3", "float": "0.5", "text": "/dev/null"}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_of_the_server_passes_through(programs, name):
    flag = f"--{name}={VALUES[FLAGS[name].kind]}"
    flags, _ = server_flags(programs, flag)
    assert flags[-1] == flag


def test_a_flag_that_nobody_knows_and_odd_arguments_pass_through(programs):
    path = programs("tensorflow_model_server", 'printf "%s\\n" "$@"')
    given = ["--new_flag=a b", "--model_base_path=/models/*", "--grpc_channel_arguments=a=1,b=2", ""]
    done = script(DOCKER / "entrypoint_server.sh", *given, path=path, **OF_THE_IMAGE)
    assert done.stdout.split("\n")[-5:-1] == given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--enable_model_warmup=false"], "a model that cannot answer is found by them"),
        (["--enable_model_warmup=0"], "a model that cannot answer is found by them"),
        (["--enable_model_warmup=false", "--enable_model_warmup"], ""),
        (
            ["--platform_config_file=/dev/null"],
            "the server ignores the session configuration and the flags for threads",
        ),
        (["--enable_serialization_as_tensor_content"], "answers by REST hold wrong numbers"),
        (["--enable_serialization_as_tensor_content=false"], ""),
        (["--rest_api_port=9"], "health check asks port 8501: set REST_PORT in the place of --rest_api_port=9"),
        (["--rest_api_port=9", "--rest_api_port=8501"], ""),
        (["--model_name=other"], "health check asks for the model nann: set MODEL_NAME in the place of"),
        (["--port=9", "--tensorflow_intra_op_parallelism=8", "--model_base_path=/m", "--enable_profiler"], ""),
    ],
)
def test_a_flag_that_breaks_something_is_passed_on_with_a_warning(programs, given, words):
    flags, said = server_flags(programs, *given)
    assert flags[-len(given) :] == given
    assert words in said if words else said == ""


@pytest.mark.parametrize(
    "field", ["intra_op_parallelism_threads: 4", "gpu_options { per_process_gpu_memory_fraction: 1 }"]
)
def test_threads_in_the_session_configuration_are_told_to_have_no_effect(programs, tmp_path, field):
    """First contact, line 24: TensorFlow Serving overwrites them by its flags."""
    config = tmp_path / "session.pbtxt"
    config.write_text(f"# {field}\nallow_soft_placement: true\n")
    assert server_flags(programs, SESSION_CONFIG=str(config))[1] == ""
    config.write_text(f"allow_soft_placement: true\n  {field}\n")
    said = server_flags(programs, f"--tensorflow_session_config_file={config}")[1]
    assert f"in {config} have no effect" in said
    assert "--tensorflow_intra_op_parallelism" in said


def test_tls_is_told_to_be_for_grpc_alone(programs, tmp_path):
    config = tmp_path / "ssl.config"
    config.write_text('server_key: "k" server_cert: "c"')
    flags, said = server_flags(programs, SSL_CONFIG=str(config), GRPC_PORT="7")
    assert flags[-1] == f"--ssl_config_file={config}"
    assert "TLS is for gRPC alone: REST on port 8501 stays plain text, so publish port 7 alone" in said
    flags, said = server_flags(programs, f"--ssl_config_file={config}", REST_PORT="0")
    assert flags[-1] == f"--ssl_config_file={config}"
    assert said == ""


def test_a_file_of_models_replaces_the_model(programs, tmp_path):
    config = tmp_path / "models.config"
    config.write_text('model_config_list { config { name: "a" base_path: "/a" } config { name : \'b.c\' } }')
    flags, said = server_flags(programs, MODEL_CONFIG=str(config), MODEL_NAME="a")
    assert flags[2] == f"--model_config_file={config}"
    assert not [flag for flag in flags if flag.startswith(("--model_name", "--model_base_path"))]
    assert said == ""
    assert server_flags(programs, f"--model_config_file={config}", MODEL_NAME="b.c")[1] == ""
    for given in ((), (f"--model_config_file={config}",)):
        _, said = server_flags(programs, *given, MODEL_CONFIG="" if given else str(config))
        assert f"health check asks for the model nann, which {config} does not name: set MODEL_NAME" in said
    assert server_flags(programs, MODEL_CONFIG="gs://bucket/models.config")[1] == ""


@pytest.mark.parametrize(
    "name", [name for name in FLAGS if name.endswith("_config_file") or name.startswith("batching")]
)
def test_a_file_that_cannot_be_read_is_told_before_the_server_starts(programs, name):
    said = refused(programs, f"--{name}=/nowhere/file")
    assert said == f"entrypoint_server.sh: --{name} is /nowhere/file, which user {os.getuid()} cannot read\n"


@pytest.mark.parametrize(
    ("variable", "path"),
    [("SESSION_CONFIG", "/etc/nann/session_config.pbtxt"), ("MONITORING_CONFIG", "/etc/nann/monitoring.config")],
)
def test_the_image_s_own_files_are_the_defaults(programs, variable, path):
    """They are where the Dockerfile puts them, which is not where this test runs."""
    assert f"is {path}, which user" in refused(programs, **{variable: ""})


PER_MODEL = "--enable_per_model_batching_parameters"


@pytest.mark.parametrize(
    ("given", "added", "words"),
    [
        (["--enable_batching"], True, "is followed by --enable_per_model_batching_parameters=true"),
        (["--enable_batching=true"], True, "is followed by"),
        (["--enable_batching=false"], False, ""),
        (["--enable_batching", "--enable_batching=false"], False, ""),
        (["--enable_batching", f"{PER_MODEL}=true"], False, ""),
        (["--enable_batching=1", PER_MODEL], False, ""),
        (["--enable_batching", f"{PER_MODEL}=false"], False, "no export of nann loads like this"),
    ],
)
def test_batching_leaves_searches_alone(programs, given, added, words):
    """First contact, line 24: --enable_batching alone makes every export fail in its warm-up."""
    flags, said = server_flags(programs, *given)
    assert (flags[-len(given) - 1] == f"{PER_MODEL}=true") == added
    assert flags[-len(given) :] == given
    assert words in said if words else said == ""


def test_the_entry_points_know_every_flag_that_they_give(programs):
    """TensorFlow Serving answers an unknown flag with its usage text, and goes on without it."""
    flags, _ = server_flags(programs)
    assert {flag[2:].partition("=")[0] for flag in flags} <= set(FLAGS)


def test_the_session_configuration_says_nothing_that_flags_overwrite():
    """First contact, line 24: TensorFlow Serving overwrites these fields, also where no flag is given."""
    found = text_format.Parse((DOCKER / "session_config.pbtxt").read_text(), config_pb2.ConfigProto())
    said = []
    assert session_config(DOCKER / "session_config.pbtxt", say=said.append) == found
    assert said == []
    assert found.gpu_options.allow_growth


def test_the_local_server_gets_a_folder_or_a_file_of_models(programs):
    folder = programs("nann")
    done = script(DOCKER / "entrypoint_local.sh", "--log_requests", path=folder, MODEL_NAME="other")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("nann", "serve", "--host", "0.0.0.0", "--port", "8500", "--rest_api_port", "8501"),
        *("--model_name", "other", "--model_base_path", "/models/nann"),
        *("--monitoring_config_file", "/etc/nann/monitoring.config", "--log_requests"),
    ]
    for flag in ("--model_config_file", "--model-config-file"):
        done = script(DOCKER / "entrypoint_local.sh", f"{flag}=/m", path=folder)
        assert "--model_base_path" not in done.stdout
        assert done.stdout.endswith(f"{flag}=/m\n")
    done = script(DOCKER / "entrypoint_local.sh", path=folder, MODEL_CONFIG="/m", SSL_CONFIG="/s")
    assert "--model_config_file /m --ssl_config_file /s" in done.stdout
    assert "--model_base_path" not in done.stdout
