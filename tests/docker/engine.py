"""Builds the images of a Dockerfile and runs containers of them as root on Linux, by chroot in namespaces of their own.

It stands in for Docker where there is none: what it leaves out is networks (a container shares the machine's), limits,
seccomp and layers. Every mount lies in the namespace of one command and ends with it.
"""

import ast
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.docker.dockerfile import Dockerfile, DockerfileError, Ignore, Instruction, argument, read, substitute

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class EngineError(Exception):
    pass


def missing() -> str | None:
    """What this machine lacks for building roots, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root, for debootstrap and chroot"
    absent = [
        tool for tool in ("apt-get", "chroot", "dpkg", "mount", "setpriv", "unshare") if shutil.which(tool) is None
    ]
    if absent:
        return f"{', '.join(absent)} not found; Debian and Ubuntu have them"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


# What Docker's daemon passes into a build, and what this machine's own apt and pip use: read at run time, kept nowhere.


@dataclass(frozen=True)
class Outside:
    """Environment of this machine that steps of a build need to reach the network, and where its files go in a root."""

    environment: dict[str, str]
    files: dict[Path, str]


@functools.cache
def outside() -> Outside:
    environment = {key: value for key, value in os.environ.items() if key.lower() in PROXIES or key in CERTIFICATES}
    # pip's files and environment, merged by itself; as environment variables they reach any pip.
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "download", "install", ":env:") and (section == ":env:" or name not in settings):
            settings[name] = ast.literal_eval(value)
    environment |= {f"PIP_{name.replace('-', '_').upper()}": value for name, value in settings.items()}
    files = {Path("/etc/resolv.conf"): "/etc/resolv.conf", Path("/etc/hosts"): "/etc/hosts"}
    for key, value in environment.items():
        if key in CERTIFICATES:
            # Not at its own place, where the package ca-certificates writes.
            files[Path(value)] = environment[key] = f"/run/outside/{Path(value).name}"
            continue
        for word in value.split():
            if word.startswith("file:///"):
                folder = Path(word.removeprefix("file://")).parent  # A simple index points to files beside itself.
                files[folder] = str(folder)
            elif word.startswith("/"):
                files[Path(word)] = word
    return Outside(environment, {path: target for path, target in files.items() if path.exists()})


def debian(root: Path, suite: str) -> None:
    """Makes a minimal Debian from where this machine's apt gets its packages, or else debootstrap's default."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    addresses = [line.split()[2] for line in targets.splitlines() if line.startswith(f"{suite} main ")]
    with tempfile.TemporaryDirectory() as scratch:
        command, environment = _debootstrap(Path(scratch))
        _checked(
            [command, "--variant=minbase", suite, str(root), *addresses[:1]], os.environ | environment, "debootstrap"
        )
    # How apt gets there: proxies, and snapshots of the past, whose signatures have expired.
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Max-ValidTime")
    lines = [line for line in settings.splitlines() if line.startswith(wanted)]
    (root / "etc/apt/apt.conf.d/99outside").write_text("\n".join(lines) + "\n")


def _debootstrap(scratch: Path) -> tuple[str, dict[str, str]]:
    """The installed debootstrap, or Debian's package unpacked: nothing is installed on this machine."""
    if found := shutil.which("debootstrap"):
        return found, {}
    download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "debootstrap"]
    if subprocess.run(download, cwd=scratch, capture_output=True).returncode:
        _checked(["apt-get", "update", "-qq"], dict(os.environ), "apt-get update")
        _checked(download, dict(os.environ), "apt-get download debootstrap", scratch)
    _checked(["dpkg", "-x", *map(str, scratch.glob("debootstrap_*.deb")), str(scratch)], dict(os.environ), "dpkg")
    return str(scratch / "usr/sbin/debootstrap"), {"DEBOOTSTRAP_DIR": str(scratch / "usr/share/debootstrap")}


def _checked(command: Sequence[str], environment: Mapping[str, str], what: str, folder: Path | None = None) -> None:
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise EngineError(f"{what} exited with {done.returncode}:\n{done.stdout.decode(errors='replace')[-4000:]}")


