"""The counts that a conversion keeps, on one machine or by Beam."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfserving_ext.data.behavior_csv import COLUMNS
from tfserving_ext.data.rows import ItemTable, Rules
from tfserving_ext.errors import NannError


def _dropping(rules: Rules) -> tuple[str, ...]:
    """Returns the rules that may drop rows, in their order."""
    late = ("unknown_item",) if rules.split == "time" else ()
    return "behavior", "time_range", "rare_item", *late, "short_user"


@dataclass
class Counts:
    """The numbers of rows read and dropped.

    Attributes:
      read_by_behavior: rows read from the source, by behaviour.
      dropped: rows dropped, by the rule that dropped them.
      users_dropped: users with too few rows left.
    """

    read_by_behavior: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    users_dropped: int = 0

    @property
    def read(self) -> int:
        """All rows of the source."""
        return self.read_by_behavior.total()

    def add(self, read_by_behavior: Mapping[str, int], dropped: Mapping[str, int], users_dropped: int = 0) -> None:
        """Adds the counts of another part of the data."""
        self.read_by_behavior.update(read_by_behavior)
        self.dropped.update(dropped)
        self.users_dropped += users_dropped

    def as_dict(self, items: ItemTable, users: int, behaviors: int, rules: Rules) -> dict[str, Any]:
        """Returns the manifest's `counts`: these, and those of the items, users and behaviours that are left."""
        return {
            "users": users,
            "items": items.ids.size,
            "categories": np.unique(items.categories).size,
            "behaviors": behaviors,
            "rows_read": self.read,
            "rows_read_by_behavior": dict(sorted(self.read_by_behavior.items())),
            "rows_dropped": {rule: self.dropped[rule] for rule in _dropping(rules)},
            "items_dropped": items.dropped,
            "users_dropped": self.users_dropped,
            "items_of_several_categories": items.ambiguous,
        }

    def check(self, source: str, rules: Rules, users: int) -> None:
        """Raises NannError if the source had no rows, or no user is left.

        Args:
          source: the source's name, for messages.
          rules: the rules that dropped rows.
          users: the number of users left.
        """
        if not self.read:
            raise NannError(f"{source} has a header and no rows; rows of {','.join(COLUMNS)} are expected")
        if not users:
            dropped = ", ".join(f"{self.dropped[rule]:,} by {rule}" for rule in _dropping(rules))
            raise NannError(
                f"{source}: none of {self.read:,} rows is left; dropped were {dropped}. Relax one of behaviors "
                f"{', '.join(rules.behaviors)}, time_range {rules.time_range}, min_item_count "
                f"{rules.min_item_count} or min_user_count {rules.min_user_count}"
            )
