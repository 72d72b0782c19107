"""The original's .npy files are read without conversion, and nothing is unpickled."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.conftest import N
from tfserving_ext.errors import NannError
from tfserving_ext.index import Graph, import_original, read_original, write_index
from tfserving_ext.index.original import load_array

LAYER_FILES = [f"neighbors_level_{layer}_{part}.npy" for layer in (0, 1) for part in ("values", "row_splits")]


@pytest.fixture
def original(arrays, tmp_path) -> tuple[Path, Path]:
    """The folders of the index and of the embeddings, with the types that the original's script writes."""
    graph, embeddings = tmp_path / "graph", tmp_path / "embeddings"
    graph.mkdir()
    embeddings.mkdir()
    np.save(embeddings / "item_ids.npy", arrays["item_ids"])
    np.save(embeddings / "item_embs.npy", arrays["item_embeddings"])
    np.save(graph / "enter_points.npy", arrays["entry_points"].astype(np.int32))
    for number, layer in enumerate(arrays["layers"]):
        np.save(graph / f"neighbors_level_{number}_values.npy", layer.neighbors.astype(np.int32))
        np.save(graph / f"neighbors_level_{number}_row_splits.npy", layer.row_splits.astype(np.int64))
    return graph, embeddings


def test_the_arrays_are_read_and_written_in_our_format(arrays, original, tmp_path):
    item_ids, item_embeddings, entry_points, layers = read_original(*original)
    index = write_index(tmp_path / "index", item_ids, item_embeddings, Graph(entry_points, layers), {})
    np.testing.assert_array_equal(index.item_ids, arrays["item_ids"])
    np.testing.assert_array_equal(index.item_embeddings, arrays["item_embeddings"])
    np.testing.assert_array_equal(index.entry_points, arrays["entry_points"])
    assert len(index.layers) == 2
    for layer, written in zip(index.layers, arrays["layers"], strict=True):
        np.testing.assert_array_equal(layer.row_splits, written.row_splits)
        np.testing.assert_array_equal(layer.neighbors, written.neighbors)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_any_number_of_levels(original, levels):
    graph, embeddings = original
    for level in range(4):
        for part in ("values", "row_splits"):
            source = np.load(graph / f"neighbors_level_0_{part}.npy")
            path = graph / f"neighbors_level_{level}_{part}.npy"
            path.unlink(missing_ok=True)
            if level < levels:
                np.save(path, source)
    assert len(read_original(graph, embeddings)[3]) == levels


def test_arrays_are_mapped(original):
    item_embeddings = read_original(*original)[1]
    assert isinstance(item_embeddings, np.memmap)
    assert not item_embeddings.flags.writeable


class Spy:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


NAMES = ["item_ids.npy", "item_embs.npy", "enter_points.npy", *LAYER_FILES]


def path_of(original: tuple[Path, Path], name: str) -> Path:
    return next(folder / name for folder in original if (folder / name).exists())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["object array", "bare pickle"])
