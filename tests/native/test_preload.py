"""The files for a stock TensorFlow Serving, in a program that stands for it (serving_host.cc): `make test-preload`.

The program is built on the wheel, so the ops that it opens have the wheel's ABI. Those with the server's own ABI, which
nothing here can open, are linked, and what they ask of the server is compared with what the wheel has.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from custom_ops.preload import check_library
from tests.compatibility.answering import TIMES
from tests.export.sources import SIGNATURES
from tests.native.building import ROOT
from tests.native.serving_host import OPS, Built, build, host, read_answers, write_requests
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.warm_up import FILE as WARM_UP_FILE

ALLOWED = check_library.read_allowed(check_library.list_of(Path(OPS)))

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def models(world, tmp_path_factory) -> dict[str, Path]:
    """SavedModels by name: an export made now, and two that are kept for their version of the op interface.

    Passes rewrote the scorers of exports when they were made; those of `searches` are rewritten in the server.
    """
    folder = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(ROOT / "tests" / "compatibility" / "version_1" / "models.zip") as archive:
        archive.extractall(folder)
    for name in ("export", "searches"):
        shutil.copytree(folder / name, folder / "kept" / name / "1")
    kept = {name: folder / "kept" / name / "1" for name in ("export", "searches")}
    return {"nann": world.saved_model, **kept}


def warm_up_requests(models: dict[str, Path]) -> list[predict_pb2.PredictRequest]:
    """The requests of the exports' warm-up records, which ask for every signature, and one of each other model."""
    search = predict_pb2.PredictRequest()
    search.model_spec.name, search.model_spec.signature_name = "searches", "rounds"
    search.inputs["vector"].CopyFrom(tf.make_tensor_proto(np.float32([[1, 2, -1, 0.5]])))
    requests = [search]
    for name, model in models.items():
        if not (model / WARM_UP_FILE).exists():
            continue
        for record in tf.data.TFRecordDataset(str(model / WARM_UP_FILE)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            request.model_spec.name = name
            requests.append(request)
    assert {request.model_spec.signature_name for request in requests} >= SIGNATURES
    return requests


@pytest.fixture(scope="module")
def served(models):
    """What `nann serve` answers to the warm-up requests."""
    with (
        LocalServer(
            {name: path.parent for name, path in models.items()}, ServerOptions(grpc_port=0, rest_port=0)
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        return [{name: tf.make_ndarray(tensor) for name, tensor in predict(request).outputs.items()}
                for request in warm_up_requests(models)]  # fmt: skip


@pytest.mark.parametrize("threads", [0, 1])
def test_the_server_answers_as_nann_serve_does(built, models, served, tmp_path, threads):
    requests = write_requests(tmp_path / "requests", warm_up_requests(models), list(models))
    files = (requests, tmp_path / "answers", *models.values())
    done = host(
        built.server,
        *(f"--inter={threads}", f"--intra={threads}", *files),
        preload=built.host / "libnann_serving.so",
    )
    assert done.returncode == 0, done.stderr
    answers = read_answers(tmp_path / "answers")
    assert len(answers) == len(served)
    for request, found, wanted in zip(warm_up_requests(models), answers, served, strict=True):
        assert found.keys() == wanted.keys()
        asked = f"{request.model_spec.name}, {request.model_spec.signature_name}"
        for name in wanted.keys() - set(TIMES):
            if name == "scores" and threads == 1:
                # On some processors a product of matrices is summed in another order by one thread than by several.
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, err_msg=asked, strict=True)
                continue
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{name} of {asked}", strict=True)
    assert "Passes rewrote the scorer" in done.stderr, "of `searches`"
    assert "was rewritten by passes before" in done.stderr, "of the exports"
    assert done.stdout == "", "what is still mapped after the models were unloaded"


def test_the_server_follows_updates(built, models, served, tmp_path, monkeypatch):
    """Deleted items are no longer answered, as by `nann serve`, and every answer tells the last update."""
    from export_tools.updates import Updates

    gone = np.unique(np.concatenate([answer["item_ids"][:, :5].ravel() for answer in served if "item_ids" in answer]))
    with Updates(models["nann"].parent, tmp_path / "deltas") as updates:
        updates.delete(gone[gone != -1])
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    asked = [request for request in warm_up_requests(models) if request.model_spec.name == "nann"]
    requests = write_requests(tmp_path / "requests", asked, list(models))
    files = (requests, tmp_path / "answers", *models.values())
    done = host(built.server, "--inter=1", "--intra=1", *files, preload=built.host / "libnann_serving.so")
    assert done.returncode == 0, done.stderr
    for answer in read_answers(tmp_path / "answers"):
        if "item_ids" in answer:
            assert (answer["index_sequence"] == 1).all(), done.stderr
            assert not np.isin(answer["item_ids"], gone[gone != -1]).any()
    assert done.stdout == "", "what is still mapped after the models were unloaded"


def test_without_the_files_the_server_does_not_know_the_ops(built, models, tmp_path):
    requests = write_requests(tmp_path / "requests", warm_up_requests(models), list(models))
    done = host(built.server, requests, tmp_path / "answers", *models.values(), preload=None)
    assert done.returncode == 1
    assert "Op type not registered 'Nann>" in done.stderr


def test_a_server_of_another_release_is_refused(built, tmp_path):
    shutil.copy(built.host / "libnann_serving.so", tmp_path)
    shutil.copy(built.host / OPS, tmp_path / "libnann_serving-1.15.so")
    done = host(built.server, "--version", preload=tmp_path / "libnann_serving.so")
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("libnann_serving.so: ")]
    assert f"(TensorFlow {tf.__version__})" in said
    assert f"{tmp_path}/{OPS}: cannot open shared object file" in said
    assert done.stdout == "", "the server began to run"


def test_a_server_that_lacks_a_symbol_is_refused(built, tmp_path):
    """The ops as they are shipped: this server's strings are of the other ABI."""
    done = host(built.server, "--version", preload=built.serving / "libnann_serving.so")
    assert done.returncode == 1
    assert "the ops cannot be added to this server" in done.stderr
    assert "undefined symbol: _Z" in done.stderr
    assert done.stdout == "", "the server began to run"


def test_a_server_that_exports_nothing_is_refused(built, tmp_path):
    shutil.copy(shutil.which("true"), tmp_path / "tensorflow_model_server")
    done = host(tmp_path / "tensorflow_model_server", preload=built.serving / "libnann_serving.so")
    assert done.returncode == 1
    assert "it exports none of the symbols of TensorFlow" in done.stderr


@pytest.mark.parametrize("folder", ["serving", "host"])
def test_other_programs_of_the_container_are_left_alone(built, folder):
    done = host(Path(shutil.which("bash")), "-c", "echo $0 | cat", "hello",
                preload=getattr(built, folder) / "libnann_serving.so")  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_the_server_has_every_symbol_that_is_asked_of_it(built):
    """By the very name, but for those in whose type the new ABI shows; these must be there in plain names."""
    asked = [name for name, version in check_library.undefined(built.serving / OPS) if not version]
    package = Path(tf.__file__).parent
    there = set()
    for library in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        lines = check_library.output("nm", "-D", "--defined-only", package / library).splitlines()
        there |= {line.split()[-1].partition("@")[0] for line in lines}
    plain = set(check_library.plain_names([name for name in there if "cxx11" in name]))
    names = zip(asked, check_library.plain_names(asked), strict=True)
    assert [name for name, plain_name in names if name not in there and plain_name not in plain] == []
    # What other compilers ask for, because they inline otherwise, is there as well.
    all_plain = plain | set(check_library.plain_names(sorted(there - {name for name in there if "cxx11" in name})))
    assert ALLOWED - all_plain == set()


def test_the_shipped_library_fits_the_image(built):
    assert check_library.faults(built.serving / OPS, ALLOWED) == []
    assert check_library.faults(built.serving / "libnann_serving.so", set()) == []


def test_a_symbol_that_the_list_lacks_is_missed(built):
    taken = "tensorflow::OpKernel::OpKernel(tensorflow::OpKernelConstruction*)"
    assert check_library.faults(built.serving / OPS, ALLOWED - {taken}) == [
        f"{taken} is not on the list of the server's symbols"
    ]


def test_a_new_symbol_fails_the_build(tmp_path):
    source, library = tmp_path / "new.cc", tmp_path / OPS
    source.write_text("namespace tensorflow { void Stranger(int); }\nvoid Call() { tensorflow::Stranger(1); }\n")
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)
    done = subprocess.run(
        [sys.executable, check_library.__file__, library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "tensorflow::Stranger(int) is not on the list of the server's symbols" in done.stderr


def test_a_version_without_a_list_is_refused(tmp_path):
    command = [sys.executable, check_library.__file__, tmp_path / "libnann_serving-2.99.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "libnann_serving-2.99.so has no list of symbols" in done.stderr
    assert "there are lists for 2.20, 2.21" in done.stderr


def test_a_library_of_a_newer_system_is_refused(built, monkeypatch):
    monkeypatch.setitem(check_library.NEWEST, "GLIBC", "2.13")
    found = check_library.faults(built.serving / OPS, ALLOWED)
    assert found
    assert all(re.fullmatch(r"GLIBC_2\.\d+ is newer than the libraries of Ubuntu 22.04; .*", fault) for fault in found)


def test_a_library_of_others_is_refused(built, monkeypatch):
    monkeypatch.setattr(check_library, "LIBRARIES", check_library.LIBRARIES - {"libm.so.6"})
    (fault,) = check_library.faults(built.serving / OPS, ALLOWED)
    assert fault == "libm.so.6 is a library that the server's image does not have"
