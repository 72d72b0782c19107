import random
from pathlib import Path

import pytest

from tfserving_ext.data.complete_journey import write_csv
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequences import Sequences


@pytest.fixture(scope="session")
def journey_csv(tmp_path_factory) -> Path:
    return write_csv(tmp_path_factory.mktemp("journey") / "csv")


@pytest.fixture(scope="session")
def journey(journey_csv) -> Sequences:
    target = journey_csv.with_name("sequences")
    return Sequences.open(convert(journey_csv / "UserBehavior.csv", target, Rules(validation=0.1, test=0.1)))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """200 users of 1 to 40 behaviours each, over 60 items."""
    folder = tmp_path_factory.mktemp("small")
    rng = random.Random(0)
    lines = [
        f"{user * 3},{rng.randrange(60) * 7},{rng.randrange(5)},{rng.choice(['pv', 'buy'])},{rng.randrange(100)}"
        for user in range(200)
        for _ in range(rng.randint(1, 40))
    ]
    rng.shuffle(lines)
    (folder / "some.csv").write_text("\n".join(lines) + "\n")
    return convert(folder / "some.csv", folder / "sequences", Rules(validation=20, test=0.15, min_user_count=1))


@pytest.fixture
def small(small_folder) -> Sequences:
    return Sequences.open(small_folder)


@pytest.fixture
def csv(tmp_path) -> Path:
    """50 users of five behaviours each."""
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{user},{item},1,pv,{item}\n" for user in range(50) for item in range(5)))
    return path
