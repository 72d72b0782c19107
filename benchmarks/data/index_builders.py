"""The processes that `index_build` runs besides `nann index`: one makes the synthetic table, one runs Faiss alone.

TensorFlow is not imported here, as `nann index` does not import it either.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import faiss
import numpy as np
import typer

from tfserving_ext.index.original import load_array

M, EF_CONSTRUCTION = 32, 40  # The defaults of `nann index`.
CLUSTERS, SPREAD, CHUNK = 1000, 0.5, 1 << 14


def make_table(target: Path, items: int, dim: int, seed: int = 0) -> None:
    """Writes embeddings in the form of `nann extract`: normal clusters, `SPREAD` wide, around normal centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=[CLUSTERS, dim]).astype(np.float32)
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "item_ids.npy", np.arange(items, dtype=np.int64))
    table = np.lib.format.open_memmap(target / "item_embs.npy", "w+", np.float32, (items, dim))
    for start in range(0, items, CHUNK):
        rows = table[start : start + CHUNK]
        noise = rng.normal(scale=SPREAD, size=rows.shape).astype(np.float32)
        rows[:] = centres[rng.integers(0, CLUSTERS, len(rows))] + noise
    table.flush()


def build(embeddings: Path, target: Path) -> None:
    """Builds and writes Faiss' own index with the same M and efConstruction as `nann index`."""
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    table = load_array(embeddings / "item_embs.npy")
    index = faiss.IndexHNSWFlat(table.shape[1], M)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(np.ascontiguousarray(table))
    faiss.write_index(index, str(target))


def main(
    what: Annotated[Literal["table", "faiss"], typer.Argument(help="What to make.")],
    embeddings: Annotated[Path, typer.Argument(help="The folder of embeddings, to write or to build from.")],
    target: Annotated[Path, typer.Option(help="The index to write.")] = Path("faiss.index"),
    items: Annotated[int, typer.Option(help="Items in the table.")] = 200_000,
    dim: Annotated[int, typer.Option(help="Width of the table.")] = 64,
) -> None:
    """Make one table or one index."""
    if what == "table":
        make_table(embeddings, items, dim)
    else:
        build(embeddings, target)


if __name__ == "__main__":
    typer.run(main)
