"""Versions that appear, fail to load and disappear are handled as TensorFlow Serving was seen to do it."""

import contextlib
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import variable_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from tests.serving.golden.models import HalfPlus
from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, LocalServer, ServerOptions
from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, ServingError, load_servable
from tfserving_ext.serving.versions import STATUS, LoadOptions, Version


def eventually(check, seconds=20):
    """Waits until `check` returns something true."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with models of x/2 + b, named by b."""
    folder = tmp_path_factory.mktemp("exports")
    for b in (2, 3, 4):
        module = HalfPlus(float(b))
        tf.saved_model.save(module, str(folder / str(b)), {"serving_default": module.serve})
    return folder


@pytest.fixture
def served(exports, tmp_path):
    """A server of one model, with functions that add and remove versions and that query their states and answers."""
    base = tmp_path / "base"

    def put(version, b, change=lambda folder: None):
        made = shutil.copytree(exports / str(b), tmp_path / "made")
        change(made)
        base.mkdir(exist_ok=True)
        made.rename(base / str(version))  # In one step, as operators should.

    put(1, 2)
    options = ServerOptions(grpc_port=0, rest_port=0, load=LoadOptions(poll_seconds=0.05))
    with LocalServer({"m": base}, options) as server, Client(f"127.0.0.1:{server.grpc_port}", "m") as client:

        def states():
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                call = channel.unary_unary(
                    "/tensorflow.serving.ModelService/GetModelStatus",
                    get_model_status_pb2.GetModelStatusRequest.SerializeToString,
                    get_model_status_pb2.GetModelStatusResponse.FromString,
                )
                request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name="m"))
                found = call(request).model_version_status
            return {one.version: (STATUS.State.Name(one.state), one.status.error_message) for one in found}

        def ask():
            return float(client.predict("", {"x": np.array([1.0], np.float32)})["y"][0])

        yield SimpleNamespace(
            base=base,
            put=put,
            remove=lambda *versions: [shutil.rmtree(base / str(version)) for version in versions],
            states=states,
            ask=ask,
            reach=lambda **wanted: eventually(
                lambda: {f"v{number}": state for number, (state, _) in states().items()} == wanted
            ),
        )


def test_versions_come_break_and_go(served):
    assert served.ask() == 2.5
    served.put(2, 3)
    served.reach(v1="END", v2="AVAILABLE")
    assert served.ask() == 3.5

    served.put(3, 4, lambda folder: (folder / "saved_model.pb").write_bytes(b"\xff\xff"))
    served.reach(v1="END", v2="AVAILABLE", v3="END")
    assert "Can't parse" in served.states()[3][1]
    served.put(4, 4, lambda folder: shutil.rmtree(folder / "variables"))
    served.reach(v1="END", v2="AVAILABLE", v3="END", v4="END")
    served.put(5, 4, lambda folder: [path.unlink() for path in folder.glob("*.pb")])
    served.reach(v1="END", v2="AVAILABLE", v3="END", v4="END", v5="END")
    assert "does not appear to contain a SavedModel" in served.states()[5][1]
    (served.base / "7").touch()
    (served.base / "abc").mkdir()
    assert served.ask() == 3.5

    served.remove(3, 4, 5)
    served.remove(2)
    served.reach(v1="AVAILABLE", v2="END", v3="END", v4="END", v5="END")
    assert served.ask() == 2.5
    served.put(2, 4)
    served.reach(v1="END", v2="AVAILABLE", v3="END", v4="END", v5="END")
    assert served.ask() == 4.5

    served.remove(1, 2)
    served.reach(v1="END", v2="END", v3="END", v4="END", v5="END")
    with pytest.raises(NannError, match=r"NOT_FOUND: Servable not found for request: Latest\(m\)"):
        served.ask()
    served.put(9, 2)
    served.reach(v1="END", v2="END", v3="END", v4="END", v5="END", v9="AVAILABLE")
    assert served.ask() == 2.5


