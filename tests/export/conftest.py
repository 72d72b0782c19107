"""Exports of these tests ship what the rule says, as measuring takes seconds; `measured` has them measure."""

import importlib
from collections.abc import Iterator

import pytest

# `import` would find the function of this name.
EXPORT = "export_tools.export"


@pytest.fixture(scope="package", autouse=True)
def by_rule() -> Iterator[None]:
    """Has exports in this process measure nothing."""
    module = importlib.import_module(EXPORT)
    chosen = module.choose_scorer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module,
            "choose_scorer",
            lambda source, index, fold_items, measured, assume: chosen(source, index, fold_items, False, assume),
        )
        yield


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has exports measure as they do for users."""
    from export_tools.scorer import choose_scorer

    monkeypatch.setattr(importlib.import_module(EXPORT), "choose_scorer", choose_scorer)
