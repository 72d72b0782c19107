"""Builds the op library with CMake into the package, and requires the TensorFlow that it was built against.

Everything else is in pyproject.toml.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MEMORY_PER_COMPILER_GB = 1.0  # Measured: about 700 MB a translation unit, nearly all of it TensorFlow headers.
# requirements.in says which minor versions of these are taken; what is built takes the one that it was built with.
OF_TENSORFLOW = ("tensorflow", "tensorflow-serving-api")


def tensorflow() -> str | None:
    """The minor version of the TensorFlow that is installed, such as "2.20"; None where there is none."""
    try:
        version = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return None
    return ".".join(version.split(".")[:2])


def requirements() -> list[str]:
    """What the distribution requires: the lines of requirements.in, those of TensorFlow narrowed to what is installed.

    A library loads only into the minor version that it was built against. Where TensorFlow is not there, as when the
    sources are only packed, nothing is narrowed.
    """
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()]
    found, minor = [line for line in lines if line], tensorflow()
    if minor is None:
        return found
    major, number = minor.split(".")
    narrowed = f">={minor},<{major}.{int(number) + 1}"
    return [name + narrowed if (name := re.split(r"[^\w-]", line)[0]) in OF_TENSORFLOW else line for line in found]


def check_tensorflow() -> str:
    """The minor version to build against.

    Raises:
      SystemExit: there is no TensorFlow, or one that requirements.in does not take.
    """
    (allowed,) = re.findall(r"^tensorflow>=([\d.]+),<([\d.]+)$", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    minor = tensorflow()
    if minor is None or importlib.util.find_spec("tensorflow") is None:
        raise SystemExit("TensorFlow is needed to build the op library: pip install 'tensorflow==2.20.*'")
    least, below, number = (tuple(map(int, version.split("."))) for version in (*allowed, minor))
    if not least <= number < below:
        raise SystemExit(
            f"TensorFlow {minor} is installed; the op library is built against {allowed[0]} and above, below "
            f"{allowed[1]}: pip install 'tensorflow>={allowed[0]},<{allowed[1]}'"
        )
    return minor


def tool(name: str) -> str:
    """The CMake or Ninja beside this Python, where pip put it, or else the system's."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is needed to build the op library: pip install {name}")
    return found


def jobs() -> int:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(memory_gb / MEMORY_PER_COMPILER_GB)))


class CMakeBuild(build_ext):
    """Builds the op library; its name says for which TensorFlow, so that those of several can lie in one tree."""

    def build_extension(self, ext: Extension) -> None:
        minor = check_tensorflow()
        build = ROOT / "build" / f"cmake-tensorflow-{minor}"
        targets = {Path(self.get_ext_fullpath(ext.name))}
        if self.editable_mode:
            targets.add(ROOT / self.get_ext_filename(ext.name))
        subprocess.run(
            [
                tool("cmake"),
                *("-S", ROOT, "-B", build, "-G", "Ninja"),
                f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
                f"-DPython3_EXECUTABLE={sys.executable}",
            ],
            check=True,
        )
        subprocess.run([tool("cmake"), "--build", build, "--parallel", str(jobs())], check=True)
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f"{target.name}.new")
            shutil.copy2(build / "_nann_ops.so", new)
            new.replace(target)  # A process that has loaded the old one keeps it whole.

    def get_ext_filename(self, fullname: str) -> str:
        """No Python ABI in the name: TensorFlow loads the library, Python never imports it."""
        return f"{Path(*fullname.split('.'))}-tensorflow-{tensorflow()}.so"


class Wheel(bdist_wheel):
    """A wheel for any Python on this platform, since Python never imports the library."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    install_requires=requirements(),
    ext_modules=[Extension("tfserving_ext.ops._nann_ops", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
)
