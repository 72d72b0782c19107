"""The original's .npy files: read as they are, nothing unpickled."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.conftest import N
from tfserving_ext.errors import NannError
from tfserving_ext.index import read_original, write_index
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
    index = write_index(tmp_path / "index", item_ids, item_embeddings, entry_points, layers, {})
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
    """Its pickle writes a file where it is opened."""

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
    # Without its values a level counts as not there; the file that its rows need is then the next to be missed.
    if name == "neighbors_level_1_values.npy":
        assert len(read_original(*original)[3]) == 1
        return
    with pytest.raises(NannError, match=rf"{name} does not exist|holds no {name}"):
        read_original(*original)


@pytest.mark.parametrize("row_splits", [[], [[0, 3]], [0, 26], 27, [0, 28]])
def test_row_splits_must_fit_their_values(original, row_splits):
    np.save(original[0] / "neighbors_level_0_row_splits.npy", np.array(row_splits, np.int64))
    with pytest.raises(
        NannError, match=r"neighbors_level_0_row_splits.npy must end with 27, the length of neighbors_l"
    ):
        read_original(*original)


@pytest.mark.parametrize("values", [5, [[0, 1, 2]]])
def test_values_have_one_dimension(original, values):
    np.save(original[0] / "neighbors_level_0_values.npy", np.array(values, np.int32))
    with pytest.raises(NannError, match=r"neighbors_level_0_values.npy has shape \[.*\], it must have one dimension"):
        read_original(*original)


def test_what_fits_but_is_out_of_bounds_is_refused_when_written(original, tmp_path):
    values = np.load(original[0] / "neighbors_level_0_values.npy")
    values[4] = N
    np.save(original[0] / "neighbors_level_0_values.npy", values)
    item_ids, item_embeddings, entry_points, layers = read_original(*original)
    with pytest.raises(NannError, match=r"neighbors_0.bin\[4\] is 9, allowed are the item indices 0 to 8"):
        write_index(tmp_path / "index", item_ids, item_embeddings, entry_points, layers, {})


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6), cut=st.booleans())
def test_a_damaged_header_is_a_plain_error(tmp_path, changes, cut):
    """Whatever bytes stand there, the user reads the file's name and no traceback, or it still is a plain array."""
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
