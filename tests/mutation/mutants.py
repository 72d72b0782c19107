"""Small mistakes that somebody could have made: one changed operator, number, condition or statement each."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one line.

    Attributes:
      path: of the source, relative to the repository.
      line: from 1 on.
      column: from 0 on, of what is replaced.
      old: what stands there.
      new: what takes its place.
      kind: "relational", "arithmetic", "off by one", "negated condition" or "dropped statement".
    """

    path: str
    line: int
    column: int
    old: str
    new: str
    kind: str

    @property
    def name(self) -> str:
        """The same for the same change of the same source."""
        return f"{self.path}:{self.line}:{self.column}:{self.kind}:{self.new}"

    def applied(self, text: str) -> str:
        """The source with the change.

        Raises:
          ValueError: the source is another one.
        """
        lines = text.splitlines(keepends=True)
        line = lines[self.line - 1]
        end = self.column + len(self.old)
        if line[self.column : end] != self.old:
            raise ValueError(f"{self.path}:{self.line} is not what the mutant was made of")
        lines[self.line - 1] = line[: self.column] + self.new + line[end:]
        return "".join(lines)


RELATIONAL = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*"}


def mutants_of(path: str, text: str) -> list[Mutant]:
    """All changes of a source that the operators know, in the order of the text."""
    found = _of_python(path, text) if Path(path).suffix == ".py" else _of_cpp(path, text)
    return sorted(set(found))


def _of_python(path: str, text: str) -> Iterator[Mutant]:
    lines = text.splitlines()

    def between(first: ast.expr, second: ast.expr, names: dict[str, str], kind: str) -> Iterator[Mutant]:
        """The operator between two operands that stand on one line."""
        line, start = first.end_lineno, first.end_col_offset
        if line is None or start is None or line != second.lineno:
            return
        gap = lines[line - 1].encode()[start : second.col_offset].decode()
        operator = gap.strip("() ")
        if operator in names:
            column = len(lines[line - 1].encode()[:start].decode()) + gap.index(operator)
            yield Mutant(path, line, column, operator, names[operator], kind)

    def whole(node: ast.AST, new: str, kind: str) -> Iterator[Mutant]:
        """A node that stands on one line."""
        if node.lineno == node.end_lineno:
            raw = lines[node.lineno - 1].encode()
            column, old = len(raw[: node.col_offset].decode()), raw[node.col_offset : node.end_col_offset].decode()
            yield Mutant(path, node.lineno, column, old, new.format(old), kind)

    tree = ast.parse(text)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for first, second in itertools.pairwise(operands):
                yield from between(first, second, RELATIONAL, "relational")
        elif isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, ARITHMETIC, "arithmetic")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield from whole(node, str(node.value + 1), "off by one")
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield from whole(node.test, "(not ({}))", "negated condition")
        elif isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and id(node.value) not in documentation
        ):
            yield from whole(node, "pass", "dropped statement")


# Strings, characters and comments, of which nothing is changed.
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|//.*')
_CPP_RELATIONAL = re.compile(r"(?<= )(<=|>=|==|!=|<|>)(?= )")
_CPP_ARITHMETIC = re.compile(r"(?<=[\w)\]] )([-+*/%])(?= [\w(])")
_CPP_NUMBER = re.compile(r"(?<![\w.'])\d+(?![\w.'])")
_CPP_CONDITION = re.compile(r"^\s*(?:\} else )?if \((?P<whole>.*)\)(?: \{| return .*;| continue;| break;)$")
_CPP_STATEMENT = re.compile(
    r"^\s*(?P<whole>[A-Za-z]\w*(?:(?:\.|->|::)\w+|\[[^\]]*\])*(?:\(.*\)| [-+*/|&]?= .*|\+\+);)$"
)


def _of_cpp(path: str, text: str) -> Iterator[Mutant]:
    for number, line in enumerate(text.splitlines(), start=1):
        code = _QUOTED.sub(lambda match: " " * len(match[0]), line)
        if code.lstrip().startswith(("#", "template", "namespace", "using", "static_assert")):
            continue
        for pattern, names, kind in (
            (_CPP_RELATIONAL, RELATIONAL, "relational"),
            (_CPP_ARITHMETIC, ARITHMETIC, "arithmetic"),
        ):
            for match in pattern.finditer(code):
                yield Mutant(path, number, match.start(), match[0], names[match[0]], kind)
        for match in _CPP_NUMBER.finditer(code):
            yield Mutant(path, number, match.start(), match[0], str(int(match[0]) + 1), "off by one")
        condition = _CPP_CONDITION.match(code)
        if condition and _closed(condition["whole"]) and ";" not in condition["whole"]:
            start, end = condition.span("whole")
            yield Mutant(path, number, start, line[start:end], f"!({line[start:end]})", "negated condition")
        statement = _CPP_STATEMENT.match(code)
        if statement and _closed(statement["whole"]) and not statement["whole"].startswith(("return", "delete")):
            start, end = statement.span("whole")
            yield Mutant(path, number, start, line[start:end], ";", "dropped statement")


def _closed(code: str) -> bool:
    """Whether every parenthesis that opens closes, and none closes before."""
    depth = 0
    for character in code:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0