@dataclass(frozen=True)
class Image:
    """A root and how to run it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()

    def command(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs a program as `docker run --read-only --tmpfs /tmp --cap-drop ALL` would."""
        return _enclosed(
            self.root,
            [],
            [
                *("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+sys_chroot,+setuid,+setgid"),
                *("chroot", f"--userspec={self.user}", "--groups=", str(self.root)),
                *_env(self.environment | dict(environment or {}), arguments),
            ],
            read_only=True,
        )

    def run(self, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        """Starts the entry point; `stop` ends it."""
        return subprocess.Popen(
            self.command([*self.entrypoint, *arguments], environment),
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def execute(self, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in the image, as `docker exec` would in a container with these variables."""
        return subprocess.run(
            self.command(arguments, environment),
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )


def stop(process: subprocess.Popen[bytes], timeout: float) -> int:
    """SIGTERM to the container's first process, as `docker stop`; its exit status."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    return process.wait(timeout)


@dataclass(frozen=True)
class Mount:
    """A path of this machine at a path below a root."""

    source: Path
    target: Path
    writable: bool = False


def _env(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    return ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in environment.items()), *arguments]


def _enclosed(root: Path, mounts: Sequence["Mount"], command: Sequence[str], read_only: bool = False) -> list[str]:
    """A command line that runs `command` in namespaces where the mounts lie below the root."""
    lines = ["set -eu", 'root=$1; shift; mount --bind "$root" "$root"', 'mount -t proc proc "$root/proc"']
    lines += ['mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"', 'mount -t tmpfs -o mode=755 tmpfs "$root/dev"']
    lines += [f': >"$root/dev/{name}"; mount --bind /dev/{name} "$root/dev/{name}"' for name in DEVICES]
    lines += ['ln -s /proc/self/fd "$root/dev/fd"']
    if read_only:
        lines += ['mount -o remount,bind,ro "$root"']
    for mount in mounts:
        source, target = shlex.quote(str(mount.source)), shlex.quote(str(mount.target))
        lines.append(f"mount --bind {source} {target}")
        if not mount.writable:
            lines.append(f"mount -o remount,bind,ro {target}")
    script = "\n".join([*lines, 'exec "$@"'])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", str(root), *command]


class Engine:
    """Builds stages below `folder`, from a copy of `context` without what its .dockerignore excludes.

    `bases` makes images that stand for others by name: each changes the root of a minimal Debian and returns the image.
    """

    def __init__(
        self, folder: Path, context: Path, caches: Path, bases: Mapping[str, Callable[[Path], "Image"]] | None = None
    ) -> None:
        self._folder, self._caches, self._bases = folder, caches, bases or {}
        self._context = folder / "context"
        self._images: dict[str, Image] = {}
        ignore = Ignore((context / ".dockerignore").read_text())
        for source in _files(context, ignore):
            target = self._context / source.relative_to(context)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    @property
    def context(self) -> Path:
        """The copy, which takes what the context has not."""
        return self._context

    def build(self, path: Path, target: str, build_args: Mapping[str, str] | None = None) -> Image:
        """Builds a stage and what it needs."""
        return self._stage(read(path, build_args), target, dict(build_args or {}))

    def _stage(self, file: Dockerfile, name: str, build_args: Mapping[str, str]) -> Image:
        if name in self._images:
            return self._images[name]
        stage = file.stages[name]
        root = self._folder / name
        before = self._stage(file, stage.base, build_args) if stage.base in file.stages else self._base(stage.base)
        _checked(["cp", "-a", "--reflink=auto", str(before.root), str(root)], dict(os.environ), "cp")
        image = replace(before, root=root)
        arguments: dict[str, str] = {}
        for instruction in stage.instructions:
            if instruction.name == "ARG":
                key, default = argument(instruction)
                default = file.arguments.get(key) if default is None else default
                if default is None:
                    raise DockerfileError(f"line {instruction.line}: ARG {key} has no default")
                arguments[key] = build_args.get(key, default)
            else:
                image = self._step(file, image, instruction, arguments, build_args)
        self._images[name] = image
        return image

    def _base(self, name: str) -> Image:
        if not name.startswith("debian:bookworm") and name not in self._bases:
            raise EngineError(f"FROM {name}: only debian:bookworm can be made here, and {', '.join(self._bases)}")
        plain = self._folder / "debian"
        if not plain.exists():
            debian(plain, "bookworm")
        if name not in self._images:
            root = plain
            if name in self._bases:
                root = self._folder / re.sub(r"\W", "-", name)
                _checked(["cp", "-a", "--reflink=auto", str(plain), str(root)], dict(os.environ), "cp")
            self._images[name] = self._bases.get(name, Image)(root)
        return self._images[name]

    def _step(
        self,
        file: Dockerfile,
        image: Image,
        step: Instruction,
        arguments: Mapping[str, str],
        build_args: Mapping[str, str],
    ) -> Image:
        values = arguments | image.environment
        if step.name == "RUN":
            self._run(file, image, step, arguments, build_args)
        elif step.name == "COPY":
            *sources, target = substitute(step.rest, values).split()
            before = step.flag("from")
            top = self._context if before is None else self._stage(file, before, build_args).root
            _copy([top / source.lstrip("/") for source in sources], image.root, target)
        elif step.name in ("ENV", "LABEL"):
            pairs = dict(word.split("=", 1) for word in Instruction.words(step))
            new = {key: substitute(value, values) for key, value in pairs.items()}
            if step.name == "ENV":
                return replace(image, environment=image.environment | new)
            return replace(image, labels=image.labels | new)
        elif step.name == "USER":
            return replace(image, user=step.rest)
        elif step.name == "ENTRYPOINT":
            return replace(image, entrypoint=tuple(json.loads(step.rest)))
        elif step.name == "HEALTHCHECK":
            return replace(image, health=tuple(json.loads(step.rest.removeprefix("CMD "))))
        elif step.name != "EXPOSE":
            raise EngineError(f"line {step.line}: {step.name} is not run here")
        return image

    def _run(
        self,
        file: Dockerfile,
        image: Image,
        step: Instruction,
        arguments: Mapping[str, str],
        build_args: Mapping[str, str],
    ) -> None:
        given = outside()
        mounts = [Mount(path, image.root / target.lstrip("/")) for path, target in given.files.items()]
        for mount in step.mounts():
            target = image.root / mount["target"].lstrip("/")
            if mount["type"] == "cache":
                source = self._caches / mount["target"].strip("/").replace("/", "-")
                source.mkdir(parents=True, exist_ok=True)
            elif mount["type"] == "bind":
                before = mount.get("from")
                top = self._context if before is None else self._stage(file, before, build_args).root
                source = top / mount["source"].lstrip("/")
            else:
                raise EngineError(f"line {step.line}: a mount of type {mount['type']} is not made here")
            mounts.append(Mount(source, target, writable=mount["type"] == "cache"))
        made = [path for mount in mounts for path in _mount_point(mount)]
        environment = given.environment | {"HOME": "/root"} | image.environment | arguments
        command = [
            *("chroot", f"--userspec={image.user}", str(image.root)),
            *_env(environment, ["/bin/sh", "-c", step.rest]),
        ]
        _checked(_enclosed(image.root, mounts, command), {"PATH": os.environ["PATH"]}, f"line {step.line}: {step.rest}")
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()


def _mount_point(mount: Mount) -> list[Path]:
    """Makes what is missing of a mount point; returns it, outermost first."""
    made = [path for path in (*reversed(mount.target.parents), mount.target) if not path.exists()]
    for path in made:
        if path == mount.target and mount.source.is_file():
            path.touch()
        else:
            path.mkdir()
    return made


def _copy(sources: Sequence[Path], root: Path, target: str) -> None:
    """COPY: a folder's contents, or files into a folder, by root."""
    into = root / target.lstrip("/")
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True)
        elif target.endswith("/"):
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into)
        else:
            raise DockerfileError(f"COPY {source.name} {target}: a file's target must end in a slash here")


def _files(top: Path, ignore: Ignore) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        relative = Path(folder).relative_to(top)
        folders[:] = [name for name in folders if not ignore.prunes(str(relative / name))]
        yield from (Path(folder) / name for name in files if not ignore.excludes(str(relative / name)))
