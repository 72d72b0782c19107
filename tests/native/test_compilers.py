"""Every C++ source compiles without a warning, by GCC with the standard library's old and new ABI, and by Clang.

TensorFlow Serving is built with the old ABI, the wheel with the new one. Clang's warnings do not depend on the ABI, so
Clang reads the sources once, with the old one. The flags are CMake's own; `-Werror` is added here, not there, so that a
user's newer compiler cannot break an installation. Clang's warnings come from clang-tidy, which pip installs, so that a
machine without Clang has it too; it reads GCC's standard library. It generates no code; `make fuzz` compiles the core
with a complete Clang.

Nearly all the time goes into TensorFlow's headers, so GCC reads them once. Clang reads them for each source, and finds
an `#include` that a source lacks.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCE_FOLDERS = ("custom_ops", "grappler_passes", "tests/native")
PROCESSES = min(2, os.cpu_count() or 1)  # Each takes 400 MB to 1.2 GB of memory where TensorFlow is included.

# clang-tidy refuses to run without a check of its own. This one reads only `#include` lines, so it costs no time.
CLANG = [BIN / "clang-tidy", "--quiet", "--checks=-*,clang-diagnostic-*,readability-duplicate-include",
         "--warnings-as-errors=*", "--header-filter=.*"]  # fmt: skip


class Source(NamedTuple):
    """A C++ file, and the compiler's arguments except the file, the output and the ABI."""

    path: Path
    arguments: tuple[str, ...]

    @property
    def in_core(self) -> bool:
        """Whether the file needs no header of TensorFlow: the core, the tests of shapes, and preloaded sources."""
        return self.path.parent.name in ("core", "preload") or self.path.stem.endswith("_test")


def output(*command: str | Path) -> str:
    """Returns the output of a command; empty if the command succeeds."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr if run.returncode else ""


class Gcc:
    """GCC. The third-party headers that sources outside the core include are compiled first, into `folder`."""

    def __init__(self, abi: int, folder: Path) -> None:
        self.flags = (f"-D_GLIBCXX_USE_CXX11_ABI={abi}", "-Werror")
        self.headers = folder / "headers.h"

    def prepare(self, sources: list[Source]) -> str:
        users = [source for source in sources if not source.in_core]
        ours = {path for source in users for path in source.path.parent.glob("*.[hc]*")}
        lines = {line for path in ours for line in path.read_text().splitlines()}
        kept = sorted(line for line in lines if re.match(r'#include ("tensorflow/|"absl/|<)', line))
        self.headers.write_text("\n".join(kept) + "\n")
        to = self.headers.with_suffix(".h.gch")
        return output("g++", *users[0].arguments, *self.flags, "-x", "c++-header", self.headers, "-o", to)

    def errors(self, source: Source) -> str:
        included = () if source.in_core else ("-Winvalid-pch", "-include", self.headers)
        return output("g++", *source.arguments, *self.flags, *included, "-c", source.path, "-o", os.devnull)


class Clang:
    """Clang's front end; it needs no preparation."""

    def __init__(self, abi: int, folder: Path) -> None:
        self.flags = (f"-D_GLIBCXX_USE_CXX11_ABI={abi}", "-Werror")

    def prepare(self, sources: list[Source]) -> str:
        return ""

    def errors(self, source: Source) -> str:
        return output(*CLANG, source.path, "--", *source.arguments, *self.flags)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is removed after the tests, unlike pytest's, as GCC's headers take 400 MB."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """All sources that CMake builds, each one once."""
    build = tmp_path_factory.mktemp("cmake")
    said = output(BIN / "cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_CXX_COMPILER=g++", "-DCCACHE=",
                  "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON",
                  f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}")  # fmt: skip
    assert not said, said
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        _, *arguments = shlex.split(entry["command"])
        arguments = arguments[: arguments.index("-o")]
        path = Path(entry["file"])
        if path in found and "-fPIC" not in arguments:
            continue  # A file that the library and a test share is compiled with the library's arguments.
        # As a program, a source would not take the headers that are compiled for those of the library.
        flags = [flag.replace("-fPIE", "-fPIC") for flag in arguments if "_GLIBCXX_USE_CXX11_ABI" not in flag]
        found[path] = Source(path, tuple(flags))
    return list(found.values())


def test_cmake_builds_every_source(sources: list[Source]):
    files = {path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.cc")}
    assert {source.path for source in sources} == files


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "abi"), [(Gcc, 0), (Gcc, 1), (Clang, 0)])
def test_every_source_compiles_without_a_warning(
    sources: list[Source], folder: Path, compiler: type[Gcc] | type[Clang], abi: int
):
    tool = compiler(abi, folder)
    core = [source for source in sources if source.in_core]
    others = [source for source in sources if not source.in_core]
    with ThreadPoolExecutor(PROCESSES) as pool:
        prepared = pool.submit(tool.prepare, sources)  # Meanwhile, compile the sources that do not need it.
        errors = list(pool.map(tool.errors, core))
        assert not prepared.result(), prepared.result()
        errors += pool.map(tool.errors, others)
    assert not any(errors), "\n".join(filter(None, errors))


@pytest.mark.parametrize("compiler", [Gcc, Clang])
@pytest.mark.parametrize("header", [False, True])
def test_a_warning_is_an_error(sources: list[Source], folder: Path, compiler: type[Gcc] | type[Clang], header: bool):
    warned = "inline int Two() { int never; return 2; }\n"
    (folder / "core").mkdir()
    (folder / "core" / "two.h").write_text(warned if header else "")
    (folder / "core" / "one.cc").write_text('#include "two.h"\n' + ("" if header else warned))
    walk = next(source for source in sources if source.path.name == "walk.cc")
    errors = compiler(0, folder).errors(walk._replace(path=folder / "core" / "one.cc"))
    assert "unused-variable" in errors
