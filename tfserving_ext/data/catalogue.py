"""Human-readable names of items."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from tfserving_ext.errors import NannError

NEEDED = ("item_id", "name")
CATEGORY = "category"


@dataclass(frozen=True)
class Catalogue:
    """Maps item ids to names and categories.

    Attributes:
      names: the text of an item's id to its name.
      categories: the text of an item's id to the name of its category, which may be empty.
    """

    names: dict[str, str]
    categories: dict[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Catalogue":
        """Reads a CSV file with a header that has the columns item_id and name, and perhaps category.

        Raises:
          NannError: the file is missing, lacks a column, or a row has another number of fields; the message says which.
        """
        path = Path(path)
        names: dict[str, str] = {}
        categories: dict[str, str] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file)
                header = next(reader, [])
                if missing := [column for column in NEEDED if column not in header]:
                    raise NannError(
                        f"{path}, line 1: the header is {','.join(header)!r}; {missing[0]} is missing, "
                        f"{' and '.join(NEEDED)} are needed"
                    )
                for row in reader:
                    if len(row) != len(header):
                        raise NannError(f"{path}, line {reader.line_num}: {len(row)} fields; expected {len(header)}")
                    fields = dict(zip(header, row, strict=True))
                    names[fields["item_id"]] = fields["name"]
                    categories[fields["item_id"]] = fields.get(CATEGORY, "")
        except FileNotFoundError as error:
            raise NannError(f"{path} does not exist") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise NannError(f"cannot read {path}: {error}") from error
        return cls(names, categories)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, item_id: int | str) -> str:
        """Returns a human-readable name such as `BANANAS (TROPICAL FRUIT)`, or `item 7` for an item without a name."""
        key = str(item_id)
        if key not in self.names:
            return f"item {key}"
        name, category = self.names[key], self.categories[key]
        return name if not category or name == category else f"{name} ({category})"
