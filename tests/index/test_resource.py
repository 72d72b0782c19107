"""The index as a TensorFlow resource: tensors are views of the mapped files, which are assets of a SavedModel."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.index.conftest import DIM, N, write
from tfserving_ext import ops
from tfserving_ext.index import Index
from tfserving_ext.index.resource import MappedIndex


class Holder(tf.Module):
    def __init__(self, index: MappedIndex) -> None:
        super().__init__()
        self.index = index

    @tf.function(input_signature=[])
    def items(self):
        return table(self.index)


def table(index: MappedIndex) -> tuple[tf.Tensor, tf.Tensor]:
    item_ids = index.item_ids()
    return item_ids, index.embeddings(tf.range(tf.size(item_ids)))


def mapping_at(address: int) -> str:
    """Returns the line of /proc/self/maps that contains an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_items_are_the_tables(arrays, index):
    mapped = MappedIndex(index)
    item_ids, embeddings = table(mapped)
    assert (item_ids.dtype, embeddings.dtype, mapped.dim) == (tf.int64, tf.float32, DIM)
    np.testing.assert_array_equal(item_ids, arrays["item_ids"])
    np.testing.assert_array_equal(embeddings, arrays["item_embeddings"])


def test_item_ids_are_a_view_of_the_file(index):
    """The tensor's own address lies in a read-only mapping of the file; a second call returns the same memory."""
    mapped = MappedIndex(index)
    addresses = []
    for _ in range(2):
        address = np.frombuffer(memoryview(mapped.item_ids()), np.uint8).ctypes.data
        line = mapping_at(address)
        assert line.endswith(str(index.folder / "item_ids.bin"))
        assert line.split()[1].startswith("r--")
        addresses.append(address)
    assert addresses[0] == addresses[1]


def test_no_op_writes_into_the_view(arrays, index):
    """A kernel that works in place when it has the last reference must copy this view, or the process would crash."""
    mapped = MappedIndex(index)

    @tf.function
    def changed():
        return (
            tf.tensor_scatter_nd_update(mapped.item_ids(), [[0]], [7]),
            tf.negative(mapped.item_ids()),
            tf.raw_ops.InplaceUpdate(x=mapped.item_ids() * 1, i=[1], v=[3]),
        )

    scattered, negative, updated = changed()
    assert scattered.numpy()[0] == 7
    np.testing.assert_array_equal(negative, -arrays["item_ids"])
    assert updated.numpy()[1] == 3
    np.testing.assert_array_equal(mapped.item_ids(), arrays["item_ids"])
    np.testing.assert_array_equal(np.fromfile(index.files[0], "<i8"), arrays["item_ids"])


def test_a_view_outlives_the_resource_and_the_file(arrays, index):
    mapped = MappedIndex(index)
    handle = mapped.resource_handle
    item_ids = mapped.item_ids()
    del mapped
    gc.collect()
    with pytest.raises(tf.errors.NotFoundError):
        ops.index_items(handle)
    shutil.rmtree(index.folder)
    np.testing.assert_array_equal(item_ids, arrays["item_ids"])


def test_shapes_are_known_as_far_as_they_can_be(index):
    mapped = MappedIndex(index)
    shapes = []

    @tf.function
    def trace():
        shapes.extend(part.shape.as_list() for part in table(mapped))

    trace()
    assert shapes == [[None], [None, DIM]]


def test_a_wrong_width_is_refused(index):
    mapped = MappedIndex(index)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has embeddings of width 3, dim is 4"):
        ops.index_gather(mapped.resource_handle, [0], 4)


def test_an_index_that_changed_since_it_was_opened_is_refused(index):
    path = index.folder / "neighbors_0.bin"
    data = np.fromfile(path, "<i4")
    data[7] = N
    data.tofile(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"neighbors_0.bin\[7\] is 9"):
        MappedIndex(index)


def test_indices_do_not_mix(arrays, index, tmp_path):
    other = write(tmp_path / "other", **arrays | {"item_ids": np.arange(N)}, parameters={})
    both = [MappedIndex(index), MappedIndex(other), MappedIndex(index)]
    for mapped, ids in zip(both, (arrays["item_ids"], np.arange(N), arrays["item_ids"]), strict=True):
        np.testing.assert_array_equal(mapped.item_ids(), ids)
    del both[0], mapped
    gc.collect()
    np.testing.assert_array_equal(both[0].item_ids(), np.arange(N))
    np.testing.assert_array_equal(both[1].item_ids(), arrays["item_ids"])


