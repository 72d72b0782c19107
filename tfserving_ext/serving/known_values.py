"""Values that a model knows for its features, as `nann export` reads them from the model's own tables.

Made-up requests are made of them: those for warm-up, of `nann smoke` and of `nann bench`. A value that is in no
vocabulary, or a row behind the end of a table, is refused by the model or warms what no real request does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import read_json

MOST_KEPT = 1000  # Of one feature, evenly over all of them; more would make no difference.
ENTRY = "known_values"  # Of the export's manifest.
_MANIFEST = Path("assets.extra") / "nann_export.json"


@dataclass(frozen=True)
class KnownValues:
    """The values of one feature.

    Attributes:
      values: at most `MOST_KEPT` of them, int64 or objects of bytes [n]; n > 0.
      count: how many there are.
      below: one above the largest, if they are the integers from 0 on; else None.
    """

    values: np.ndarray
    count: int
    below: int | None = None

    @classmethod
    def of_range(cls, below: int) -> "KnownValues":
        """Returns the integers from 0 to below `below`, which is above 0."""
        return cls(_evenly(below, MOST_KEPT), below, below)

    @classmethod
    def of_vocabulary(cls, values: np.ndarray) -> "KnownValues | None":
        """Returns the values of a vocabulary, [n], all different; None if there are none that a manifest can hold."""
        # Tables list their keys in another order in every process; exports have the same bytes.
        found = sorted(value for value in values.tolist() if not isinstance(value, bytes) or _is_text(value))
        if not found:
            return None
        dtype = object if isinstance(found[0], bytes) else np.int64
        return cls(np.array([found[place] for place in _evenly(len(found), MOST_KEPT)], dtype), len(values))

    def both(self, other: "KnownValues") -> "KnownValues":
        """Returns the values that are in both, or these if there are none: a feature may be looked up twice."""
        if self.below is not None and other.below is not None:
            return KnownValues.of_range(min(self.below, other.below))
        if self.below is not None:
            return other.both(self)
        if other.below is not None:
            shared = [value for value in self.values.tolist() if isinstance(value, int) and 0 <= value < other.below]
        else:
            shared = sorted(set(self.values.tolist()) & set(other.values.tolist()))
        return KnownValues.of_vocabulary(np.array(shared, self.values.dtype)) or self

    def draw(self, shape: list[int], random: np.random.Generator) -> np.ndarray:
        """Returns an array of these values."""
        return self.values[random.integers(0, len(self.values), shape)]

    def as_dict(self) -> dict[str, Any]:
        """Returns the manifest's entry."""
        if self.below is not None:
            return {"below": self.below}
        values = [value.decode() if isinstance(value, bytes) else value for value in self.values.tolist()]
        return {"values": values, "count": self.count}

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "KnownValues":
        """Returns what `as_dict` was made from."""
        if "below" in entry:
            return cls.of_range(entry["below"])
        texts = any(isinstance(value, str) for value in entry["values"])
        values = [value.encode() if texts else value for value in entry["values"]]
        return cls(np.array(values, object if texts else np.int64), entry["count"])


def known_values(folder: Path) -> dict[str, KnownValues]:
    """Returns what the manifest of an export says of its features, by name; empty if it says nothing."""
    if not (folder / _MANIFEST).exists():
        return {}
    manifest = read_json(folder / _MANIFEST)
    entries = manifest.get(ENTRY, {}) if isinstance(manifest, dict) else {}
    return {name: KnownValues.of_entry(entry) for name, entry in entries.items()}


def _evenly(count: int, most: int) -> np.ndarray:
    """Returns at most `most` of the numbers below `count`, evenly over all, with the first and the last: int64."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
