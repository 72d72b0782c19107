"""A loaded SavedModel as TensorFlow Serving runs it: signatures over a session.

A session is used rather than `tf.saved_model.load` because it restores exactly what TensorFlow Serving restores, and
lets other Python threads run while it computes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

import tfserving_ext.ops  # noqa: F401 - registers the ops that models use
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.serving.tensors import parse_tensor
from tfserving_ext.serving.warm_up import predict_requests

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """The error that a request is answered with.

    Attributes:
      code: the gRPC status.
      message: the error's text.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LoadError(NannError):
    """A version failed to load. `str` of the error has the path and the first line of the message.

    Attributes:
      code: the gRPC status that ModelService reports.
      message: the text that ModelService reports.
    """

    def __init__(self, path: Path, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{path} does not load: {(message.strip().splitlines() or [code.name])[0]}")
        self.code = code
        self.message = message


def invalid(message: str) -> ServingError:
    """Returns an INVALID_ARGUMENT error, for a request that is wrong in itself."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


class Signature:
    """One signature of a loaded SavedModel.

    Attributes:
      proto: the SignatureDef.
      defaults: the default values, by name, of inputs that a request may leave out.
    """

    def __init__(self, session: Any, proto: meta_graph_pb2.SignatureDef) -> None:
        self.proto = proto
        self.defaults = {name: parse_tensor(value) for name, value in proto.defaults.items()}
        self._inputs = sorted(proto.inputs)
        self._outputs = sorted(proto.outputs)
        options = config_pb2.CallableOptions()
        options.feed.extend(proto.inputs[name].name for name in self._inputs)
        options.fetch.extend(proto.outputs[name].name for name in self._outputs)
        # The session's public `run` would check shapes; TensorFlow Serving leaves that to the graph, and so does this.
        self._run = session._make_callable_from_options(options)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the signature.

        Args:
          inputs: arrays by name; inputs that are left out take their defaults.

        Returns:
          The outputs by name.

        Raises:
          ServingError: inputs are missing, unknown or of another type, or the graph failed.
        """
        self.check_names(set(inputs))
        found = {**self.defaults, **inputs}
        arguments = [found[name] for name in self._inputs]
        for place, (name, array) in enumerate(zip(self._inputs, arguments, strict=True)):
            wanted, got = tf.dtypes.as_dtype(self.proto.inputs[name].dtype), _dtype(array)
            if wanted != got:
                raise invalid(f"Expects arg[{place}] to be {_name(wanted)} but {_name(got)} is provided")
        try:
            outputs = self._run(*arguments)
        except tf.errors.OpError as error:
            raise ServingError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), _text(error)) from error
        return {name: np.asarray(value) for name, value in zip(self._outputs, outputs, strict=True)}

    def check_names(self, sent: set[str]) -> None:
        """Checks the names of a request's inputs, before any input is parsed.

        Raises:
          ServingError: inputs are missing or unknown.
        """
        wanted = set(self._inputs)
        if len(sent) > len(wanted) or (len(sent) < len(wanted) and not self.defaults):
            raise invalid(
                f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != "
                f"len({_set(wanted)}). Sent extra: {_set(sent - wanted)}. "
                f"Missing but required: {_set(wanted - sent)}."
            )
        for name in self._inputs:
            if name not in sent and name not in self.defaults:
                feed = self.proto.inputs[name].name
                raise invalid(
                    f"Signature input alias: {name}(feed name: {feed}) not found in request and "
                    f"no default value provided. Inputs expected to be in the request {_set(sent)}, "
                    f"or default input alias set: {','.join(sorted(self.defaults))}"
                )


@dataclass(frozen=True)
class ModelOptions:
    """How a SavedModel is loaded.

    Attributes:
      tags: the tags of the MetaGraph to load.
      session: the session's ConfigProto; None for TensorFlow's defaults.
      warm_up_runs: how often each warm-up record is run; 0 skips the warm-up.
    """

    tags: tuple[str, ...] = ("serve",)
    session: Any = None
    warm_up_runs: int = 1