def test_the_files_are_assets_of_a_saved_model(arrays, index, tmp_path):
    """The SavedModel loads after a move, without the index's folder; the graph has names but no table."""
    holder = Holder(MappedIndex(index))
    tf.saved_model.save(holder, str(tmp_path / "saved"))
    assets = {path.name: path.read_bytes() for path in (tmp_path / "saved" / "assets").iterdir()}
    assert assets == {path.name: path.read_bytes() for path in index.files}
    graph = (tmp_path / "saved" / "saved_model.pb").read_bytes()
    assert arrays["item_embeddings"].tobytes() not in graph
    assert str(index.folder).encode() not in graph
    shutil.rmtree(index.folder)
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = tf.saved_model.load(str(tmp_path / "moved"))
    item_ids, embeddings = loaded.items()
    np.testing.assert_array_equal(item_ids, arrays["item_ids"])
    np.testing.assert_array_equal(embeddings, arrays["item_embeddings"])
    address = np.frombuffer(memoryview(item_ids), np.uint8).ctypes.data
    assert mapping_at(address).endswith(str(tmp_path / "moved" / "assets" / "item_ids.bin"))


@pytest.mark.parametrize("v1", [False, True])
def test_a_broken_asset_is_refused_at_load(index, tmp_path, v1):
    holder = Holder(MappedIndex(index))
    tf.saved_model.save(holder, str(tmp_path / "saved"), signatures={"items": _named(holder)})
    path = tmp_path / "saved" / "assets" / "neighbors_1.bin"
    path.write_bytes(np.array([3, 6, -2], "<i4").tobytes())
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"neighbors_1.bin\[2\] is -2, allowed are the item ind"):
        if v1:
            with tf.compat.v1.Session(graph=tf.Graph()) as session:
                tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "saved"))
        else:
            tf.saved_model.load(str(tmp_path / "saved"))


def _named(holder: Holder):
    @tf.function(input_signature=[])
    def items():
        item_ids, embeddings = table(holder.index)
        return {"item_ids": item_ids, "embeddings": embeddings}

    return items


def test_several_loads_in_sessions_have_an_index_each(arrays, index, tmp_path):
    """Two versions of a model in one server are such loads."""
    holder = Holder(MappedIndex(index))
    tf.saved_model.save(holder, str(tmp_path / "1"), signatures={"items": _named(holder)})
    other = write(tmp_path / "other", **arrays | {"item_ids": np.arange(N)}, parameters={})
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    for path in Index.open(other.folder).files:
        shutil.copy(path, tmp_path / "2" / "assets" / path.name)
    sessions = []
    for version in "12":
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / version))
        sessions.append((session, loaded.signature_def["items"].outputs["item_ids"].name))
    (first, first_ids), (second, second_ids) = sessions
    np.testing.assert_array_equal(first.run(first_ids), arrays["item_ids"])
    np.testing.assert_array_equal(second.run(second_ids), np.arange(N))
    first.close()
    np.testing.assert_array_equal(second.run(second_ids), np.arange(N))
    second.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_gathered_rows_are_those_of_numpy(arrays, tmp_path, dtype):
    written = write(tmp_path / "index", **arrays, parameters={}, dtype=dtype)
    rows = np.array([3, 0, 0, N - 1], np.int32)
    gathered = MappedIndex(written).embeddings(rows)
    values = np.fromfile(written.folder / "item_embeddings.bin", written.item_embeddings.dtype).reshape(N, DIM)[rows]
    scales = np.fromfile(written.folder / "item_scales.bin", "<f4")[rows, None] if dtype == "int8" else 1
    np.testing.assert_array_equal(gathered, values.astype(np.float32) * np.float32(scales))
    np.testing.assert_array_equal(gathered, written.embeddings(rows))


@pytest.mark.parametrize("item", [-1, N, 2**31 - 1])
def test_items_out_of_bounds_are_refused(index, item):
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"items\[1\] is {item}, allowed .* 0 to {N - 1}"):
        MappedIndex(index).embeddings([0, item])
