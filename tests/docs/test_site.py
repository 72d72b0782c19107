"""What the site says of the command line, the packages and the metrics is all that there is."""

import importlib
import re

import pytest

from tests.docs.pages import ROOT
from tfserving_ext.serving import metrics

API = {name for path in (ROOT / "docs" / "api").glob("*.rst") for name in re.findall(r":: (\S+)", path.read_text())}

# Packages that are used by their modules.
MODULES = ("tfserving_ext.data",)
# Shared by the other packages, and not for programs of one's own.
INSIDE = {"tfserving_ext.reports"}


def test_every_metric_is_on_the_page():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(:[\w:]+)` ", page, re.MULTILINE)) == set(metrics._HELP)


def test_every_public_name_has_an_entry():
    """A package's entry shows all that its `__all__` names, but for modules, which need one of their own."""
    packages = [f"tfserving_ext.{path.parent.name}" for path in ROOT.glob("tfserving_ext/*/__init__.py")]
    public = set()
    for name in ["tfserving_ext", "export_tools", *packages]:
        folder = ROOT.joinpath(*name.split("."))
        names = getattr(importlib.import_module(name), "__all__", [])
        modules = {f"{name}.{each}" for each in names if (folder / f"{each}.py").exists() and name in MODULES}
        public |= modules or ({name} if names else set())
    assert public - API == {"tfserving_ext.cli", "tfserving_ext.data.beam"} | INSIDE  # docs/cli.rst; an extra.


@pytest.mark.parametrize("name", sorted(API))
def test_every_entry_has_a_docstring(name):
    module = importlib.import_module(name)
    documented = {each: getattr(module, each) for each in getattr(module, "__all__", [])}
    assert module.__doc__
    assert [each for each, value in documented.items() if callable(value) and not value.__doc__] == []
