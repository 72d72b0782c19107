"""The distinct embeddings of a corpus, from which a graph is built."""

import numpy as np

from tfserving_ext.index.copies import Copies

CHUNK = 1 << 13
# Beyond these powers of two, squares come near the limits of float32, and all distances might become 0 or infinite.
LARGEST_EXPONENT = 40


class Distinct:
    """The distinct embeddings, scaled so that float32 can hold their squares.

    Args:
      embeddings: float32 [n, dim], of all items; may be mapped from a file.
      copies: which of the items share an embedding.
    """

    def __init__(self, embeddings: np.ndarray, copies: Copies) -> None:
        """Reads all embeddings once, in chunks, to find the largest value."""
        self.dim = embeddings.shape[1]
        self._table, self._kept = embeddings, copies.kept if copies.number else None
        largest = max(float(np.abs(embeddings[at : at + CHUNK]).max()) for at in range(0, len(embeddings), CHUNK))
        exponent = int(np.frexp(largest)[1])
        # A power of two changes only the exponent of a float; embeddings of ordinary size are not scaled at all.
        self._factor = None if abs(exponent) <= LARGEST_EXPONENT else 2.0**-exponent

    def __len__(self) -> int:
        """Returns the number of distinct embeddings."""
        return len(self._table if self._kept is None else self._kept)

    def items(self, items: np.ndarray) -> np.ndarray:
        """Returns the embeddings of any items, by their dense indices: float32 [m, dim]."""
        return self._scaled(self._table[items])

    def between(self, start: int, end: int) -> np.ndarray:
        """Returns the distinct embeddings from `start` to `end`: float32 [m, dim], a view of the table if possible."""
        return self._scaled(self._table[start:end] if self._kept is None else self._table[self._kept[start:end]])

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(
            rows if self._factor is None else (rows * np.float64(self._factor)).astype(np.float32)
        )
