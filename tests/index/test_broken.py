"""Python and the op refuse every kind of broken index, and name the file and the position."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.index.conftest import DIM, N, csr
from tests.ops.searching import any_search
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Graph, Index, write_index


def open_by_op(folder: Path, dim: int = DIM, validate: bool = True) -> None:
    """Opens the array files as a server does, without the manifest."""
    names = ["item_ids", "item_embeddings", "entry_points"]
    names += [f"{part}_{layer}" for layer in (0, 1) for part in ("row_splits", "neighbors")]
    handle = ops.index_handle(shared_name=str(folder))
    ops.index_open(handle, [str(folder / f"{name}.bin") for name in names], dim=dim, validate=validate)


def edit_manifest(index: Index, **changes) -> None:
    path = index.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def poke(index: Index, name: str, dtype: str, at: int, value: int) -> None:
    """Changes one entry of a file."""
    values = np.fromfile(index.folder / name, dtype)
    values[at] = value
    values.tofile(index.folder / name)


# Damages of an array file: name, the edit, and what both Python and the op must say besides the file's name.
BREAKAGES = {
    "neighbor above": (lambda i: poke(i, "neighbors_0.bin", "<i4", 13, N), "neighbors_0.bin[13] is 9, allowed"),
    "neighbor far above": (lambda i: poke(i, "neighbors_0.bin", "<i4", 26, 2**31 - 1), "neighbors_0.bin[26] is 21474"),
    "neighbor negative": (lambda i: poke(i, "neighbors_1.bin", "<i4", 2, -1), "neighbors_1.bin[2] is -1, allowed"),
    "entry point above": (lambda i: poke(i, "entry_points.bin", "<i4", 1, 9), "entry_points.bin[1] is 9, allowed"),
    "entry point negative": (lambda i: poke(i, "entry_points.bin", "<i4", 0, -7), "entry_points.bin[0] is -7, allowed"),
    "row falls": (lambda i: poke(i, "row_splits_0.bin", "<i8", 4, 8), "row_splits_0.bin[4] is 8,"),
    "row leaps": (lambda i: poke(i, "row_splits_0.bin", "<i8", 4, 2**40), "row_splits_0.bin[5] is 15,"),
    "row negative": (lambda i: poke(i, "row_splits_1.bin", "<i8", 2, -1), "row_splits_1.bin[2] is -1,"),
    "first row": (lambda i: poke(i, "row_splits_1.bin", "<i8", 0, 1), "row_splits_1.bin[0] is 1, must be 0"),
    "end below": (
        lambda i: poke(i, "row_splits_0.bin", "<i8", N, 26),
        "neighbors_0.bin has 108 bytes, expected 26 x 4",
    ),
    "end above": (
        lambda i: poke(i, "row_splits_0.bin", "<i8", N, 28),
        "neighbors_0.bin has 108 bytes, expected 28 x 4",
    ),
    "end huge": (
        lambda i: poke(i, "row_splits_0.bin", "<i8", N, 2**40),
        "neighbors_0.bin has 108 bytes, expected 1099",
    ),
    "end wraps": (lambda i: poke(i, "row_splits_0.bin", "<i8", N, 2**62 + 27), "4611686018427387931"),
    "end negative": (lambda i: poke(i, "row_splits_0.bin", "<i8", N, -27), "-27"),
}
FILES = (
    "item_ids.bin",
    "item_embeddings.bin",
    "row_splits_0.bin",
    "neighbors_0.bin",
    "row_splits_1.bin",
    "neighbors_1.bin",
)


@pytest.mark.parametrize("name", BREAKAGES)
def test_entries_out_of_bounds_are_refused_by_file_and_position(index, name):
    breakage, message = BREAKAGES[name]
    breakage(index)
    with pytest.raises(NannError) as by_python:
        Index.open(index.folder)
    with pytest.raises(tf.errors.InvalidArgumentError) as by_op:
        open_by_op(index.folder)
    assert message in str(by_python.value)
    assert message in by_op.value.message
    assert str(index.folder) in str(by_python.value)
    assert str(index.folder) in by_op.value.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut by a byte", "cut by an entry", "empty", "longer"])
def test_files_of_the_wrong_size_are_refused(index, name, change):
    if name == "item_ids.bin" and change == "longer":
        change = "longer by an entry"
    data = (index.folder / name).read_bytes()
    size = 8 if name[:3] in ("ite", "row") and name != "item_embeddings.bin" else 4
    changed = {
        "cut by a byte": data[:-1],
        "cut by an entry": data[:-size],
        "empty": b"",
        "longer": data + b"\0",
        "longer by an entry": data + b"\0" * size,
    }
    (index.folder / name).write_bytes(changed[change])
    with pytest.raises(NannError, match=rf"{name} has {len(changed[change])} bytes, expected \d+ x {size}"):
        Index.open(index.folder)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\.bin has \d+ bytes, expected"):
        open_by_op(index.folder)


@pytest.mark.parametrize("held", [0, 1, 3, 4, 12])
def test_entry_points_of_the_wrong_size_are_refused(index, held):
    """Only Python refuses one entry point less: the op, without the manifest, takes it for another index."""
    (index.folder / "entry_points.bin").write_bytes(b"\0" * held)
    with pytest.raises(NannError, match=r"entry_points.bin"):
        Index.open(index.folder)
    if held % 4 or held == 0:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"entry_points.bin (has \d bytes|is empty)"):
            open_by_op(index.folder)


@pytest.mark.parametrize("name", ["entry_points.bin", *FILES])
def test_a_missing_file_is_named(index, name):
    (index.folder / name).unlink()
    with pytest.raises(NannError, match=f"{name} is missing"):
        Index.open(index.folder)
    with pytest.raises(tf.errors.NotFoundError, match=name):
        open_by_op(index.folder)


@pytest.mark.parametrize("name", ["neighbors_0.bin", "entry_points.bin"])
def test_a_folder_in_place_of_a_file_is_refused(index, name):
    (index.folder / name).unlink()
    (index.folder / name).mkdir()
    with pytest.raises(NannError, match=name):
        Index.open(index.folder)
    with pytest.raises(tf.errors.OpError, match=name):
        open_by_op(index.folder)


def test_a_folder_of_the_right_size_is_refused(index):
    path = index.folder / "entry_points.bin"
    path.unlink()
    path.mkdir()
    edit_manifest(index, entry_points=path.stat().st_size // 4)
    with pytest.raises(NannError, match=r"entry_points.bin"):
        Index.open(index.folder)


def test_an_item_with_the_mark_for_none_is_refused(index):
    """An answer with such an item could not be told from a padded row. The op still serves such an index.

    First contact, line 4.
    """
    poke(index, "item_ids.bin", "<i8", 3, -1)
    with pytest.raises(NannError, match=r"index/item_ids.bin\[3\] is -1, the mark for 'no item'"):
        Index.open(index.folder)
    open_by_op(index.folder)


@pytest.mark.parametrize("dim", [2**20 + 1, 2**62])
def test_a_width_has_bounds(index, dim):
    """The sizes in bytes that are computed from the width must not overflow."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"dim is {dim}, allowed are 1 to 1048576"):
        open_by_op(index.folder, dim=dim)


