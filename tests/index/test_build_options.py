"""Options of `nann index`: threads, mapped files, and a GPU if there is one."""

import faiss
import numpy as np
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.index.reach import unreachable_items


def vectors(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=[n, 8]).astype(np.float32)


def test_a_gpu_is_refused_where_faiss_has_none(tmp_path, monkeypatch):
    monkeypatch.delattr(faiss, "GpuIndexCagra", raising=False)
    with pytest.raises(NannError, match="cannot build on a GPU, as it has no CAGRA; install faiss-gpu-cuvs"):
        build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(gpu=True))
    monkeypatch.setattr(faiss, "GpuIndexCagra", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(NannError, match="Faiss finds no GPU on this machine"):
        build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(gpu=True))
    assert not (tmp_path / "index").exists()


class Cagra:
    """Replaces faiss.GpuIndexCagra on machines without a GPU: copies a graph of the CPU, as that copies its own."""

    def __init__(self, resources, dim, metric, config):
        assert metric == faiss.METRIC_L2
        self.degree, self.dim = config.graph_degree, dim
        assert config.intermediate_graph_degree > self.degree

    def train(self, embeddings):
        self.embeddings = embeddings

    def copyTo(self, index):  # noqa: N802 - Faiss' name.
        made = faiss.IndexHNSWFlat(self.dim, self.degree // 2)
        made.add(self.embeddings)
        index.hnsw = made.hnsw


@pytest.mark.parametrize("copies", [0, 150])
def test_a_graph_from_a_gpu_is_read_like_any(tmp_path, monkeypatch, copies):
    for name, value in {
        "GpuIndexCagra": Cagra,
        "GpuIndexCagraConfig": type("Config", (), {}),
        "StandardGpuResources": object,
        "get_num_gpus": lambda: 1,
    }.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    embeddings = vectors(400)
    embeddings[100 : 100 + copies] = 0
    index = build_index(np.arange(400), embeddings, tmp_path / "index", Hnsw(m=8, threads=1, gpu=True))
    assert index.manifest["built_by"] == "CAGRA"
    assert index.manifest["copies"] == max(0, copies - 1)
    assert len(unreachable_items(index)) == 0
    assert len(index.layers) == 2
    counts = np.diff(index.layers[0].row_splits)
    assert 1 <= counts.min() <= counts.max() <= 16 + 9 * (copies > 0)


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_threads_out_of_range_are_refused(tmp_path, threads):
    with pytest.raises(NannError, match=f"threads is {threads}, allowed are 1 to 1024"):
        build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(threads=threads))
    assert not (tmp_path / "index").exists()


def test_mapped_embeddings_give_the_same_index(tmp_path):
    np.save(tmp_path / "embeddings.npy", vectors(500))
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    one = build_index(np.arange(500), vectors(500), tmp_path / "one", Hnsw(m=4, threads=1))
    other = build_index(np.arange(500), mapped, tmp_path / "other", Hnsw(m=4, threads=1))
    for path in one.files:
        assert path.read_bytes() == (other.folder / path.name).read_bytes()