def test_a_version_that_broke_is_tried_again_when_it_comes_back(served):
    served.put(2, 3, lambda folder: (folder / "saved_model.pb").unlink())
    served.reach(v1="AVAILABLE", v2="END")
    served.remove(2)
    time.sleep(0.2)
    served.put(2, 3)
    served.reach(v1="END", v2="AVAILABLE")
    assert served.ask() == 3.5


def test_a_base_path_that_is_gone_leaves_what_serves(served):
    """A network file system that fails for a moment must not unload the models."""
    served.base.rename(served.base.with_name("away"))
    time.sleep(0.3)
    assert served.ask() == 2.5
    served.base.with_name("away").rename(served.base)


class FakeServable:
    """A servable that records whether it was used after it was closed."""

    def __init__(self, path):
        self.path, self.closed, self.misused = path, 0, False

    def touch(self):
        self.misused |= bool(self.closed)

    def close(self):
        self.closed += 1


def manager_of(tmp_path, load, **options):
    base = tmp_path / "base"
    (base / "1").mkdir(parents=True)
    return base, ModelManager(LoadOptions(**{"poll_seconds": 0.01, **options}), load)


SPEC = model_pb2.ModelSpec(name="m")


def test_a_request_keeps_its_version_until_it_leaves(tmp_path):
    made = []
    base, manager = manager_of(tmp_path, lambda path: made.append(FakeServable(path)) or made[-1])
    manager.apply({"m": ModelConfig("m", base)})
    with manager.use(SPEC) as (number, first):
        (base / "2").mkdir()
        eventually(lambda: manager.available("m") == [2])
        time.sleep(0.1)
        assert (number, first.closed) == (1, 0)
    eventually(lambda: first.closed == 1)
    manager.close()
    assert [one.closed for one in made] == [1, 1]


@pytest.mark.medium
def test_no_request_meets_a_closed_version(tmp_path):
    made, stop, served = [], threading.Event(), []
    base, manager = manager_of(tmp_path, lambda path: made.append(FakeServable(path)) or made[-1], poll_seconds=0.001)
    manager.apply({"m": ModelConfig("m", base)})

    def ask():
        while not stop.is_set():
            with manager.use(SPEC) as (_, servable):
                servable.touch()
                served.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for version in range(2, 60):
        (base / str(version)).mkdir()
        eventually(lambda version=version: manager.available("m") == [version])
        shutil.rmtree(base / str(version - 1))
    stop.set()
    for thread in threads:
        thread.join()
    manager.close()
    assert len(made) == 59
    assert not any(one.misused for one in made)
    assert all(one.closed == 1 for one in made)
    assert len(served) > 100


