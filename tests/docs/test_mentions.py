"""What README and docs/ name is there: commands, options, targets, modules, files."""

import importlib
import importlib.util
import re
import shlex

import pytest
import typer

from tests.docs.pages import (
    OTHER,
    PAGES,
    PYTHON,
    ROOT,
    SHELL,
    block_commands,
    blocks,
    commands,
    spans,
    subcommands,
)
from tfserving_ext.serving.flags import FLAGS

OPTIONS = {
    name: {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    for name, command in subcommands()
}
# Flags of TensorFlow Serving have underscores; `nann serve` takes both, and those too that do nothing there.
OPTIONS["serve"] |= {"--" + flag[2:].replace("-", "_") for flag in OPTIONS["serve"]} | {f"--{name}" for name in FLAGS}
HELP = {"--help", "-h"}
# Options of other programs that the text names by themselves.
FOREIGN = {
    "--tf_xla_persistent_cache_directory": "XLA, by TF_XLA_FLAGS",
    "--build-arg": "docker build",
    "--gpus": "docker run",
    "--define": "bazel",
    "--noenable_bzlmod": "bazel",
    "--jobs": "bazel",
    "--mode": "buildifier",
    "--lint": "buildifier",
    "--synthetic": "python -m benchmarks.data.index_build",
    "--corpus": "python -m benchmarks.search.graphs",
    "--out": "python -m benchmarks.*, and nann",
    "--adv-eps": "the original's main.py",
    "--num-neg": "the original's main.py",
    "--batch-size": "the original's main.py, and nann",
    "--job-type": "the original's main.py",
    "--extra": "uv",
    "--exclude": "auditwheel",
    "--user": "docker run",
    "--platform": "docker build and docker run",
    "--target": "tests/serving/test_conformance.py, and nann",
}


def _mentions():
    """Every piece of code that begins with `nann`, by place, as words."""
    for block in (each for each in blocks() if each.language == SHELL):
        for command in block_commands(block):
            yield f"{command.page}:{command.line}", list(command.words)
    for page, line, span in spans():
        if re.match(r"(\.venv/bin/)?nann\b", span):
            yield f"{page}:{line}", shlex.split(span)
    for command in commands():
        yield f"{command.page}:{command.line}", list(command.words)


@pytest.mark.medium
def test_every_command_and_option_that_is_mentioned_exists():
    """First contact, line 26."""
    wrong = []
    for place, words in _mentions():
        if not words or words[0].removeprefix(".venv/bin/") != "nann":
            continue
        rest = words[1:]
        if rest[:1] == ["--import"]:
            rest = rest[2:]
        name = rest[0] if rest and rest[0] in OPTIONS else ""
        if name == "bench" and len(rest) > 1 and f"bench {rest[1]}" in OPTIONS:
            name = f"bench {rest[1]}"
        if rest and not name and not rest[0].startswith("-"):
            wrong.append(f"{place}: `nann {rest[0]}` is no command")
        given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]\S*$", word)]
        wrong += [f"{place}: nann {name} has no {flag}" for flag in given if flag not in OPTIONS[name] | HELP]
    assert not wrong, "\n".join(wrong)


def test_every_option_in_the_text_is_one_of_something():
    known = set().union(*OPTIONS.values()) | HELP | set(FOREIGN)
    wrong = [
        f"{page}:{line}: {flag}"
        for page, line, span in spans()
        for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", span)
        if flag not in known and span.split(" ")[0] in ("nann", flag, flag + "=" + span.partition("=")[2])
    ]
    assert not wrong, "\n".join(wrong)


def test_every_target_and_module_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = [span for _, _, span in spans()] + [block.text for block in blocks() if block.language == SHELL]
    named = {target for text in code for target in re.findall(r"\bmake ([a-z-]+)(?!\S*\.\.\.)", text)} - {"bench-"}
    assert named - targets == set()
    modules = {module for text in code for module in re.findall(r"\bpython -m ([\w.]+)", text)}
    assert {module for module in modules if importlib.util.find_spec(module) is None} == set()


def test_every_option_of_a_benchmark_exists():
    """Of those that the pages and the Makefile run as `python -m benchmarks.GROUP.NAME`."""
    run = re.compile(r"-m (benchmarks\.\w+\.\w+)([^|&;`]*)")
    code = [span for _, _, span in spans()] + (ROOT / "Makefile").read_text().splitlines()
    found = [match.groups() for text in code for match in run.finditer(text)]
    assert len({module for module, _ in found}) > 10
    for module, arguments in found:
        app = typer.Typer()
        app.command()(importlib.import_module(module).main)
        known = {flag for each in typer.main.get_command(app).params for flag in (*each.opts, *each.secondary_opts)}
        given = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", arguments))
        assert given - known == set(), f"python -m {module}"


def test_every_file_that_a_page_links_to_exists():
    wrong = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        if not re.match(r"https?:", link) and not (path.parent / link).exists()
    ]
    assert not wrong


def test_every_file_that_a_page_names_exists():
    """Within code, what has a folder of the repository before it."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    made = {"demo", "build"}
    wrong = [
        f"{page}:{line}: {span}"
        for page, line, span in spans()
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", span)
        and span.split("/")[0] in folders - made
        and not span.startswith("benchmarks/out")
        and not (ROOT / span).exists()
    ]
    assert not wrong, "\n".join(wrong)


def test_every_block_says_what_it_is():
    """So that a command cannot hide in a block that no test reads."""
    wrong = [f"{block.page}:{block.line}" for block in blocks() if block.language not in (SHELL, PYTHON, *OTHER)]
    assert not wrong


def test_the_tree_has_every_folder():
    """First contact, line 26: it left out several."""
    tree = next(
        block.text for block in blocks() if block.page == "docs/architecture.md" and "custom_ops/ " in block.text
    )
    top = {name for line in tree.splitlines() if not line.startswith(" ") for name in re.findall(r"^(?:\S+/ )+", line)}
    named = {name.rstrip("/") for names in top for name in names.split()}
    ours = {path.name for path in ROOT.iterdir() if (path.is_dir() and not path.name.startswith("."))}
    tracked = ours - {"build", "demo", "dist", "__pycache__"} - {path.name for path in ROOT.glob("*.egg-info")}
    assert named == tracked
    package = {path.name for path in (ROOT / "tfserving_ext").iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == package


@pytest.mark.parametrize("command", commands(), ids=str)
def test_every_command_is_run_or_says_why_not(command):
    """First contact, line 26: `make test-docs` runs each; what it cannot run stands in a table, with the reason."""
    from tests.docs.running import ELSEWHERE, RUNS

    program = command.words[0].removeprefix(".venv/bin/")
    reasons = [reason for start, reason in ELSEWHERE.items() if " ".join(command.words).startswith(start)]
    assert program in RUNS or reasons, f"{command}: neither run nor in ELSEWHERE"


@pytest.mark.medium
def test_nothing_is_left_out_that_no_page_has():
    from tests.docs.running import ELSEWHERE

    told = [" ".join(command.words) for command in commands()]
    assert [start for start in ELSEWHERE if not any(each.startswith(start) for each in told)] == []
