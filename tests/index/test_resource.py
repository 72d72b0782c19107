"""The index as a TensorFlow resource: tensors look into the mapped files, which travel with a SavedModel."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.index.conftest import DIM, N
from tfserving_ext import ops
from tfserving_ext.index import Index, write_index
from tfserving_ext.index.resource import MappedIndex


class Holder(tf.Module):
    def __init__(self, index: MappedIndex) -> None:
        super().__init__()
        self.index = index

    @tf.function(input_signature=[])
    def items(self):
        return self.index.items()


def mapping_at(address: int) -> str:
    """The line of /proc/self/maps that holds an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_items_are_the_tables(arrays, index):
    mapped = MappedIndex(index)
    item_ids, embeddings = mapped.items()
    assert (item_ids.dtype, embeddings.dtype, mapped.dim) == (tf.int64, tf.float32, DIM)
    np.testing.assert_array_equal(item_ids, arrays["item_ids"])
    np.testing.assert_array_equal(embeddings, arrays["item_embeddings"])


def test_items_are_views_of_the_files(index):
    """The tensors' own addresses lie in read-only mappings of the files; a second call returns the same memory."""
    mapped = MappedIndex(index)
    addresses = []
    for _ in range(2):
        for tensor, name in zip(mapped.items(), ("item_ids.bin", "item_embeddings.bin"), strict=True):
            address = np.frombuffer(memoryview(tensor), np.uint8).ctypes.data
            line = mapping_at(address)
            assert line.endswith(str(index.folder / name))
            assert line.split()[1].startswith("r--")
            addresses.append(address)
    assert addresses[:2] == addresses[2:]


def test_no_op_writes_into_the_views(arrays, index):
    """Kernels that work in place where they hold the last reference must copy here, or the process would die."""
    mapped = MappedIndex(index)

    @tf.function
    def changed():
        return (
            tf.tensor_scatter_nd_update(mapped.items()[1], [[0]], [[7.0] * DIM]),
            tf.nn.relu(mapped.items()[1] + 1.0),
            tf.negative(mapped.items()[0]),
            tf.raw_ops.InplaceUpdate(x=mapped.items()[1] * 1.0, i=[1], v=[[3.0] * DIM]),
        )

    scattered, shifted, negative, updated = changed()
    assert scattered.numpy()[0].tolist() == [7.0] * DIM
    np.testing.assert_array_equal(shifted, np.maximum(arrays["item_embeddings"] + 1, 0))
    np.testing.assert_array_equal(negative, -arrays["item_ids"])
    assert updated.numpy()[1].tolist() == [3.0] * DIM
    np.testing.assert_array_equal(mapped.items()[1], arrays["item_embeddings"])
    np.testing.assert_array_equal(np.fromfile(index.files[1], "<f4"), arrays["item_embeddings"].ravel())


def test_views_outlive_the_resource_and_the_files(arrays, index):
    mapped = MappedIndex(index)
    handle = mapped.resource_handle
    item_ids, embeddings = mapped.items()
    del mapped
    gc.collect()
    with pytest.raises(tf.errors.NotFoundError):
        ops.index_items(handle, DIM)
    shutil.rmtree(index.folder)
    np.testing.assert_array_equal(item_ids, arrays["item_ids"])
    np.testing.assert_array_equal(embeddings, arrays["item_embeddings"])


def test_shapes_are_known_as_far_as_they_can_be(index):
    mapped = MappedIndex(index)
    shapes = []

    @tf.function
    def trace():
        shapes.extend(part.shape.as_list() for part in mapped.items())

    trace()
    assert shapes == [[None], [None, DIM]]


def test_a_wrong_width_is_refused(index):
    mapped = MappedIndex(index)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has embeddings of width 3, dim is 4"):
        ops.index_items(mapped.resource_handle, 4)


def test_an_index_that_changed_since_it_was_opened_is_refused(index):
    path = index.folder / "neighbors_0.bin"
    data = np.fromfile(path, "<i4")
    data[7] = N
    data.tofile(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"neighbors_0.bin\[7\] is 9"):
        MappedIndex(index)


def test_indices_do_not_mix(arrays, index, tmp_path):
    other = write_index(tmp_path / "other", **arrays | {"item_ids": np.arange(N)}, parameters={})
    both = [MappedIndex(index), MappedIndex(other), MappedIndex(index)]
    for mapped, ids in zip(both, (arrays["item_ids"], np.arange(N), arrays["item_ids"]), strict=True):
        np.testing.assert_array_equal(mapped.items()[0], ids)
    del both[0], mapped
    gc.collect()
    np.testing.assert_array_equal(both[0].items()[0], np.arange(N))
    np.testing.assert_array_equal(both[1].items()[0], arrays["item_ids"])


def test_the_files_are_assets_of_a_saved_model(arrays, index, tmp_path):
    """Moved, without the folder that it was made from; the graph holds names and no table."""
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
    address = np.frombuffer(memoryview(embeddings), np.uint8).ctypes.data
    assert mapping_at(address).endswith(str(tmp_path / "moved" / "assets" / "item_embeddings.bin"))


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
        item_ids, embeddings = holder.index.items()
        return {"item_ids": item_ids, "embeddings": embeddings}

    return items


def test_several_loads_in_sessions_have_an_index_each(arrays, index, tmp_path):
    """As two versions of a model in one server."""
    holder = Holder(MappedIndex(index))
    tf.saved_model.save(holder, str(tmp_path / "1"), signatures={"items": _named(holder)})
    other = write_index(tmp_path / "other", **arrays | {"item_ids": np.arange(N)}, parameters={})
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
