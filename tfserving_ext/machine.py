"""Describes what a measurement was made with: the machine, and the versions of the software."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

# Instruction sets on which the speed of this software depends.
_FLAGS = ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
_PACKAGES = (
    *("tensorflow", "numpy", "faiss-cpu", "grpcio", "protobuf", "keras", "tfserving-ext"),
    *("hnswlib", "usearch", "numba"),  # Peers of `make bench-search`.
)


def machine() -> dict[str, Any]:
    """Returns the processor with its relevant flags, the cores of this process, the memory in GB, and the system."""
    cpu = _proc_cpu()
    found = set(cpu.get("flags", "").split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in _FLAGS if flag in found],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages on which measurements may depend."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns the git commit of this code, with "-dirty" if tracked files are modified; "" outside a checkout."""
    folder = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Fails for an installed copy inside some other checkout, whose commit git would otherwise return.
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return ""


def provenance() -> dict[str, Any]:
    """Returns the origin of a benchmark's figures for its JSON: `machine`, `versions`, `commit` and `date` (UTC)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"machine": machine(), "versions": versions(), "commit": commit(), "date": now.isoformat(timespec="seconds")}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _proc_cpu() -> dict[str, str]:
    """Returns the first processor's fields of /proc/cpuinfo; empty if there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
