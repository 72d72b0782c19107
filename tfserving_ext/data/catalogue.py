"""Human-readable names of items."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from tfserving_ext.errors import NannError

COLUMNS = ("item_id", "name", "category_id", "category")


@dataclass(frozen=True)
class Catalogue:
    """Maps item ids to names and categories.

    Attributes:
      names: item id to name.
      categories: item id to the name of its category, which may be empty.
    """

    names: dict[int, str]
    categories: dict[int, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Catalogue":
        """Reads a CSV file of `COLUMNS`, with a header.

        Raises:
          NannError: the file is missing or a row is bad; the message says which line.
        """
        path = Path(path)
        names: dict[int, str] = {}
        categories: dict[int, str] = {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                header = tuple(next(reader, ()))
                if header != COLUMNS:
                    raise NannError(
                        f"{path}, line 1: the header is {','.join(header)!r}; expected {','.join(COLUMNS)!r}"
                    )
                for row in reader:
                    if len(row) != len(COLUMNS):
                        raise NannError(f"{path}, line {reader.line_num}: {len(row)} fields; expected {len(COLUMNS)}")
                    if not row[0].isdecimal():
                        raise NannError(f"{path}, line {reader.line_num}: item_id is {row[0]!r}; expected an integer")
                    names[int(row[0])], categories[int(row[0])] = row[1], row[3]
        except FileNotFoundError as error:
            raise NannError(f"{path} does not exist") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise NannError(f"cannot read {path}: {error}") from error
        return cls(names, categories)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, item_id: int) -> str:
        """Returns a human-readable name such as `BANANAS (TROPICAL FRUIT)`, or `item 7` for an item without a name."""
        item_id = int(item_id)
        if item_id not in self.names:
            return f"item {item_id}"
        name, category = self.names[item_id], self.categories[item_id]
        return name if not category or name == category else f"{name} ({category})"
