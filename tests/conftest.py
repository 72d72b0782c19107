"""A small world that the tests of all packages share: purchases, a briefly trained model, its index and SavedModel."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequences import Sequences

ITEMS = 600
USERS = 160


# Registered here for all folders, because pytest does not read a folder's conftest.py if it is given single files.
MARKERS = {
    "alone": "measures milliseconds, so nothing else may run meanwhile",
    "browser": "opens pages in a headless Chromium, `make test-browser`",
    "clean_root": "builds an image below a root of its own, `make test-image`; needs root on Linux",
    "documented": "runs what the pages say on the demo's artefacts, `make test-docs`",
    "medium": "takes a second or more, left out of `make check`",
    "shared": "uses a fixture that lives longer than one test and takes seconds to make, left out of `make check`; set "
    "automatically",
    "slow": "takes more than some ten seconds, `make test-slow`",
    "install": "builds and installs sdist and wheel, `make test-install`",
}


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers of all folders."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def write_purchases(path: Path) -> Path:
    """Writes purchases of users who buy in two of 12 categories.

    Ids are far from 0..n-1, so that a test fails if code takes an index for an id.
    """
    rng = np.random.default_rng(7)
    lines = []
    for user in range(USERS):
        liked = rng.choice(12, size=2, replace=False)
        for time in range(rng.integers(20, 70)):
            item = int(rng.choice(liked) + 12 * min(int(rng.exponential(12)), ITEMS // 12 - 1))
            lines.append(f"{user + 5000},{item * 31 + 100_000},{item % 12 + 900},buy,{time}")
    path.write_text("\n".join(lines) + "\n")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that use a fixture that lives longer than one test."""
    for item in items:
        found = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - there is no public way.
        if any(each[-1].scope != "function" and each[-1].func.__module__.startswith("tests") for each in found):
            item.add_marker("shared")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths `csv`, `data`, `model`, `embeddings`, `index`, `saved_model`, and the open `sequences`."""
    from export_tools import Defaults, ExportOptions, export
    from tfserving_ext.index import Hnsw, build_index
    from tfserving_ext.training import TrainingConfig, extract, fit

    root = tmp_path_factory.mktemp("world")
    csv = write_purchases(root / "purchases.csv")
    convert(csv, root / "data", Rules(min_item_count=2, validation=0.1, test=0.2))
    fit(root / "data", root / "model", TrainingConfig(steps=60, batch_size=64, negatives=50))
    extract(root / "model", root / "embeddings")
    arrays = (np.load(root / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(*arrays, root / "index", Hnsw(threads=1))
    export(
        root / "model",
        root / "index",
        root / "models" / "nann" / "1",
        Defaults(k=20),
        options=ExportOptions(measure=False),
    )
    return SimpleNamespace(
        root=root,
        csv=csv,
        data=root / "data",
        model=root / "model",
        embeddings=root / "embeddings",
        index=root / "index",
        saved_model=root / "models" / "nann" / "1",
        sequences=Sequences.open(root / "data"),
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of tests/serving/test_conformance.py: a running server to test instead of the local one."""
    parser.addoption("--target", help="HOST:PORT of a gRPC port")
    parser.addoption("--rest-target", help="HOST:PORT of a REST port")
