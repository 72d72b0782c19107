import pytest

from benchmarks.search.harness import make_workload
from benchmarks.search.peers import Workload
from tfserving_ext.index.format import Index


@pytest.fixture(scope="module")
def workload(world) -> Workload:
    """A workload of 24 cases of the small world, with k 20."""
    return make_workload(world.root, Index.open(world.index), cases=24, positions=1, k=20, threads=1)
