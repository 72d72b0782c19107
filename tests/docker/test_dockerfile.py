"""The reader of Dockerfiles that the other tests lean on."""

import pytest

from tests.docker.dockerfile import DockerfileError, Ignore, argument, instructions, read, substitute


def test_lines_join_and_comments_between_them_go():
    text = "# first\nRUN --mount=type=cache,target=/c \\\n --network=none \\\n # why\n make \\\n && true\n\nUSER 1:1\n"
    run, user = instructions(text)
    assert (run.line, run.rest, user.line, user.words()) == (2, "make && true", 8, ["1:1"])
    assert run.mounts() == [{"type": "cache", "target": "/c"}]
    assert run.flag("network") == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('FROM a AS b\nSHELL ["bash"]', "line 2: SHELL is not one of"),
        ("FROM a", "line 1: wanted FROM IMAGE AS NAME"),
        ("ARG A", "line 1: ARG A has no default"),
        ("RUN true", "line 1: RUN before the first FROM"),
        ("FROM ${A} AS b", r"\$\{A\} is not declared"),
        ("FROM a AS b\nRUN x \\", "line 2 ends in a backslash"),
    ],
)
def test_what_it_does_not_know_is_refused(tmp_path, text, message):
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(DockerfileError, match=message):
        read(tmp_path / "Dockerfile")


def test_arguments_choose_the_stage(tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text("ARG V=1\nARG CPU=image:${V}\nARG D=cpu\nFROM ${CPU} AS base-cpu\nFROM base-${D} AS run\nARG V\n")
    assert [stage.base for stage in read(path).stages.values()] == ["image:1", "base-cpu"]
    other = read(path, {"V": "2", "D": "gpu"})
    assert [stage.base for stage in other.stages.values()] == ["image:2", "base-gpu"]
    assert argument(other.stages["run"].instructions[0]) == ("V", None)
    assert substitute("x${V}$V", {"V": "3"}) == "x3$V"


def test_the_last_pattern_of_an_ignore_file_decides():
    ignore = Ignore("# why\n.git\n**/*.so\n**/__pycache__\nbazel-*\ndemo/*\n!demo/models\n")
    for path in (".git/config", "a.so", "x/y/a.so", "x/__pycache__/m.pyc", "bazel-out/a", "demo/data/x"):
        assert ignore.excludes(path), path
    for path in ("git", "a.sold", "demo/models/nann/1/x", "x/bazel-y"):
        assert not ignore.excludes(path), path
    assert ignore.prunes(".git")
    assert not ignore.prunes("demo")
