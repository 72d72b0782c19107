"""The inputs of requests: made up from the model's signature, read from a file, or taken from converted data."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import InputSpec, ModelSpec
from tfserving_ext.loadtest.seen import drawn, seen_values, usable
from tfserving_ext.serving.requests import item_keys_of, spelled

Inputs = dict[str, np.ndarray]

HISTORY = "item_history"
OPEN_EXTENT = 20  # The size of dimensions that a signature leaves open, except for the first, the batch.
WORD_LETTERS = 8
MAX_ELEMENTS = 1 << 26  # Of one made-up input.
MAX_FILE_BYTES = 1 << 30


def make_inputs(model: ModelSpec, signatures: Mapping[str, Any], seed: int) -> list[Inputs]:
    """Makes the requests of one model.

    Args:
      model: specifies the source of the requests.
      signatures: the model's SignatureDefs by name.
      seed: the seed of all random draws.

    Returns:
      At least one request, as arrays by input name with the signature's dtypes.

    Raises:
      NannError: there is no such signature, a file cannot be read, or its content does not fit the signature.
    """
    signature = _signature(model, signatures)
    unknown = sorted(set(model.inputs) - set(signature.inputs))
    if unknown:
        raise NannError(f"{_where(model)} has no input {unknown[0]!r}; it has {', '.join(sorted(signature.inputs))}")
    random = np.random.default_rng([seed, *model.name.encode()])
    source = None if model.input_data is None else str(model.input_data)
    seen = seen_values(model)
    if model.input_data is not None:
        given: Iterable[Mapping[str, Any]] = read_requests(model.input_data, signature)
    elif model.data is not None:
        given = _histories(model, signature, random)
    else:
        given = [{} for _ in range(model.requests)]
    return [complete(model, signature, each, random, source, seen) for each in given]


def complete(
    model: ModelSpec,
    signature: Any,
    given: Mapping[str, Any],
    random: np.random.Generator,
    source: str | None = None,
    seen: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Inputs:
    """Completes a request with made-up values for missing inputs.

    Inputs that have a default are left out unless the model's `inputs` names them.

    Args:
      model: specifies how inputs are made up.
      signature: the SignatureDef.
      given: the known values by input name.
      random: the source of made-up values.
      source: the file with the real requests, if there is one; then only inputs that the model's `inputs` names are
        made up.
      seen: values that the model is known to accept, by input name; made-up values are drawn from them unless the
        model's `inputs` gives a range.

    Raises:
      NannError: the request does not fit the signature.
    """
    unknown = sorted(set(given) - set(signature.inputs))
    if unknown:
        raise NannError(f"{_where(model)} has no input {unknown[0]!r}; it has {', '.join(sorted(signature.inputs))}")
    made = {}
    for name, info in sorted(signature.inputs.items()):
        spec = model.inputs.get(name, InputSpec())
        value = given.get(name, spec.value)
        if value is not None:
            made[name] = _as_input(model, name, info, value)
        elif source is not None and name not in model.inputs and name not in signature.defaults:
            raise NannError(f"{_where(model)} needs input {name!r}, which a request in {source} lacks")
        elif name in model.inputs or name not in signature.defaults:
            made[name] = _mock(model, name, info, spec, random, seen)
    return made


def _signature(model: ModelSpec, signatures: Mapping[str, Any]) -> Any:
    if model.signature not in signatures:
        known = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
        raise NannError(f"model {model.name!r} has no signature {model.signature!r}; it has {known}")
    return signatures[model.signature]


def _where(model: ModelSpec) -> str:
    return f"signature {model.signature!r} of model {model.name!r}"


def _dtype(model: ModelSpec, name: str, info: Any) -> np.dtype:
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.dtype(object)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool) or dtype.is_quantized:
        raise NannError(f"{_where(model)}: cannot make input {name!r} of dtype {dtype.name}; give --input-data")
    return np.dtype(dtype.as_numpy_dtype)


def _as_input(model: ModelSpec, name: str, info: Any, value: Any) -> np.ndarray:
    dtype = _dtype(model, name, info)
    try:
        found = np.asarray(value)
        if dtype.hasobject:
            found = np.vectorize(_as_bytes, otypes=[object])(found) if found.size else found.astype(object)
        elif dtype != found.dtype:
            cast = found.astype(dtype)
            # Integers must keep their values exactly; fractions may be rounded, to float16 say.
            if np.issubdtype(dtype, np.integer) and not np.array_equal(cast, found):
                raise ValueError(f"{found.ravel()[:3].tolist()} cannot be converted exactly")
            found = cast
    except (ValueError, TypeError, OverflowError) as error:
        raise NannError(f"{_where(model)}: input {name!r} must be {dtype}: {error}") from error
    wanted = None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
    if wanted is not None and (
        len(wanted) != found.ndim or any(w >= 0 and w != g for w, g in zip(wanted, found.shape, strict=True))
    ):
        raise NannError(f"{_where(model)}: input {name!r} has shape {list(found.shape)}, expected {wanted}")
    return found


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _mock(
    model: ModelSpec,
    name: str,
    info: Any,
    spec: InputSpec,
    random: np.random.Generator,
    seen: Mapping[str, np.ndarray],
) -> np.ndarray:
    extents = [] if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
    default = [size if size >= 0 else (1 if place == 0 else OPEN_EXTENT) for place, size in enumerate(extents)]
    shape = default if spec.shape is None else spec.shape
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise NannError(f"{_where(model)}: input {name!r} of shape {shape} has more than {MAX_ELEMENTS:,} elements")
    dtype = _dtype(model, name, info)
    known = usable(seen, name, dtype) if spec.low is None and spec.high is None else None
    if known is not None:
        value: Any = drawn(known, shape, random)
    elif dtype.hasobject:
        letters = random.integers(ord("a"), ord("z") + 1, [*shape, WORD_LETTERS], dtype=np.uint8)
        words = [bytes(word) for word in letters.reshape(-1, WORD_LETTERS)]
        value = np.array(words, object).reshape(shape)
    elif dtype.kind == "b":
        value = random.integers(0, 2, shape).astype(bool)
    elif np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = (default if given is None else given for given, default in ((spec.low, 0), (spec.high, 99)))
        if not (limits.min <= low <= high <= limits.max) or low != int(low) or high != int(high):
            raise NannError(f"{_where(model)}: input {name!r}: low {low} and high {high} are not a range of {dtype}")
        value = random.integers(int(low), int(high), shape, dtype=dtype, endpoint=True)
    else:
        low, high = (default if given is None else given for given, default in ((spec.low, 0.0), (spec.high, 1.0)))
        if not low <= high:
            raise NannError(f"{_where(model)}: input {name!r}: low {low} is above high {high}")
        value = random.uniform(low, high, shape).astype(dtype)
    return _as_input(model, name, info, value)


def _histories(model: ModelSpec, signature: Any, random: np.random.Generator) -> Iterator[Mapping[str, Any]]:
    """Yields requests with the histories of test users, as item ids."""
    from tfserving_ext.data.sequences import Sequences

    if HISTORY not in signature.inputs:
        raise NannError(
            f"{_where(model)} has no input {HISTORY!r}, which histories need; it has "
            f"{', '.join(sorted(signature.inputs))}"
        )
    sizes = [dim.size for dim in signature.inputs[HISTORY].tensor_shape.dim]
    length = sizes[1] if len(sizes) == 2 and sizes[1] >= 0 else None
    sequences = Sequences.open(model.data or "")
    cases = sequences.cases("test", 9, model.history_length)
    keys = item_keys_of(Path(model.data or ""))
    for row in random.permutation(len(cases))[: model.requests]:
        history = cases.histories[row]
        ids = spelled(signature.inputs[HISTORY], sequences.ids_of(history[history > 0]), keys)
        yield {HISTORY: fitted(ids, length)[None]}


def fitted(history: np.ndarray, length: int | None) -> np.ndarray:
    """Fits a history, int64 or objects of text [n], to the length that the model takes; None accepts any length.

    A long history keeps its last ids, and a short one is repeated: only the model knows which id means "none".
    """
    if length is None:
        return history
    return (
        np.resize(history[-length:], length)
        if len(history) and length
        else np.full(length, -1 if history.dtype != object else b"")
    )


def read_requests(path: Path, signature: Any) -> list[Mapping[str, Any]]:
    """Reads requests from a JSON or npz file.

    A JSON file holds an object of inputs, a list of such objects, or `{"data": [...]}`. An npz file has one array for
    each input, with the requests along its first axis. If a request's array then has one axis less than the signature's
    input, it becomes a batch of one.

    Args:
      path: the file; the suffix .npz selects npz.
      signature: the SignatureDef.

    Returns:
      The requests, as values by input name.

    Raises:
      NannError: the file cannot be read, or holds something else.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise NannError(f"{path} has {size:,} bytes, at most {MAX_FILE_BYTES:,} are allowed")
    if path.suffix == ".npz":
        return _read_npz(path, signature)
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise NannError(f"{path} is not JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("data"), list) and set(found) == {"data"}:
        found = found["data"]
    requests = [found] if isinstance(found, dict) else found
    if not isinstance(requests, list) or not requests or not all(isinstance(each, dict) for each in requests):
        raise NannError(f"{path} must hold an object of inputs, or a non-empty list of such objects")
    return requests


def _read_npz(path: Path, signature: Any) -> list[Mapping[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise NannError(f"{path} is not an npz file of plain arrays: {error}") from error
    except Exception as error:  # zipfile and zlib raise errors of their own.
        raise NannError(f"{path} is not an npz file: {error}") from error
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not counts or min(counts.values()) < 1 or len(set(counts.values())) != 1:
        raise NannError(f"the arrays of {path} must all have the same number of requests, at least 1; got {counts}")

    def one(name: str, row: np.ndarray) -> np.ndarray:
        info = signature.inputs.get(name)
        batched = info is not None and len(info.tensor_shape.dim) == row.ndim + 1
        return row[None] if batched else row

    return [
        {name: one(name, array[place]) for name, array in arrays.items()}
        for place in range(next(iter(counts.values())))
    ]
