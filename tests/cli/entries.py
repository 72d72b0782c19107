"""For every option of every command: a value other than its default, and how it changes the calls behind the command.

A new option needs an entry; tests/cli/test_options.py names it until it has one. If an option needs other options,
`beside` has these: they stand on both command lines that are compared.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

GONE = "not there"  # The function is not called, or has no such argument.


class Option(NamedTuple):
    """One option.

    Attributes:
      value: the value to give, several separated by spaces; None for a flag.
      changed: the arguments that it changes, with their new values, by function and argument; `GONE` for those that
        disappear. Below a name that ends in ".*", anything else may change too.
      beside: other words on the command line.
      without: arguments of the command to leave out when the option is given, or when `beside` replaces them.
    """

    value: str | None
    changed: Mapping[str, Any]
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Command(NamedTuple):
    """One command.

    Attributes:
      arguments: the required arguments by name.
      behind: the functions whose arguments are checked, as "module:name", with a return value for each.
      around: further functions that must not really run, with a return value for each.
      options: the command's options and arguments by the name of their parameter.
    """

    arguments: Mapping[str, str]
    behind: Mapping[str, Any]
    around: Mapping[str, Any]
    options: Mapping[str, Option]


# The files in the folder in which the commands run.
FILES = {
    "bench.yaml": "target: grpc://10.0.0.1:1\n",
    "models.config": 'model_config_list { config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
    "UserBehavior.csv": "",
    "other.csv": "",
}


def arguments(*names: str) -> dict[str, str]:
    """Returns arguments whose values are their names."""
    return {name: name for name in names}


def search(function: str, shape: str) -> dict[str, Option]:
    """Returns the options of all searches; `shape` is a path with a place for the search's name."""
    both = [f"{function}.{shape.format(name)}" for name in ("best_first", "surrogate")]
    return {
        "frontier": Option("7", {f"{one}.frontier": 7 for one in both}),
        "pool": Option("321", {f"{one}.pool": 321 for one in both}),
        "batch": Option("96", {f"{both[1]}.batch": 96}),
        "expected_coverage": Option("0.5", {f"{both[1]}.expected_coverage": 0.5}),
        "ef": Option("3,4,5", {f"{function}.{shape.format('rounds')}.ef": (3, 4, 5)}),
        "rounds": Option("2,3,4", {f"{function}.{shape.format('rounds')}.rounds": (2, 3, 4)}),
    }