def test_more_layers_than_a_graph_can_have_are_refused(index):
    layers = [str(path) for path in index.files[3:5]]
    ops.index_open(ops.index_handle(), [*map(str, index.files[:3]), *layers * 32], dim=DIM)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has 33 layers, allowed are 1 to 32"):
        ops.index_open(ops.index_handle(), [*map(str, index.files[:3]), *layers * 33], dim=DIM)


def test_another_index_s_width_is_refused_by_the_op(index):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"item_embeddings.bin has 108 bytes, expected 36 x 4"):
        open_by_op(index.folder, dim=4)


@pytest.mark.parametrize("dim", [2**60, 2**61, 2**62, 2**63 - 1])
def test_a_width_whose_table_would_wrap_around_is_refused_by_the_op(tmp_path, dim):
    """With 8 items, 8 * 2^61 numbers of 4 bytes are 2^66 bytes, which wrap around to 0 in an int64."""
    write_index(
        tmp_path / "index", np.arange(8), np.zeros([8, 1], np.float32), Graph(np.array([0]), [csr([[]] * 8)] * 2), {}
    )
    (tmp_path / "index" / "item_embeddings.bin").write_bytes(b"")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"dim is \d+, allowed|item_embeddings.bin has 0 bytes"):
        open_by_op(tmp_path / "index", dim=dim)


def test_without_validation_a_broken_edge_ends_the_search_and_not_the_process(index):
    """A mapped file can change after the check."""
    poke(index, "neighbors_0.bin", "<i4", 4, 2**30)
    open_by_op(index.folder, validate=False)
    handle = ops.index_handle(shared_name=str(index.folder))

    def search(ef):
        return any_search(handle, [tf.zeros([1, 1])], lambda user, items: items[..., 0], DIM, 3, ef, [1, 1, 9])

    with pytest.raises(tf.errors.DataLossError, match="item 1 has the neighbour 1073741824 in layer 0"):
        search([9, 9, 9])
    poke(index, "neighbors_0.bin", "<i4", 4, 3)
    poke(index, "row_splits_0.bin", "<i8", 3, -(2**40))  # Rows 2 and 3 lie outside the file and count as empty.
    open_by_op(index.folder, validate=False)
    assert search([9, 9, 9]).items_scored.numpy()[0] > 2


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 10])
def test_the_op_counts_its_files(index, count):
    files = [str(index.files[0])] * count
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"files has {count} entries; it needs item_ids"):
        ops.load().nann_index_open(index=ops.index_handle(), files=tf.constant(files, tf.string, [count]), dim=DIM)


