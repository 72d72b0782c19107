"""Builds the op library with CMake into the package, and requires the TensorFlow that it was built against.

A library loads into one minor version of TensorFlow only. NANN_OP_LIBRARIES may name a folder of libraries that were
built for other ones; they come along, and the distribution requires any of these versions (docs/adr/0023).

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


def other_libraries() -> list[Path]:
    """Returns the op libraries in NANN_OP_LIBRARIES.

    Raises:
      SystemExit: the folder has none.
    """
    folder = os.environ.get("NANN_OP_LIBRARIES")
    found = sorted(Path(folder).glob("_nann_ops-tensorflow-*.so")) if folder else []
    if folder and not found:
        raise SystemExit(f"NANN_OP_LIBRARIES is {folder}, which has no _nann_ops-tensorflow-*.so")
    return found


def requirements() -> list[str]:
    """Returns the lines of requirements.in, with those of TensorFlow narrowed to the versions that have a library.

    If TensorFlow is not installed, as when the sources are only packed, nothing is narrowed.

    Raises:
      SystemExit: there is a version between two others that has no library.
    """
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()]
    found, minor = [line for line in lines if line], tensorflow()
    if minor is None:
        return found
    minors = {minor, *(library.stem.rpartition("-")[2] for library in other_libraries())}
    numbers = sorted(int(one.removeprefix("2.")) for one in minors)
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise SystemExit(
            f"there are op libraries for TensorFlow {', '.join(sorted(minors))}, and for none between them"
        )
    narrowed = f">=2.{numbers[0]},<2.{numbers[-1] + 1}"
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
            others = [(library, library.name) for library in other_libraries()]
            for library, name in [(build / "_nann_ops.so", target.name), *others]:
                new = target.with_name(f"{name}.new")
                shutil.copy2(library, new)
                new.replace(target.with_name(name))  # A process that has loaded the old one keeps it whole.

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
