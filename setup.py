"""Builds the op library with CMake into the package; everything else is in pyproject.toml."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MEMORY_PER_COMPILER_GB = 1.0  # Measured: about 700 MB a translation unit, nearly all of it TensorFlow headers.


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
    """Builds `_nann_ops.so` and records which TensorFlow it was built for."""

    def build_extension(self, ext: Extension) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            raise SystemExit("TensorFlow is needed to build the op library: pip install 'tensorflow==2.20.*'")
        build = ROOT / "build" / "cmake"
        targets = {Path(self.get_ext_fullpath(ext.name)).resolve().parent}
        if self.editable_mode:
            targets.add(ROOT / "tfserving_ext" / "ops")
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
        info = {"tensorflow": importlib.metadata.version("tensorflow")}
        for target in targets:
            target.mkdir(parents=True, exist_ok=True)
            new = target / "_nann_ops.so.new"
            shutil.copy2(build / "_nann_ops.so", new)
            new.replace(target / "_nann_ops.so")  # A process that has loaded the old one keeps it whole.
            (target / "build_info.json").write_text(json.dumps(info) + "\n")

    def get_ext_filename(self, fullname: str) -> str:
        """No Python ABI in the name: TensorFlow loads the library, Python never imports it."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))


setup(
    ext_modules=[Extension("tfserving_ext.ops._nann_ops", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