def test_a_refused_index_leaves_the_open_one_in_place(index, tmp_path):
    handle = ops.index_handle(shared_name=str(tmp_path))
    ops.index_open(handle, [str(path) for path in index.files], dim=DIM, features=True)
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"\1")
    with pytest.raises(tf.errors.InvalidArgumentError):
        ops.index_open(handle, [str(broken), *map(str, index.files[1:])], dim=DIM, features=True)
    np.testing.assert_array_equal(ops.index_items(handle), index.item_ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json is not valid JSON"),
        ("{", "manifest.json is not valid JSON"),
        ("\x00\x01", "manifest.json is not valid JSON"),
        ("[]", "manifest.json does not describe an index"),
        ("{}", "manifest.json does not describe an index"),
        ("3", "manifest.json does not describe an index"),
        ('{"format": "nann-model"}', "manifest.json does not describe an index"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(index, text, message):
    (index.folder / "manifest.json").write_text(text)
    with pytest.raises(NannError, match=message):
        Index.open(index.folder)


def test_a_manifest_that_is_not_utf_8_is_refused(index):
    (index.folder / "manifest.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(NannError, match=r"manifest.json is not valid JSON"):
        Index.open(index.folder)


def test_a_folder_without_manifest_is_no_index(index, tmp_path):
    (index.folder / "manifest.json").unlink()
    for folder in (index.folder, tmp_path / "nowhere"):
        with pytest.raises(NannError, match=f"{folder} is not an index: it has no manifest.json"):
            Index.open(folder)


@pytest.mark.parametrize("version", [0, 3, 99, "1", None, [1], True])
def test_unknown_format_versions_are_refused(index, version):
    edit_manifest(index, format_version=version)
    with pytest.raises(NannError) as refused:
        Index.open(index.folder)
    assert f"has format version {version!r}, this release reads 1 and 2" in str(refused.value)


@pytest.mark.parametrize("name", ["num_items", "dim", "layers", "entry_points"])
@pytest.mark.parametrize("value", [-1, 2**31, 10**30, 1.5, "3", None, [2]])
def test_invalid_counts_are_refused(index, name, value):
    edit_manifest(index, **{name: value})
    with pytest.raises(NannError) as refused:
        Index.open(index.folder)
    assert f"manifest.json: {name} is {value!r}" in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("dim", 0), ("layers", 0), ("layers", 1), ("layers", 3), ("num_items", 0)])
def test_counts_that_do_not_fit_are_refused(index, name, value):
    edit_manifest(index, **{name: value})
    with pytest.raises(NannError, match=r"manifest.json|item_\w+.bin has"):
        Index.open(index.folder)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", 3, None])
def test_embeddings_of_another_type_are_refused(index, dtype):
    edit_manifest(index, dtype=dtype)
    with pytest.raises(NannError) as refused:
        Index.open(index.folder)
    assert f"has embeddings of type {dtype!r}, allowed are 'float32', 'float16', 'int8'" in str(refused.value)


@pytest.mark.parametrize("name", ["num_items", "dim", "layers", "entry_points"])
def test_huge_counts_are_refused_without_allocating(index, name):
    """Runs in a process with limited memory: a broken manifest must not use up the machine's."""
    edit_manifest(index, **{name: 2**31 - 1})
    code = f"""
import resource
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), held + (64 << 20)))
try:
    Index.open({str(index.folder)!r})
except NannError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout == "refused\n", result.stderr


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {},
        {"../../etc/passwd": {}},
        {"/etc/passwd": {}},
        {"item_ids.bin": {}},
    ],
)
def test_the_manifest_cannot_name_files_of_its_own(index, files):
    """The manifest must list exactly the index's files: no fewer, no others, and none outside the folder."""
    edit_manifest(index, files=files)
    with pytest.raises(
        NannError, match=r"manifest.json must list the files item_ids.bin, item_embeddings.bin, entry_p"
    ):
        Index.open(index.folder)


def test_a_further_file_is_refused(index):
    files = json.loads((index.folder / "manifest.json").read_text())["files"]
    edit_manifest(index, files=files | {"../outside.bin": files["item_ids.bin"]})
    with pytest.raises(NannError, match=r"manifest.json must list the files"):
        Index.open(index.folder)


@pytest.mark.parametrize("name", ["item_embeddings.bin", "neighbors_1.bin"])
def test_checksums_find_what_bounds_cannot(index, name):
    path = index.folder / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    Index.open(index.folder)
    with pytest.raises(NannError, match=f"{name} does not have the checksum that manifest.json gives"):
        Index.open(index.folder, checksums=True)


@pytest.mark.parametrize("checksums", [False, True])
def test_a_missing_file_is_named_with_checksums_too(index, checksums):
    (index.folder / "neighbors_1.bin").unlink()
    with pytest.raises(NannError, match=r"neighbors_1.bin is missing from the index"):
        Index.open(index.folder, checksums=checksums)


@pytest.mark.parametrize("entry", [None, 5, [], {}, {"sha256": 7}])
def test_a_manifest_without_checksums_is_refused_if_they_are_requested(index, entry):
    files = json.loads((index.folder / "manifest.json").read_text())["files"]
    edit_manifest(index, files=files | {"neighbors_0.bin": entry})
    with pytest.raises(NannError, match=r"neighbors_0.bin does not have the checksum"):
        Index.open(index.folder, checksums=True)