class Servable:
    """A loaded SavedModel.

    Attributes:
      signatures: the signatures that can be run, by name.
      signature_defs: the SignatureDefs of the SavedModel, by name.
    """

    def __init__(self, path: Path, options: ModelOptions = ModelOptions()) -> None:
        """Loads the SavedModel; see `load_servable`."""
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=options.session)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, list(options.tags), str(path))
            self.signatures = {
                name: Signature(self._session, proto)
                for name, proto in meta_graph.signature_def.items()
                if name != "__saved_model_init_op"
            }
        except BaseException:
            self._session.close()
            raise
        self.signature_defs = dict(meta_graph.signature_def)

    def signature(self, name: str) -> Signature:
        """Returns the signature `name`; "" stands for serving_default.

        Raises:
          ServingError: there is no such signature.
        """
        name = name or "serving_default"
        if name not in self.signatures:
            raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def signature_def_map(self) -> get_model_metadata_pb2.SignatureDefMap:
        """Returns all SignatureDefs in the form of GetModelMetadata."""
        return get_model_metadata_pb2.SignatureDefMap(signature_def=self.signature_defs)

    def close(self) -> None:
        """Closes the session and releases its memory."""
        self._session.close()


def load_servable(path: str | os.PathLike[str], options: ModelOptions = ModelOptions()) -> Servable:
    """Loads a SavedModel as TensorFlow Serving does, and runs its warm-up records.

    Args:
      path: the SavedModel's folder.
      options: how it is loaded.

    Returns:
      The loaded model, ready for requests.

    Raises:
      NannError: `path` is not on a local file system.
      LoadError: `path` is not a SavedModel, it does not load, or a warm-up record fails.
    """
    check_local(path)
    path = Path(path)
    _check_files(path)
    try:
        servable = Servable(path, options)
    except (tf.errors.OpError, ValueError, OSError, RuntimeError) as error:
        code, text = grpc.StatusCode.UNKNOWN, str(error)
        if isinstance(error, tf.errors.OpError):
            code, text = _CODES.get(error.error_code, code), _text(error)
        raise LoadError(path, code, text) from error
    except (LookupError, TypeError, AttributeError) as error:
        # TensorFlow's Python code raises these where a part of a graph refers to something missing. Their text is often
        # only a key, so the message has the type too.
        text = f"the SavedModel is damaged: {type(error).__name__}: {error}"
        raise LoadError(path, grpc.StatusCode.DATA_LOSS, text) from error
    if options.warm_up_runs == 0:
        return servable
    try:
        for request in predict_requests(path):
            inputs = {name: parse_tensor(value) for name, value in request.inputs.items()}
            for _ in range(options.warm_up_runs):
                servable.signature(request.model_spec.signature_name).run(inputs)
    except (ServingError, NannError, ValueError) as error:
        servable.close()
        code = error.code if isinstance(error, ServingError) else grpc.StatusCode.DATA_LOSS
        raise LoadError(path, code, f"a warm-up record fails: {error}") from error
    return servable


def _check_files(path: Path) -> None:
    """Checks for errors that TensorFlow reports unclearly or not at all.

    Raises:
      LoadError: saved_model.pb is missing, damaged or unreadable.
    """
    if not (path / "saved_model.pb").exists():
        text = (
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}"
        )
        raise LoadError(path, grpc.StatusCode.NOT_FOUND, text)
    try:
        saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except DecodeError as error:
        text = f"Can't parse {path / 'saved_model.pb'} as binary proto"
        raise LoadError(path, grpc.StatusCode.DATA_LOSS, text) from error
    except OSError as error:
        raise LoadError(path, grpc.StatusCode.PERMISSION_DENIED, str(error)) from error


def _text(error: tf.errors.OpError) -> str:
    """Returns an error's text without the prefix that the Python session adds."""
    return error.message.removeprefix("Graph execution error:\n\n")


def _dtype(array: np.ndarray) -> tf.DType:
    return tf.string if array.dtype.kind in "OSU" else tf.dtypes.as_dtype(array.dtype)


def _name(dtype: tf.DType) -> str:
    """Returns TensorFlow's C++ name of a type."""
    return {"float32": "float", "float64": "double", "float16": "half"}.get(dtype.name, dtype.name)


def _set(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
