"""Reads from a manifest which variant of the scorer an export ships, and shows what was measured."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfserving_ext.errors import NannError


class Chosen(NamedTuple):
    """The variant of the scorer that an export ships.

    Attributes:
      name: its name.
      how: "measured", "assumed" or "rule".
      reason: why it ships.
      processor: the processor of the machine that exported.
      us_per_batch: microseconds per batch by name and size, for the variants that were measured.
      ns_per_item: nanoseconds per item by name, over the sizes as a search has them.
      refused: why other variants could not be measured, by name.
    """

    name: str
    how: str
    reason: str
    processor: str
    us_per_batch: Mapping[str, Mapping[str, float]]
    ns_per_item: Mapping[str, float]
    refused: Mapping[str, str]


def read_chosen(manifest: Mapping[str, Any]) -> Chosen | None:
    """Reads a manifest's entry `scorer_variants`; None if there is none, as in an export of an earlier release.

    Raises:
      NannError: the entry is not in the form that `nann export` writes.
    """
    entry = manifest.get("scorer_variants")
    if entry is None:
        return None
    try:
        words = [entry[name] for name in ("chosen", "how", "reason", "processor")]
        if not all(isinstance(word, str) for word in words):
            raise TypeError("a name is not text")
        us = {
            str(name): {str(size): float(one) for size, one in sizes.items()}
            for name, sizes in entry["us_per_batch"].items()
        }
        costs = {str(name): float(one) for name, one in entry["ns_per_item"].items()}
        refused = {str(name): str(reason) for name, reason in entry["refused"].items()}
        if us.keys() != costs.keys() or len({tuple(sizes) for sizes in us.values()}) > 1:
            raise ValueError("the variants were not measured alike")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NannError(
            "the manifest's entry `scorer_variants` is not in the form that `nann export` writes; export again"
        ) from error
    name, how, reason, processor = words
    return Chosen(name, how, reason, processor, us, costs, refused)


def chosen_line(manifest: Mapping[str, Any]) -> str:
    """Returns the variant that ships as one line, for `nann inspect`; "" if the manifest does not name it."""
    chosen = read_chosen(manifest)
    if chosen is None:
        return ""
    place = f", on {chosen.processor}" if chosen.how == "measured" else ""
    return f"{chosen.name}, {chosen.how}{place}: {chosen.reason}"
