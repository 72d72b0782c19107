"""The working folder of a long stage: what is finished in it survives a kill, and the next run goes on from there."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tfserving_ext.artifacts import put_folder, read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

IDENTITY = "identity.json"


class Unfinished:
    """A hidden folder beside the target of a stage, which one process at a time works in.

    Attributes:
      folder: the folder. Whoever writes a file into it gives it its final name when it is complete, so that what has
        its final name is finished.
    """

    def __init__(self, target: Path, identity: dict[str, Any], doing: str, what: str) -> None:
        """Reopens the folder of an interrupted run of the same work, or starts an empty one.

        Args:
          target: the target of the stage.
          identity: what must be equal for two runs to be the same work; becomes JSON.
          doing: what the stage does, for the folder's name and for messages: "converting".
          what: the same as a noun, for messages: "conversion".

        Raises:
          NannError: another process is at work for the same target.
        """
        self.folder = target.with_name(f".{target.name}.{doing}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._held)
            raise NannError(f"another process is {doing} to {target}; wait for it, or write elsewhere") from error
        wanted = json.loads(json.dumps(identity))
        record = self.folder / IDENTITY
        if not record.exists() or read_json(record) != wanted:
            if any(self.folder.iterdir()):
                console.print(f"  {self.folder} belongs to another {what}; starting anew")
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_json(record, wanted)

    def put(self, target: Path) -> None:
        """Renames the folder to `target`, once all of it is finished; a folder of this name is replaced.

        Raises:
          NannError: the folder cannot be renamed.
        """
        try:
            put_folder(self.folder, target)
            (target / IDENTITY).unlink()
        except OSError as error:
            raise NannError(f"cannot write {target}: {error.strerror or error}") from error

    def close(self) -> None:
        """Releases the lock on the folder."""
        os.close(self._held)

    def delete(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
