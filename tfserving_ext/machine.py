"""What a measurement was made on: the machine, and the versions of what ran."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

# Instruction sets that decide how fast this software is.
_FLAGS = ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
_PACKAGES = (
    *("tensorflow", "numpy", "faiss-cpu", "grpcio", "protobuf", "keras", "tfserving-ext"),
    *("hnswlib", "usearch", "numba"),  # Peers of `make bench-search`.
)


def machine() -> dict[str, Any]:
    """The processor with the flags that matter, cores that this process may use, memory in GB, and the system."""
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
    """Versions of Python and of the packages that a figure may depend on; those that are not there are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The git commit that runs, with "-dirty" where tracked files differ from it; "" outside a checkout."""
    folder = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # An installed copy may lie in somebody else's checkout, of which git would tell the commit.
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return ""


def provenance() -> dict[str, Any]:
    """What a benchmark's JSON says of where its figures come from: `machine`, `versions`, `commit` and `date` (UTC)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"machine": machine(), "versions": versions(), "commit": commit(), "date": now.isoformat(timespec="seconds")}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _proc_cpu() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; none where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
