"""Checks what an output may replace: an earlier output of the same stage, and anything else only if forced.

A wrong `-o` must not destroy the output of another stage, which may have taken hours. A folder counts as a stage's
output if it has the stage's manifest and nothing that the stage does not write.
"""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Iterable
from pathlib import Path

from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

_HEAD_BYTES = 4096  # Pages, pictures and JSON files of this package have their mark within this size.
_MAX_MANIFEST_BYTES = 64 << 20
PAGE_MARK = '<meta name="generator" content="nann"/>'
PICTURE_MARK = "drawn by nann explain"


@dataclasses.dataclass(frozen=True)
class Stage:
    """The output folder of a stage.

    Attributes:
      what: a description for messages, with the command.
      mark: the file by which the output is recognized.
      format: the value of "format" in `mark`, a JSON object; empty if `mark` has none.
      files: patterns of all names in the folder.
    """

    what: str
    mark: str
    format: str
    files: tuple[str, ...]

    def wrote(self, folder: Path) -> bool:
        """Returns whether the folder has the mark of this stage."""
        path = folder / self.mark
        try:
            if not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES:
                return False
            if not self.format:
                return True
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and found.get("format") == self.format

    def foreign(self, folder: Path) -> list[str]:
        """Returns the sorted names in the folder that this stage does not write."""
        names = sorted(path.name for path in folder.iterdir())
        return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.files)]


_MANIFEST = "manifest.json"
PURCHASES = Stage("purchases (`nann demo`)", _MANIFEST, "nann-behavior-csv", (_MANIFEST, "*.csv"))
SEQUENCES = Stage(
    "converted data (`nann convert`)",
    _MANIFEST,
    "nann-sequences",
    (_MANIFEST, "items.parquet", "*_keys.parquet", "*.tfrecord", "*.npy"),  # Version 1 of the format had .npy files.
)
WINDOWS = Stage("TFRecords of alibaba/nann (`nann convert --layout original`)", "ub_meta.json", "", ("ub_*",))
MODEL = Stage(
    "a trained model (`nann train`)", "model.json", "nann-model", ("model.json", "*.npy", "weights.*", "checkpoint")
)
EMBEDDINGS = Stage("embeddings (`nann extract`)", "item_embs.npy", "", ("item_ids.npy", "item_embs.npy"))
INDEX = Stage("an index (`nann index`)", _MANIFEST, "nann-index", (_MANIFEST, "*.bin", "tuning.json"))
EXPORT = Stage(
    "an exported model (`nann export`)",
    "assets.extra/nann_export.json",
    "nann-export",
    ("saved_model.pb", "fingerprint.pb", "assets", "assets.extra", "variables"),
)
ANSWERS = Stage(
    "answers of all users (`nann retrieve-all`)",
    _MANIFEST,
    "nann-answers",
    (_MANIFEST, "part-*.parquet", "identity.json"),  # The last one, if a kill came between two renames.
)
STAGES = (PURCHASES, SEQUENCES, WINDOWS, MODEL, EMBEDDINGS, INDEX, EXPORT, ANSWERS)


def check_replaceable(
    target: str | os.PathLike[str],
    stage: Stage,
    force: bool = False,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> None:
    """Checks that a stage may write the folder `target`, before any long work.

    Args:
      target: the folder, which must be new, empty, or an earlier output of the same stage.
      stage: the stage that will write it.
      force: whether the folder may have any other content. A file, an input and the current folder are refused anyway.
      inputs: the paths that the stage reads; None entries are ignored. The target must not be one of them, contain one
        or be inside one.

    Raises:
      NannError: the stage may not write there; the message says what is there.
    """
    read = [path for path in inputs if path is not None]
    for path in (target, *read):
        check_local(path)
    target = Path(target)
    _check_apart(target, read)
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise NannError(f"{target} is a file; the output must be a new folder, or one that an earlier run wrote")
        if Path.cwd().is_relative_to(target.resolve()):
            raise NannError(f"{target} is the current folder or holds it; the output must be a folder of its own")
        if force or not any(target.iterdir()):
            return
        foreign = stage.foreign(target)
        if stage.wrote(target) and not foreign:
            return
        held = next((each for each in STAGES if each is not stage and each.wrote(target)), None)
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    if stage.wrote(target):
        what = f"{stage.what} and beside it files that no stage wrote, such as {foreign[0]}"
    elif held is not None:
        what = f"what another stage wrote, {held.what}"
    else:
        what = f"files that no stage wrote, such as {sorted(path.name for path in target.iterdir())[0]}"
    raise NannError(
        f"{target} holds {what}; only {stage.what} is replaced: choose a new or empty folder for the output, or give "
        "--force (force=True) to have all of it replaced"
    )


def _check_apart(target: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raises NannError if the folder `target` is an input, contains one or is inside one."""
    place = target.resolve()
    for given in inputs:
        if not Path(given).exists():
            continue
        source = Path(given).resolve()
        if place == source:
            raise NannError(f"{target} is the source and would be replaced; choose another folder")
        if source.is_relative_to(place):
            raise NannError(f"{target} holds {source.name}, a source, and would be replaced; choose another folder")
        if place.is_relative_to(source):
            raise NannError(f"{target} lies in {given}, a source, which would be changed; choose another folder")


def check_page(target: str | os.PathLike[str]) -> None:
    """Checks that an HTML page may be written to the file `target`; see `check_file_replaceable`."""
    check_file_replaceable(target, "a page of this package", PAGE_MARK)


def check_json(target: str | os.PathLike[str], what: str, key: str, value: str = "") -> None:
    """Checks that a JSON file may be written to `target`; see `check_file_replaceable`.

    Args:
      target: the file.
      what: a description of the stage's files for messages.
      key: the first key of the stage's files, by which they are recognized.
      value: the value of that key; empty if it varies.
    """
    check_file_replaceable(target, what, f'"{key}": "{value}"' if value else f'{{\n  "{key}": ')


def check_beside(target: str | os.PathLike[str], *others: str | os.PathLike[str]) -> None:
    """Checks that a stage may write the files `others` beside the JSON file `target`, which was already checked.

    Raises:
      NannError: one of `others` exists although `target` does not, so that this stage cannot have written it.
    """
    for other in others if not Path(target).exists() else ():
        check_file_replaceable(other, f"what goes beside {target}", "")


def check_file_replaceable(target: str | os.PathLike[str], what: str, mark: str, force: bool = False) -> None:
    """Checks that a stage may write the file `target`, before any long work.

    Args:
      target: the file, which must be new, empty, or have `mark` near its beginning.
      what: a description of the stage's files for messages.
      mark: a text near the beginning of all files that the stage writes; empty if such files cannot be recognized, in
        which case no existing file is replaced.
      force: whether any other file may be replaced too.

    Raises:
      NannError: the stage may not write there.
    """
    target = Path(target)
    try:
        if not target.exists():
            return
        if not target.is_file():
            raise NannError(f"{target} is not a regular file; the output, {what}, must be a file")
        if force:
            return
        with target.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    if head and not (mark and mark.encode() in head):
        reason = f"it is not {what}" if mark else f"{what} cannot be told apart from files of yours"
        raise NannError(f"{target} exists and would be replaced, but {reason}; name another file, or remove it first")
