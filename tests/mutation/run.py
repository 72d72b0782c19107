"""Makes mutants of the sources, one at a time, and sees whether the tests that are nearest to them fail.

    .venv/bin/python tests/mutation/run.py --count 100

It works in a git worktree of its own (build/mutants by default) of the commit that is checked out, so that nothing that
it does, and nothing that stops it, changes your sources. The results are written after every mutant, each with its
commit; the same command goes on until there are as many as are wanted, on the sources as they are by then. README.md
beside it has the last results.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants_of

NO_TESTS = 5  # The exit status of pytest where all tests of the files are left out.
ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
SOURCES = ("custom_ops/core", "custom_ops/kernels", "grappler_passes", "export_tools", "tfserving_ext/serving")
LIBRARY = "tfserving_ext/ops/_nann_ops-tensorflow-*.so"
NO_SOURCES = ("_test.cc", "_fuzz.cc", "testing.h", "__init__.py")
# By the beginning of a path, the first that fits: the tests of its folder. "ctest" are the core's own, of C++.
TESTS = {
    "custom_ops/core/": ["ctest", "tests/ops"],
    "custom_ops/kernels/": ["tests/ops", "tests/passes/test_broken.py", "tests/index"],
    "grappler_passes/": ["ctest", "tests/passes", "tests/export/test_explain.py"],
    "export_tools/": ["tests/export"],
    "tfserving_ext/serving/": ["tests/serving"],
}


def shuffled(root: Path, sources: tuple[str, ...], seed: int) -> list[Mutant]:
    """All mutants in a random order, so that each beginning has of a part of the tree about its share."""
    found: list[Mutant] = []
    for part in sources:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in (".py", ".cc", ".h") and not path.name.endswith(NO_SOURCES):
                found += mutants_of(str(path.relative_to(root)), path.read_text())
    return random.Random(seed).sample(found, len(found))


class Tree:
    """A worktree in which a mutant is built and tested."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def make(self) -> None:
        """Adds the worktree where there is none, and brings it to the commit that is checked out, and built."""
        commit = self.git(ROOT, "rev-parse", "HEAD")
        if not (self.folder / ".git").exists():
            self.git(ROOT, "worktree", "add", "--detach", str(self.folder), commit)
        self.git(self.folder, "checkout", "--quiet", "--force", "--detach", commit)
        if not (self.folder / ".venv").exists():
            (self.folder / ".venv").symlink_to(ROOT / ".venv")
        self.take_library()

    def take_library(self, built: Path | None = None) -> None:
        """Puts an op library where the package looks for it: one that was built, or that of the sources as they are."""
        for own in (ROOT / LIBRARY).parent.glob(Path(LIBRARY).name):
            shutil.copy2(built or own, self.folder / own.relative_to(ROOT))

    @staticmethod
    def git(folder: Path, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def build(self) -> bool:
        """Builds the op library; False where it does not compile."""
        build = self.folder / "build" / "cmake"
        options = ["-G", "Ninja", f"-DPython3_EXECUTABLE={BIN / 'python'}", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"]
        made = self.run([BIN / "cmake", "-S", self.folder, "-B", build, *options]) and self.run(
            [BIN / "cmake", "--build", build, "--target", "nann_ops"]
        )
        if made:
            self.take_library(build / "_nann_ops.so")
        return made

    def run(self, command: list[Any], allowed: tuple[int, ...] = (0,)) -> bool:
        """Whether a command succeeds.

        Raises:
          subprocess.TimeoutExpired: it takes longer than the limit.
        """
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, timeout=self.limit, check=False
        )
        return done.returncode in allowed

    def verdict(self, mutant: Mutant) -> str:
        """ "killed" by the tests, "survived" them, "endless", or "invalid" where it does not build.

        The source is put back.
        """
        source = self.folder / mutant.path
        whole = source.read_text()
        source.write_text(mutant.applied(whole))
        try:
            if source.suffix != ".py" and not self.build():
                return "invalid"
            return "survived" if all(map(self.passes, self.nearest(mutant.path))) else "killed"
        except subprocess.TimeoutExpired:
            return "endless"
        finally:
            source.write_text(whole)
            self.take_library()

    def nearest(self, path: str) -> list[list[str]]:
        """Runs of the tests of a source's folder: first its own file and those that name it, then the others."""
        begins = next(begin for begin in TESTS if path.startswith(begin))
        stem = Path(path).stem
        runs = [["ctest"]] if "ctest" in TESTS[begins] else []
        files = [
            str(file.relative_to(self.folder))
            for named in TESTS[begins]
            for file in sorted(
                [self.folder / named] if named.endswith(".py") else (self.folder / named).glob("test_*.py")
            )
        ]
        own = [file for file in files if Path(file).stem == f"test_{stem}"]
        naming = [file for file in files if re.search(rf"\b{stem}\b", (self.folder / file).read_text())]
        first = list(dict.fromkeys(own + naming))
        return [*runs, *([[file] for file in first]), [file for file in files if file not in first]]

    def passes(self, tests: list[str]) -> bool:
        """Whether tests of Python, or all of the core's own, pass."""
        if tests != ["ctest"]:
            pytest = [
                BIN / "python",
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow and not alone",
            ]
            return not tests or self.run([*pytest, *tests], allowed=(0, NO_TESTS))
        build = self.folder / "build" / "cmake"
        return self.run([BIN / "cmake", "--build", build, "--target", "core_tests"]) and self.run(
            [BIN / "ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error"]
        )


def table(results: list[dict[str, Any]]) -> str:
    """Counts by part of the tree, and the mutants that survived."""
    parts: dict[str, Counter[str]] = {}
    for one in results:
        part = next(part for part in SOURCES if one["path"].startswith(part + "/"))
        parts.setdefault(part, Counter())[one["verdict"]] += 1
    lines = ["| sources | killed | endless | survived | did not build |", "| --- | --- | --- | --- | --- |"]
    for part, counts in sorted(parts.items()):
        numbers = (counts[verdict] for verdict in ("killed", "endless", "survived", "invalid"))
        lines.append(f"| `{part}` | {' | '.join(map(str, numbers))} |")
    survived = [one for one in results if one["verdict"] == "survived"]
    lines += [
        "",
        *(f"- `{one['path']}:{one['line']}` {one['kind']}: `{one['old']}` -> `{one['new']}`" for one in survived),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="mutants wanted, those of the results included")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which mutants are taken")
    parser.add_argument("--only", choices=SOURCES, action="append", help="a part of the tree, all by default")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "tests" / "mutation" / "results.json", help="to write, or to go on with"
    )
    parser.add_argument("--tree", type=Path, default=ROOT / "build" / "mutants", help="the worktree to work in")
    parser.add_argument(
        "--limit", type=int, default=900, help="seconds for a build or a run of tests; longer is endless"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further mutant after so many")
    arguments = parser.parse_args()
    began = time.monotonic()
    tree = Tree(arguments.tree.resolve(), arguments.limit)
    tree.make()
    commit = Tree.git(tree.folder, "rev-parse", "HEAD")
    held: dict[str, Any] = {"mutants": []}
    if arguments.results.exists():
        held = json.loads(arguments.results.read_text())
    done = {one["name"] for one in held["mutants"]}
    for mutant in shuffled(tree.folder, tuple(arguments.only or SOURCES), arguments.seed):
        if mutant.name in done:
            continue
        valid = sum(one["verdict"] != "invalid" for one in held["mutants"])
        if valid >= arguments.count or time.monotonic() - began > 60 * arguments.minutes:
            break
        start = time.monotonic()
        verdict = tree.verdict(mutant)
        result = {"commit": commit, "verdict": verdict, "seconds": round(time.monotonic() - start)}
        held["mutants"].append({"name": mutant.name, **mutant._asdict(), **result})
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        new = arguments.results.with_suffix(".new")
        new.write_text(json.dumps(held, indent=1) + "\n")
        new.replace(arguments.results)
        print(f"{valid + 1} {verdict}: {mutant.path}:{mutant.line} {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(table(held["mutants"]))


if __name__ == "__main__":
    main()
