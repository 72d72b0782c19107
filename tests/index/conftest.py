from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfserving_ext.index import Graph, Index, ItemStorage, Layer, write_index

N, DIM = 9, 3


def csr(rows: list[list[int]]) -> Layer:
    return Layer(
        np.cumsum([0, *(len(row) for row in rows)]), np.array([item for row in rows for item in row], np.int32)
    )


def write(folder: Path, *, entry_points: np.ndarray, layers: list[Layer], dtype: str = "float32", **rest: Any) -> Index:
    """Writes `arrays` as an index."""
    return write_index(folder, graph=Graph(entry_points, layers), storage=ItemStorage(dtype), **rest)


@pytest.fixture
def arrays() -> dict:
    """The arguments of `write`: two layers, each a ring; the upper one has three items."""
    ground = csr([[(i + 1) % N, (i + 2) % N, (i + 5) % N] for i in range(N)])
    upper = csr([[3], [], [], [6], [], [], [0], [], []])
    return {
        "item_ids": np.array([70, -5, 2**62, 3, 11, 10**12, 0, 8, 9]),
        "item_embeddings": np.random.default_rng(0).normal(size=[N, DIM]).astype(np.float32),
        "entry_points": np.array([0, 6]),
        "layers": [ground, upper],
    }


@pytest.fixture
def index(arrays, tmp_path) -> Index:
    return write(tmp_path / "index", **arrays, parameters={"metric": "L2", "M": 3})
