"""The mutants that `run.py` makes: which there are of a text, and that each is one change of it."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _loaded(name):
    """A module beside this one, which is a script's and in no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = _loaded("mutants")

PYTHON = '''"""Text with 1 < 2 in it."""

def f(a, b):
    """More."""
    if a <= b + 1:
        print(a)
    ä = "x < y" if a else b[0]
    a -= 2
    return ä
'''
CPP = """// a < b + 1
int F(int a, const std::vector<int>& b) {
  if (a <= b[0] * 2) return 3;
  Call(a, "1 < 2");
  for (int i = 0; i < a; ++i) total += b[i];
  total_ = a;
  const std::string name = "x == y";
  return a;
}
"""


def changes(path, text):
    return {(one.line, one.old, one.new, one.kind) for one in mutants.mutants_of(path, text)}


def test_python():
    assert changes("a.py", PYTHON) == {
        (5, "<=", "<", "relational"),
        (5, "+", "-", "arithmetic"),
        (5, "1", "2", "off by one"),
        (5, "a <= b + 1", "(not (a <= b + 1))", "negated condition"),
        (6, "print(a)", "pass", "dropped statement"),
        (7, "a", "(not (a))", "negated condition"),
        (7, "0", "1", "off by one"),
        (8, "a -= 2", "pass", "dropped statement"),
        (8, "2", "3", "off by one"),
    }


def test_cpp():
    assert changes("a.cc", CPP) == {
        (3, "<=", "<", "relational"),
        (3, "*", "/", "arithmetic"),
        (3, "0", "1", "off by one"),
        (3, "2", "3", "off by one"),
        (3, "3", "4", "off by one"),
        (3, "a <= b[0] * 2", "!(a <= b[0] * 2)", "negated condition"),
        (4, 'Call(a, "1 < 2");', ";", "dropped statement"),
        (5, "0", "1", "off by one"),
        (5, "<", "<=", "relational"),
        (6, "total_ = a;", ";", "dropped statement"),
    }


@pytest.mark.parametrize(("path", "text"), [("a.py", PYTHON), ("a.cc", CPP)])
def test_each_is_one_change_of_one_line(path, text):
    for mutant in mutants.mutants_of(path, text):
        changed = mutant.applied(text)
        pairs = list(zip(text.splitlines(), changed.splitlines(), strict=True))
        assert [old != new for old, new in pairs].count(True) == 1
        assert pairs[mutant.line - 1][0] != pairs[mutant.line - 1][1]
        if path == "a.py":
            compile(changed, path, "exec")
        with pytest.raises(ValueError, match="is not what the mutant was made of"):
            mutant.applied("\n" * 20)
