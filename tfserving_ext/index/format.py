"""The index on disk: `manifest.json` and raw little-endian arrays that are mapped, never copied (docs/format.md).

In shapes, n is the number of items, dim the width of an embedding, and e the number of entry points. `layers[0]` is the
ground layer, which has all items. The start layer, above the last of `layers`, is stored without edges: its items are
the entry points.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import atomic_folder, read_json, sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.attribute_file import ATTRIBUTES_FILE, StoredAttributes, check_head, file_size
from tfserving_ext.index.checks import as_integers, check_graph, check_items, check_no_sentinel
from tfserving_ext.index.features import edge_distances, item_features
from tfserving_ext.index.graph import Graph, Layer
from tfserving_ext.index.item_keys import KEYS_FILE, ItemKeys, StoredKeys
from tfserving_ext.index.table import DTYPES, check_dtype, decode, encode
from tfserving_ext.local_paths import check_local
from tfserving_ext.outputs import INDEX

FORMAT = "nann-index"
FORMAT_VERSION = 2
# Version 1 has no features for the surrogate search.
READ_VERSIONS = (1, 2)
# The limits of the op (custom_ops/core/index_view.h); they also keep a damaged manifest from causing large allocations.
MAX_DIM = 1 << 20
MAX_LAYERS = 32
MAX_FEATURES = 128


# The files of what not every index has, by the keys that the manifest then has.
EXTRAS = {"attributes": ATTRIBUTES_FILE, "keys": KEYS_FILE}
FEATURE_FILES = ("item_features.bin", "edge_distances.bin")


@dataclasses.dataclass(frozen=True)
class ItemStorage:
    """How the items of an index are stored, besides their graph.

    Attributes:
      dtype: the type of the stored embeddings: "float32", "float16" or "int8" (`index.table`).
      attributes: the items' attributes, if they have any.
      keys: the texts that stand for their ids, if these are text.
    """

    dtype: str = "float32"
    attributes: StoredAttributes | None = None
    keys: StoredKeys | None = None


STORAGE = ItemStorage()


def _file_names(layers: int, dtype: str, features: bool, last: Iterable[str] = ()) -> list[str]:
    """Returns the names of all array files, in the order in which `Nann>IndexOpen` takes them.

    Args:
      layers: how many layers have edges.
      dtype: the type of the embeddings.
      features: whether there is what the surrogate search reads.
      last: which of `EXTRAS` there are.
    """
    names = ["item_ids.bin", "item_embeddings.bin", "entry_points.bin"]
    for layer in range(layers):
        names += [f"row_splits_{layer}.bin", f"neighbors_{layer}.bin"]
    names += ["item_scales.bin"] if dtype == "int8" else []
    names += FEATURE_FILES if features else []
    return [*names, *(file for name, file in EXTRAS.items() if name in last)]


@dataclasses.dataclass(frozen=True)
class Index:
    """An open index, with every offset and neighbour within its bounds.

    Example:
      >>> index = nann.Index.open("index")
      >>> index.embeddings([0, 1]).shape == (2, index.dim)
      True

    Attributes:
      folder: the index's folder.
      manifest: the content of `manifest.json`.
      item_ids: int64 [n], the data's own ids, or the numbers for which `item_keys` has text.
      item_embeddings: [n, dim] of `dtype`, mapped; `embeddings` returns them as float32.
      item_scales: float32 [n] if `dtype` is int8, otherwise None.
      entry_points: int32 [e].
      layers: ground layer first.
      item_features: int8 [n, features], and
      edge_distances: uint8 [edges of the ground layer], what the surrogate search reads (`index.features`); None for an
        index of format version 1.
      item_keys: the texts that stand for the ids in requests and answers; None if these have the numbers.
    """

    folder: Path
    manifest: dict[str, Any]
    item_ids: np.ndarray
    item_embeddings: np.ndarray
    item_scales: np.ndarray | None
    entry_points: np.ndarray
    layers: tuple[Layer, ...]
    item_features: np.ndarray | None = None
    edge_distances: np.ndarray | None = None
    item_keys: ItemKeys | None = None

    @property
    def dim(self) -> int:
        """Width of an item embedding."""
        return self.item_embeddings.shape[1]

    @property
    def dtype(self) -> str:
        """The type of the stored embeddings: "float32", "float16" or "int8"."""
        return self.manifest["dtype"]

    @property
    def attributes(self) -> dict[str, str]:
        """The type of every attribute of the items by its name (docs/filters.md); empty for an index without any."""
        return dict(self.manifest["attributes"]["columns"]) if "attributes" in self.manifest else {}

    @property
    def has_features(self) -> bool:
        """Whether the index can be searched by the surrogate search."""
        return self.item_features is not None

    def ids(self, rows: Any = slice(None)) -> np.ndarray:
        """Returns the ids of items as requests and answers have them: int64 [m], or str [m] if the index has keys."""
        if self.item_keys is None:
            return np.asarray(self.item_ids)[rows]
        return self.item_keys.texts(np.arange(len(self.item_ids))[rows])

    def numbered(self) -> "Index":
        """Returns the same index without its keys, so that the searches take and return `item_ids`."""
        return dataclasses.replace(self, item_keys=None)

    def embeddings(self, rows: Any = slice(None)) -> np.ndarray:
        """Returns embeddings as a scorer gets them: float32 [m, dim], a view of the file if that is possible."""
        return decode(self.item_embeddings[rows], None if self.item_scales is None else self.item_scales[rows])

    @property
    def files(self) -> list[Path]:
        """The array files in the order in which `ops.index_open` takes them."""
        extras = [*(["attributes"] if self.attributes else []), *(["keys"] if self.item_keys is not None else [])]
        names = _file_names(len(self.layers), self.dtype, self.has_features, extras)
        return [self.folder / name for name in names]

    @classmethod
    def open(cls, folder: str | os.PathLike[str], checksums: bool = False) -> "Index":
        """Maps the index in `folder` and checks it.

        Args:
          folder: a folder that `write_index` wrote.
          checksums: also read every file completely and compare its SHA-256 with the manifest's.

        Raises:
          NannError: the folder is not an index or has an unknown format version, a file is truncated, or an entry is
            out of bounds; the message names the file and the position.
        """
        check_local(folder)
        folder = Path(folder)
        manifest = _manifest(folder)
        n = _count(folder, manifest, "num_items", 0, 2**31 - 1)
        dim = _count(folder, manifest, "dim", 1, MAX_DIM)
        num_layers = _count(folder, manifest, "layers", 1, MAX_LAYERS)
        num_entry_points = _count(folder, manifest, "entry_points", 0, 2**31 - 1)
        dtype = check_dtype(manifest.get("dtype"), str(folder))
        features = 0
        if manifest["format_version"] > 1:
            features = _count(folder, manifest, "features", 0, MAX_FEATURES)
        files = manifest.get("files")
        names = _file_names(num_layers, dtype, features > 0, [name for name in EXTRAS if name in manifest])
        if not isinstance(files, dict) or set(files) != set(names):
            raise NannError(f"{folder / 'manifest.json'} must list the files {', '.join(names)}")
        if checksums:
            for name in names:
                if not isinstance(files[name], dict) or files[name].get("sha256") != _sha256(folder / name):
                    raise NannError(f"{folder / name} does not have the checksum that manifest.json gives")
        item_keys = _extras(folder, manifest, n)
        item_ids = _map(folder / names[0], np.int64, n)
        item_embeddings = _map(folder / names[1], DTYPES[dtype], n * dim).reshape(n, dim)
        item_scales = _map(folder / "item_scales.bin", np.float32, n) if dtype == "int8" else None
        entry_points = _map(folder / names[2], np.int32, num_entry_points)
        layers = []
        for number in range(num_layers):
            row_splits = _map(folder / f"row_splits_{number}.bin", np.int64, n + 1)
            layers.append(Layer(row_splits, _map(folder / f"neighbors_{number}.bin", np.int32, int(row_splits[-1]))))
        item_features = edge_distances = None
        if features:
            item_features = _map(folder / FEATURE_FILES[0], np.int8, n * features).reshape(n, features)
            edge_distances = _map(folder / FEATURE_FILES[1], np.uint8, len(layers[0].neighbors))
        index = cls(
            folder,
            manifest,
            item_ids,
            item_embeddings,
            item_scales,
            entry_points,
            tuple(layers),
            item_features,
            edge_distances,
            item_keys,
        )
        index.check()
        return index

    def check(self) -> None:
        """Checks that every entry is within its bounds.

        Raises:
          NannError: an entry is out of bounds; the message names the file and the first such position.
        """
        if self.item_scales is not None:
            wrong = np.flatnonzero(~(np.isfinite(self.item_scales) & (self.item_scales > 0)))
            if len(wrong):
                place = f"{self.folder / 'item_scales.bin'}[{wrong[0]}]"
                raise NannError(f"{place} is {self.item_scales[wrong[0]]}, a scale must be above 0 and finite")
        names = _file_names(len(self.layers), self.dtype, self.has_features)
        check_no_sentinel(self.folder / names[0], self.item_ids)
        check_graph([self.folder / name for name in names], len(self.item_ids), self.entry_points, self.layers)


def _manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an index, of a version that this release knows."""
    if not (folder / "manifest.json").exists():
        raise NannError(f"{folder} is not an index: it has no manifest.json; build one with `nann index`")
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NannError(f"{folder / 'manifest.json'} does not describe an index (format {FORMAT!r})")
    if manifest.get("format_version") not in READ_VERSIONS or isinstance(manifest["format_version"], bool):
        raise NannError(
            f"{folder} has format version {manifest.get('format_version')!r}, this release reads "
            f"{' and '.join(map(str, READ_VERSIONS))}; build the index again with `nann index`"
        )
    return manifest


