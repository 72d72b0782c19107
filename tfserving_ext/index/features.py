"""What the surrogate search reads of an index besides the graph (docs/surrogate.md): features of items, and distances.

Features are the embeddings along the main directions of all embeddings. Distances are those along the edges of the
ground layer. Both are rounded to a byte, because the search predicts from them and never answers with them.
"""

import numpy as np

from tfserving_ext.index.graph import ROWS_AT_ONCE, Layer, places
from tfserving_ext.progress import progress

# The limits and steps of the op (custom_ops/core/feature_kernels.h, index_view.h).
LANES = 16
FEATURES = 32
STEPS_PER_ROOT_MEAN_SQUARE = 16
STEPS_PER_MEDIAN = 64
# Directions are found from at most so many items, evenly spaced, which bounds the time for wide embeddings.
MOST_SAMPLED = 1 << 16
# Wider embeddings than this are too many directions for a covariance matrix; their directions come from fewer items.
MOST_COVARIANCES = 2048


def item_features(embeddings: np.ndarray, width: int = FEATURES) -> np.ndarray:
    """Returns the coordinates of items along the main directions of their embeddings.

    Args:
      embeddings: float32 [n, dim].
      width: the number of directions, a multiple of 16.

    Returns:
      int8 [n, width], in steps of a 16th of the root mean square of all coordinates; what is beyond 127 steps is 127.
      Where `dim` has fewer directions, the last columns are 0.
    """
    n, dim = embeddings.shape
    features = np.zeros([n, width], np.int8)
    if n == 0:
        return features
    mean, directions = _main_directions(embeddings, min(width, dim))
    coordinates = np.empty([n, directions.shape[1]], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, n, ROWS_AT_ONCE):
            part = slice(begin, begin + ROWS_AT_ONCE)
            coordinates[part] = (embeddings[part] - mean) @ directions
    scale = float(np.sqrt(np.mean(np.square(coordinates, dtype=np.float64))))
    if scale > 0 and np.isfinite(scale):
        steps = np.rint(coordinates * (STEPS_PER_ROOT_MEAN_SQUARE / scale))
        features[:, : coordinates.shape[1]] = np.clip(steps, -127, 127)
    return features


def _main_directions(embeddings: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean, float64 [dim], and the `width` directions of most variance, float64 [dim, width]."""
    n, dim = embeddings.shape
    most = MOST_SAMPLED if dim <= MOST_COVARIANCES else MOST_COVARIANCES
    sample = embeddings[np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))].astype(np.float64)
    # Embeddings of any size: squares of very large ones must not overflow.
    mean, largest = sample.mean(axis=0), float(np.abs(sample).max()) or 1.0
    sample = (sample - mean) / largest
    if dim <= MOST_COVARIANCES:
        directions = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :width]
    else:
        directions = np.linalg.svd(sample, full_matrices=False)[2][:width].T
    # A direction may point either way; this makes it the same way on every machine.
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])
    return mean, directions * signs


def edge_distances(embeddings: np.ndarray, layer: Layer) -> np.ndarray:
    """Returns the squared distances along the edges of a layer.

    Args:
      embeddings: float32 [n, dim].
      layer: the ground layer.

    Returns:
      uint8 [edges], in steps of a 64th of the median over all edges that do not join copies; what is beyond 255 steps
      is 255.
    """
    distances = np.empty(len(layer.neighbors), np.float64)
    n = len(embeddings)
    with progress("index: distances along edges", n) as advance:
        for begin in range(0, n, ROWS_AT_ONCE):
            items = np.arange(begin, min(begin + ROWS_AT_ONCE, n))
            at, degrees = places(layer, items)
            apart = np.repeat(embeddings[items], degrees, axis=0).astype(np.float64)
            apart -= embeddings[layer.neighbors[at]]
            distances[at] = np.einsum("ed,ed->e", apart, apart)
            advance(len(items))
    positive = distances[distances > 0]
    median = float(np.median(positive)) if len(positive) else 1.0
    return np.clip(np.rint(distances * (STEPS_PER_MEDIAN / median)), 0, 255).astype(np.uint8)