def test_closing_waits_for_what_is_being_loaded(tmp_path):
    """A version that `apply` is loading while the manager closes is closed as well."""
    loading, go, made = threading.Event(), threading.Event(), []

    def load(path):
        loading.set()
        assert go.wait(20)
        made.append(FakeServable(path))
        return made[-1]

    base, manager = manager_of(tmp_path, load, poll_seconds=0)
    applying = threading.Thread(target=manager.apply, args=[{"m": ModelConfig("m", base)}])
    applying.start()
    assert loading.wait(20)
    closing = threading.Thread(target=manager.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go.set()
    applying.join()
    closing.join()
    assert made[0].closed == 1 and manager.available("m") == []


def test_a_version_changes_its_state_as_the_table_says():
    options, error = LoadOptions(retries=1, retry_seconds=5.0), LoadError(Path("p"), grpc.StatusCode.UNKNOWN, "no")
    events = {
        "load": Version.load,
        "loaded": lambda version: version.loaded(FakeServable(version.path)),
        "failed": lambda version: version.failed(error, LoadOptions(), 0.0),
    }
    allowed = {("START", "load"), ("LOADING", "load"), ("LOADING", "loaded"), ("LOADING", "failed")}
    for state in ("START", "LOADING", "AVAILABLE", "UNLOADING", "END"):
        for event, happen in events.items():
            version = Version("m", 1, Path("p"), STATUS.State.Value(state))
            with contextlib.nullcontext() if (state, event) in allowed else pytest.raises(RuntimeError, match=state):
                happen(version)
        version = Version("m", 1, Path("p"), STATUS.State.Value(state))
        assert version.retire() == (state in ("LOADING", "AVAILABLE"))
        assert version.unload() is None
        assert (version.state == STATUS.END) == (state != "START")

    version = Version("m", 1, Path("p"))
    version.load()
    assert version.failed(error, options, 1.0) and version.state == STATUS.LOADING
    assert [version.is_due(now) for now in (5.9, 6.0)] == [False, True]
    version.load()
    assert not version.failed(error, options, 7.0) and version.state == STATUS.END
    assert [version.may_return(path) for path in (Path("p"), Path("q"))] == [False, True]
    version.forget_folder()
    assert version.may_return(Path("p"))


def test_a_version_is_tried_again_as_often_as_asked_for(tmp_path):
    tries = []

    def load(path):
        tries.append(path.name)
        if tries.count(path.name) < 3 and path.name == "2":
            raise LoadError(path, grpc.StatusCode.UNAVAILABLE, "not yet")
        return FakeServable(path)

    base, manager = manager_of(tmp_path, load, retries=2, retry_seconds=0.3)
    manager.apply({"m": ModelConfig("m", base)})
    (base / "2").mkdir()
    eventually(lambda: tries.count("2") == 1)
    states = {one.version: one.state for one in manager.status(SPEC).model_version_status}
    assert states == {1: STATUS.AVAILABLE, 2: STATUS.LOADING}
    eventually(lambda: manager.available("m") == [2])
    assert tries.count("2") == 3
    manager.close()


def test_whatever_a_version_raises_the_next_one_is_still_looked_for(tmp_path):
    """TensorFlow raises KeyError, for example, if a damaged graph lacks a variable that its collections name."""

    def load(path):
        if path.name == "2":
            raise KeyError("v:0")
        return FakeServable(path)

    base, manager = manager_of(tmp_path, load)
    manager.apply({"m": ModelConfig("m", base)})
    (base / "2").mkdir()
    eventually(lambda: manager.status(SPEC).model_version_status[0].state == STATUS.END)
    found = manager.status(SPEC).model_version_status[0]
    assert (found.version, found.status.error_message) == (2, "KeyError: 'v:0'")
    (base / "3").mkdir()
    eventually(lambda: manager.available("m") == [3])
    manager.close()


def test_a_graph_that_lacks_what_it_names_is_reported_as_damaged(exports, tmp_path):
    damaged = shutil.copytree(exports / "2", tmp_path / "1")
    saved_model = saved_model_pb2.SavedModel.FromString((damaged / "saved_model.pb").read_bytes())
    collection = saved_model.meta_graphs[0].collection_def["trainable_variables"]
    collection.bytes_list.value.append(variable_pb2.VariableDef(variable_name="gone:0").SerializeToString())
    (damaged / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    with pytest.raises(LoadError, match=r"the SavedModel is damaged: KeyError: .*gone:0"):
        load_servable(damaged)


def test_a_model_that_does_not_load_is_reported_and_the_others_serve(tmp_path):
    def load(path):
        if "bad" in str(path):
            raise LoadError(path, grpc.StatusCode.DATA_LOSS, "broken")
        return FakeServable(path)

    base, manager = manager_of(tmp_path, load)
    (tmp_path / "bad" / "4").mkdir(parents=True)
    configs = {name: ModelConfig(name, path) for name, path in (("m", base), ("bad", tmp_path / "bad"))}
    with pytest.raises(ServingError) as refused:
        manager.apply(configs)
    assert refused.value.message == (
        "1 model(s) did not become available: {{{name: bad version: 4} due to error: DATA_LOSS: broken}, }"
    )
    with manager.use(SPEC) as (number, _):
        assert number == 1
    with pytest.raises(ServingError, match="did not become available"), contextlib.closing(manager):
        manager.apply({**configs, "none": ModelConfig("none", tmp_path / "nowhere")})