def _extras(folder: Path, manifest: dict[str, Any], n: int) -> ItemKeys | None:
    """Checks how the files of what not every index has begin; returns the keys of its `n` items, if they have any."""
    if "attributes" in manifest:
        path = folder / ATTRIBUTES_FILE
        check_head(path, _map(path, np.uint8, file_size(folder, manifest)), n, len(manifest["attributes"]["columns"]))
    if "keys" not in manifest:
        return None
    path, entry = folder / KEYS_FILE, manifest["files"][KEYS_FILE]
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise NannError(f"{folder / 'manifest.json'}: the shape of {KEYS_FILE} is {shape!r}, expected are its bytes")
    return ItemKeys(path, _map(path, np.uint8, shape[0]), n)


def _count(folder: Path, manifest: dict[str, Any], name: str, low: int, high: int) -> int:
    value = manifest.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise NannError(
            f"{folder / 'manifest.json'}: {name} is {value!r}, allowed are the whole numbers {low} to {high}"
        )
    return value


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except FileNotFoundError as error:
        raise NannError(f"{path} is missing from the index") from error
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error


def _map(path: Path, dtype: Any, length: int) -> np.ndarray:
    """Maps a raw array of `length` entries."""
    size = np.dtype(dtype).itemsize
    try:
        held = path.stat().st_size
    except OSError as error:
        raise NannError(f"{path} is missing from the index") from error
    if held != length * size:
        raise NannError(
            f"{path} has {held} bytes, expected {length} x {size} = {length * size}; "
            "the file is truncated or belongs to another index"
        )
    if held == 0:
        return np.zeros(0, dtype)
    try:
        return np.memmap(path, np.dtype(dtype).newbyteorder("<"), mode="r")
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error


