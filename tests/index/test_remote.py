"""Indexes and models on a file system that cannot map files, like s3:// and gs://, for which ram:// stands in."""

import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import typer
from typer.testing import CliRunner

from export_tools import verify
from export_tools.sources import open_source
from tfserving_ext import cli, ops
from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.data.conversion import convert
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index
from tfserving_ext.outputs import INDEX
from tfserving_ext.serving.model_config import parse_config, read_config
from tfserving_ext.serving.models import ServingError, load_servable
from tfserving_ext.training import load_model

_NUMBERS = itertools.count()


def remote(folder):
    """Returns a function that copies a folder to ram://."""
    target = f"ram://remote_{next(_NUMBERS)}"
    for path in folder.rglob("*"):
        name = f"{target}/{path.relative_to(folder)}"
        if path.is_dir():
            tf.io.gfile.makedirs(name)
        else:
            tf.io.gfile.makedirs(name.rpartition("/")[0])
            tf.io.gfile.copy(str(path), name)
    return target


def opened(target, index):
    handle = ops.index_handle(shared_name=f"remote_{next(_NUMBERS)}")
    ops.index_open(handle, [f"{target}/{path.name}" for path in index.files], dim=index.dim, features=True)
    return handle


def test_an_index_is_copied_when_it_is_opened(world):
    """Loading must work, although the file system cannot map files. First contact, line 20."""
    index = Index.open(world.index)
    handle = opened(remote(world.index), index)
    np.testing.assert_array_equal(ops.index_items(handle), index.item_ids)
    rows = np.arange(0, len(index.item_ids), 7, dtype=np.int32)
    np.testing.assert_array_equal(ops.index_gather(handle, rows, index.dim), index.embeddings(rows))


def test_an_index_by_a_file_url_is_mapped(world, tmp_path):
    """TensorFlow Serving may be given file:///models, which needs no copy in memory. First contact, line 20."""
    copy, index = shutil.copytree(world.index, tmp_path / "index"), Index.open(world.index)
    handle = opened(f"file://{copy}", index)
    np.testing.assert_array_equal(ops.index_items(handle), index.item_ids)
    assert str(copy / "neighbors_0.bin") in Path("/proc/self/maps").read_text()


def test_an_export_is_served_from_there(world):
    """The export is loaded as TensorFlow Serving does with --model_base_path=s3://... First contact, line 20."""
    history = np.asarray(Index.open(world.index).item_ids)[None, :5]
    wanted = load_servable(world.saved_model).signature("retrieve").run({"item_history": history})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], remote(world.saved_model)).signature_def[
            "retrieve"
        ]
        feeds = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in signature.defaults.items()}
        feeds[signature.inputs["item_history"].name] = history
        found = session.run({name: info.name for name, info in signature.outputs.items()}, feeds)
    np.testing.assert_array_equal(found["item_ids"], wanted["item_ids"])
    np.testing.assert_array_equal(found["scores"], wanted["scores"])


def test_what_is_wrong_there_is_named(world):
    """The error has the path and the reason. First contact, line 20."""
    index, target = Index.open(world.index), remote(world.index)
    tf.io.gfile.remove(f"{target}/neighbors_0.bin")  # On ram://, opening with "wb" would append.
    with tf.io.gfile.GFile(f"{target}/neighbors_0.bin", "wb") as file:
        file.write(np.full(len(index.layers[0].neighbors), -1, np.int32).tobytes())
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ram://remote_\d+/neighbors_0.bin\[0\] is -1"):
        opened(target, index)
    tf.io.gfile.remove(f"{target}/neighbors_0.bin")
    with pytest.raises(
        tf.errors.NotFoundError, match=r"cannot open ram://remote_\d+/neighbors_0.bin: .*local file system"
    ):
        opened(target, index)


@pytest.mark.parametrize("path", ["s3://bucket/models", "gs://bucket/models", "ram:///models"])
def test_python_s_own_paths_must_be_local(path, world, tmp_path):
    """Each error says so and what to do; no folder called `s3:` is created. First contact, line 20."""
    config = f'model_config_list {{ config {{ name: "a" base_path: "{path}" model_platform: "tensorflow" }} }}'
    with pytest.raises(ServingError, match="is not on a local file system"):
        read_config(parse_config(config))

    def write():
        with atomic_folder(path, INDEX):
            pass

    for use in (
        lambda: Index.open(path),
        lambda: load_model(path),
        lambda: convert(world.csv, path),
        lambda: convert(path, tmp_path / "data"),
        lambda: open_source(path),
        lambda: load_servable(path),
        lambda: verify(path),
        write,
    ):
        with pytest.raises(
            NannError, match="is not on a local file system, where nann reads and writes; copy or mount it"
        ):
            use()


def commands():
    """Yields every command that has a path among its parameters, with a command line that sets this one."""
    found = typer.main.get_command(cli.app)
    todo = [((), found)]
    while todo:
        words, command = todo.pop()
        todo += [((*words, name), inner) for name, inner in getattr(command, "commands", {}).items()]
        if words and not hasattr(command, "commands"):
            yield words, command


def test_every_command_refuses_remote_paths(monkeypatch, tmp_path):
    """Holds for every parameter that takes a path. First contact, line 20."""
    monkeypatch.chdir(tmp_path)
    tried = 0
    for words, command in commands():
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        line = ["s3://bucket/x" for one in arguments for _ in range(max(one.nargs, 1))]
        if not line:
            line = ["--out", "s3://bucket/x"] if any("--out" in one.opts for one in command.params) else []
        if not line:
            continue
        ran = CliRunner().invoke(cli.app, [*words, *line])
        if ran.exit_code == 2:  # Typer requires another argument too, or this one is not a path.
            continue
        tried += 1
        said = str(ran.exception) + ran.output
        assert "s3://bucket/x" in said, (words, said)
        assert not list(Path(tempfile.gettempdir()).glob("s3:*")) and not list(tmp_path.iterdir())
    assert tried >= 10