def test_pickles_are_refused_and_not_opened(original, tmp_path, name, kind):
    path = path_of(original, name)
    spy = Spy(tmp_path / "spy")
    if kind == "object array":
        np.save(path, np.array([spy], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(spy))
    with pytest.raises(NannError, match=f"{name} is not a complete .npy array"):
        read_original(*original)
    assert not spy.path.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_truncated_files_are_refused(original, name, keep):
    path = path_of(original, name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(NannError, match=f"{name} is not a complete .npy array"):
        read_original(*original)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named(original, name):
    path_of(original, name).unlink()
    with pytest.raises(NannError, match=rf"{name} does not exist"):
        read_original(*original)


@pytest.mark.parametrize(("missing", "left"), [(["values", "row_splits"], ""), (["values"], "neighbors_level_1_row_s")])
def test_a_level_that_is_missing_below_another_is_named(original, missing, left):
    """Without this error, level 1 of three would be left out silently, and the rounds would fail when served.

    First contact, line 4.
    """
    graph, _ = original
    for part in ("values", "row_splits"):
        np.save(graph / f"neighbors_level_2_{part}.npy", np.load(graph / f"neighbors_level_1_{part}.npy"))
    for part in missing:
        (graph / f"neighbors_level_1_{part}.npy").unlink()
    with pytest.raises(NannError) as refused:
        read_original(*original)
    assert f"{graph / 'neighbors_level_1_values.npy'} does not exist; every level from 0" in str(refused.value)
    assert f"there are: neighbors_level_0_row_splits.npy, neighbors_level_0_values.npy, {left}" in str(refused.value)


SPLITS = "neighbors_level_0_row_splits.npy"


@pytest.mark.parametrize(
    ("row_splits", "words"),
    [
        ([], f"{SPLITS} has 0 entries, expected 10"),
        ([[0, 3]], rf"{SPLITS} is int64 \[1, 2\], it must be integers in one dimension"),
        (27, rf"{SPLITS} is int64 \[\], it must be integers in one dimension"),
        ([0, 27], f"{SPLITS} has 2 entries, expected 10"),
        (
            [*range(0, 25, 3), 26],
            f"{SPLITS} must end with 27, the length of neighbors_level_0_values.npy; it ends with 26",
        ),
        (
            [*range(0, 25, 3), 28],
            f"{SPLITS} must end with 27, the length of neighbors_level_0_values.npy; it ends with 28",
        ),
        ([0, 3, 6, 5, *range(12, 28, 3)], rf"{SPLITS}\[3\] is 5, below the entry before it"),
        ([1, *range(3, 28, 3)], rf"{SPLITS}\[0\] is 1, must be 0"),
    ],
)
def test_row_splits_must_fit_their_values(original, row_splits, words):
    np.save(original[0] / SPLITS, np.array(row_splits, np.int64))
    with pytest.raises(NannError, match=words):
        read_original(*original)


@pytest.mark.parametrize("values", [5, [[0, 1, 2]]])
def test_values_have_one_dimension(original, values):
    np.save(original[0] / "neighbors_level_0_values.npy", np.array(values, np.int32))
    with pytest.raises(
        NannError, match=r"neighbors_level_0_values.npy is int32 \[.*\], it must be integers in one dim"
    ):
        read_original(*original)


@pytest.mark.parametrize("name", ["neighbors_level_0_values.npy", "neighbors_level_1_values.npy", "enter_points.npy"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (N, "is 9, allowed are the item indices 0 to 8"),
        (-1, "is -1, allowed are"),
        (2**40, "is 1099511627776, allowed"),
    ],
)
def test_an_entry_out_of_bounds_is_named_by_the_file_that_was_read(original, tmp_path, name, value, words):
    """The message must not name the hidden folder, which is removed before the user reads it. First contact, line 4."""
    path = original[0] / name
    values = np.load(path).astype(np.int64)
    values[1] = value
    np.save(path, values)
    with pytest.raises(NannError) as refused:
        import_original(*original, tmp_path / "index")
    assert f"{path}[1] {words}" in str(refused.value)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_by_the_name_of_an_array_is_refused(original, name):
    """NumPy opens an .npz file under any name, and returns an object without dimensions. First contact, line 4."""
    path = path_of(original, name)
    with path.open("wb") as file:
        np.savez(file, ids=np.arange(3), other=np.ones(2))
    with pytest.raises(NannError, match=rf"{name} is an .npz archive \(of ids, other\), not a .npy array"):
        read_original(*original)


@pytest.mark.medium
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6), cut=st.booleans())
def test_a_damaged_header_is_a_plain_error(tmp_path, changes, cut):
    """Whatever the bytes, the file is still a plain array, or the error names the file, without a traceback."""
    path = tmp_path / "array.npy"
    np.save(path, np.arange(30, dtype=np.int32))
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at] = value
    path.unlink()
    path.write_bytes(data[: changes[0][0]] if cut else data)
    try:
        array = load_array(path)
    except NannError as error:
        assert str(path) in str(error)
    else:
        assert not array.dtype.hasobject