def write_index(
    folder: str | os.PathLike[str],
    item_ids: np.ndarray,
    item_embeddings: np.ndarray,
    graph: Graph,
    parameters: Mapping[str, Any],
    storage: ItemStorage = STORAGE,
    force: bool = False,
) -> Index:
    """Writes an index, whole or not at all, and opens it.

    Args:
      folder: the folder to write; it replaces an earlier index.
      item_ids: int64 [n], the data's own ids, all different.
      item_embeddings: float32 [n, dim], finite.
      graph: the entry points and layers.
      parameters: further entries of the manifest (metric, M, ...).
      storage: how the items are stored.
      force: replace whatever `folder` holds.

    Returns:
      The index, opened.

    Raises:
      NannError: lengths differ, ids repeat, embeddings are not finite, entries are out of bounds, or the folder cannot
        be written.
    """
    item_ids, item_embeddings = check_items(item_ids, item_embeddings)
    entry_points, layers = graph
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise NannError(f"layers is {len(layers)}, allowed are 1 to {MAX_LAYERS}")
    dtype = storage.dtype
    extras = {name: made for name in EXTRAS if (made := getattr(storage, name)) is not None}
    values, scales = encode(item_embeddings, dtype)
    names = _file_names(len(layers), dtype, features=True, last=extras)
    paths = [Path(folder) / name for name in names]
    entry_points, layers = as_integers(paths, entry_points, layers)
    check_graph(paths, len(item_ids), entry_points, layers)
    rows = [part for layer in layers for part in (layer.row_splits, layer.neighbors)]
    features, distances = item_features(item_embeddings), edge_distances(item_embeddings, layers[0])
    last = [features, distances] if scales is None else [scales, features, distances]
    last += [made.content for made in extras.values()]
    arrays = [item_ids.astype("<i8", copy=False), values, entry_points, *rows, *last]
    with atomic_folder(folder, INDEX, force) as new:
        files = {name: _written(new / name, array) for name, array in zip(names, arrays, strict=True)}
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "num_items": len(item_ids),
            "dim": int(item_embeddings.shape[1]),
            "dtype": dtype,
            "layers": len(layers),
            "entry_points": len(entry_points),
            "features": features.shape[1],
            **parameters,
            **{name: made.facts for name, made in extras.items()},
            "files": files,
        }
        write_json(new / "manifest.json", manifest)
    return Index.open(folder)


def _written(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Writes an array; returns its entry in the manifest."""
    np.ascontiguousarray(array).tofile(path)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": sha256(path)}
