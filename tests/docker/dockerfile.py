"""Reads Dockerfiles: exactly the instructions that docker/ uses. Anything else is an error, not ignored."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

NAMES = ("FROM", "ARG", "ENV", "LABEL", "ADD", "COPY", "RUN", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT")


class DockerfileError(Exception):
    pass


@dataclass(frozen=True)
class Instruction:
    """One instruction: `RUN --mount=type=cache,target=/c make` has the flags [("mount", "type=...")] and the rest."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    rest: str

    def flag(self, name: str) -> str | None:
        values = self.all_flags(name)
        return values[0] if values else None

    def all_flags(self, name: str) -> list[str]:
        return [value for key, value in self.flags if key == name]

    def mounts(self) -> list[dict[str, str]]:
        return [dict(part.split("=", 1) for part in mount.split(",")) for mount in self.all_flags("mount")]

    def words(self) -> list[str]:
        """As the shell splits them, or a JSON array."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True)
class Dockerfile:
    """`arguments` are those before the first FROM, which a stage sees only where it declares them again."""

    arguments: dict[str, str]
    stages: dict[str, Stage]


def instructions(text: str) -> list[Instruction]:
    found, pending, first = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue  # Inside an instruction too.
        first = first if pending else number
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip() + " "
            continue
        found.append(_instruction(first, pending))
        pending = ""
    if pending:
        raise DockerfileError(f"line {first} ends in a backslash, and the file with it")
    return found


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    if name not in NAMES:
        raise DockerfileError(f"line {line}: {name} is not one of {', '.join(NAMES)}")
    flags = []
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", rest):
        flags.append((match[1], match[2]))
        rest = rest[match.end() :]
    return Instruction(line, name, tuple(flags), rest.strip())


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Fills in `${NAME}`, the one form that is allowed outside RUN."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise DockerfileError(f"{match[0]} is not declared by an ARG or ENV before it")
        return values[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def read(path: Path, build_args: Mapping[str, str] | None = None) -> Dockerfile:
    """Parses a Dockerfile, with its images' names filled in."""
    build_args = dict(build_args or {})
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for instruction in instructions(path.read_text()):
        if instruction.name == "FROM":
            match = re.fullmatch(r"(\S+) AS ([a-z-]+)", instruction.rest)
            if match is None:
                raise DockerfileError(f"line {instruction.line}: wanted FROM IMAGE AS NAME, got {instruction.rest}")
            stage = stages[match[2]] = Stage(match[2], substitute(match[1], arguments))
        elif stage is not None:
            stage.instructions.append(instruction)
        elif instruction.name == "ARG":
            name, default = argument(instruction)
            if default is None:
                raise DockerfileError(f"line {instruction.line}: ARG {name} has no default")
            arguments[name] = build_args.get(name, substitute(default, arguments))
        else:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} before the first FROM")
    return Dockerfile(arguments, stages)


def argument(instruction: Instruction) -> tuple[str, str | None]:
    name, has_default, default = instruction.rest.partition("=")
    return name, default.strip('"') if has_default else None


class Ignore:
    """The patterns of a .dockerignore: the last that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self._rules = [(_pattern(line.lstrip("!")), line.startswith("!")) for line in lines]
        self._kept = [line[1:] for line in lines if line.startswith("!")]

    def excludes(self, path: str) -> bool:
        excluded = False
        parts = [path, *map(str, PurePosixPath(path).parents)]
        for pattern, keeps in self._rules:
            if any(pattern.fullmatch(part) for part in parts):
                excluded = not keeps
        return excluded

    def prunes(self, folder: str) -> bool:
        """Whether nothing below the folder can be kept."""
        return self.excludes(folder) and not any(kept.startswith(folder + "/") for kept in self._kept)


def _pattern(text: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*)", text)))
