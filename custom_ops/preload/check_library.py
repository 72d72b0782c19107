"""Checks that a stock TensorFlow Serving can open a library of the ops.

    python check_library.py build/cmake/serving/libnann_serving-2.20.so

The build runs this on what it has linked. The library takes three things from where it is opened:

- TensorFlow's symbols, from the server itself. `symbols/2.20.txt` beside this file lists those that the ops for 2.20
  may use: each is in the server because the server's own code uses it. A symbol that is not on the list is a decision:
  is it in `tensorflow_model_server`, which links only what it uses? `--add` puts the symbols of a library on the list.
  That of 2.20 holds what GCC 11, GCC 12 and Clang 16 ask for: what a compiler does not inline differs a little.
- The C and C++ libraries, from the image, which is Ubuntu 22.04.
- No library besides these.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

SYMBOLS = Path(__file__).with_name("symbols")
# The newest symbol versions in Ubuntu 22.04, the base of TensorFlow Serving's images: of glibc 2.35 and of GCC 12.
NEWEST = {"GLIBC": "2.35", "GLIBCXX": "3.4.30", "CXXABI": "1.3.13", "GCC": "12.0.0"}
LIBRARIES = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2", "libdl.so.2"}
# Weak references that every library has, to tools that may be there.
OPTIONAL = {"__gmon_start__", "_ITM_registerTMCloneTable", "_ITM_deregisterTMCloneTable"}


def output(*command: str | Path, text: str | None = None) -> str:
    """Returns what a command prints."""
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def plain_names(symbols: list[str]) -> list[str]:
    """Demangles symbols, in a spelling that does not depend on the standard library's ABI or on Abseil's release."""
    names = output("c++filt", text="\n".join(symbols)).splitlines()
    strings = r"std::(__cxx11::)?basic_string<char, std::char_traits<char>, std::allocator<char> ?>"
    names = [re.sub(strings, "std::string", name) for name in names]
    return [re.sub(r"\[abi:cxx11\]|__cxx11::|\blts_\d+::", "", name) for name in names]


def undefined(library: Path) -> list[tuple[str, str]]:
    """Returns the undefined symbols of a library, each with its version, which is "" where it has none."""
    lines = output("nm", "-D", "--undefined-only", "--with-symbol-versions", library).splitlines()
    found = [line.split()[-1] for line in lines]
    pairs = [tuple(symbol.replace("@@", "@").partition("@")[::2]) for symbol in found]
    return [(name, version) for name, version in pairs if name not in OPTIONAL]


def server_symbols(library: Path) -> list[str]:
    """Returns, sorted, the plain names of what a library takes from the server: what no versioned library gives."""
    return sorted(set(plain_names([name for name, version in undefined(library) if not version])))


def list_of(library: Path) -> Path:
    """Returns the list of symbols for the version in a library's name, such as libnann_serving-2.20.so.

    Raises:
      SystemExit: there is no list for this version.
    """
    path = SYMBOLS / f"{library.stem.rpartition('-')[2]}.txt"
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in SYMBOLS.glob("*.txt")))
        raise SystemExit(f"{library.name} has no list of symbols {path}; there are lists for {known}")
    return path


def read_allowed(path: Path) -> set[str]:
    """Returns the plain names that a list allows."""
    return {line for line in path.read_text().splitlines() if line and not line.startswith("#")}


def as_numbers(version: str) -> tuple[int, ...]:
    """Returns a version such as "2.35" as numbers that compare."""
    return tuple(map(int, version.split(".")))


def too_new(library: Path) -> list[str]:
    """Returns the versions of symbols that the image's libraries do not have, such as "GLIBC_2.38"."""
    versions = {version for _, version in undefined(library) if version}
    parts = [(kind, number) for kind, _, number in (version.rpartition("_") for version in versions)]
    late = [f"{kind}_{number}" for kind, number in parts
            if kind not in NEWEST or as_numbers(number) > as_numbers(NEWEST[kind])]  # fmt: skip
    return sorted(late)


def faults(library: Path, allowed: set[str]) -> list[str]:
    """Returns why a stock server cannot open the library, a sentence each; none where it can."""
    found = [f"{name} is not on the list of the server's symbols" for name in server_symbols(library)
             if name not in allowed]  # fmt: skip
    found += [f"{version} is newer than the libraries of Ubuntu 22.04; build it there (docker/Dockerfile does)"
              for version in too_new(library)]  # fmt: skip
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library))
    return found + [f"{name} is a library that the server's image does not have" for name in needed
                    if name not in LIBRARIES]  # fmt: skip


def main() -> None:
    """Checks the library of the command line, and writes the list first where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--add", action="store_true", help="put the library's symbols on the list first")
    arguments = parser.parse_args()
    path = list_of(arguments.library)
    if arguments.add:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        names = read_allowed(path) | set(server_symbols(arguments.library))
        path.write_text("\n".join([*head, *sorted(names)]) + "\n")
    found = faults(arguments.library, read_allowed(path))
    if found:
        sys.exit(f"{arguments.library}:\n  " + "\n  ".join(found))


if __name__ == "__main__":
    main()
