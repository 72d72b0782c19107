"""tf.Examples in JSON, as `:classify` and `:regress` of TensorFlow Serving's REST API accept them."""

import base64
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from tfserving_ext.serving.json_tensors import is_bytes
from tfserving_ext.serving.json_text import read_object, shown
from tfserving_ext.serving.models import ServingError, invalid

INT64 = range(-(1 << 63), 1 << 63)


def read_examples(body: bytes, method: str) -> tuple[str, input_pb2.Input]:
    """Parses the body of a classify or regress request.

    Args:
      body: the request's body, JSON.
      method: "classify" or "regress".

    Returns:
      The signature's name, "" if none is given, and the examples.

    Raises:
      ServingError: the body is not such a request.
    """
    request = read_object(body)
    where = f"JSON Value: {shown(request)}"
    if "examples" not in request:
        raise invalid(f"{where} When method is {method}, key 'examples' is expected and was not found")
    examples = request["examples"]
    if not isinstance(examples, list):
        raise invalid(f"{where} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"{where} 'examples' value is an empty array")
    given = input_pb2.Input()
    if "context" in request:
        given.example_list_with_context.context.CopyFrom(_example(request["context"], "context"))
        given.example_list_with_context.examples.extend(_example(one, "Example") for one in examples)
    else:
        given.example_list.examples.extend(_example(one, "Example") for one in examples)
    return request.get("signature_name") or "", given


def _example(value: Any, role: str) -> tf.train.Example:
    if not isinstance(value, dict):
        raise invalid(f"{role} must be JSON object but got JSON Value: {shown(value)}")
    example = tf.train.Example()
    for name, entry in value.items():
        try:
            _fill(example.features.feature[name], entry if isinstance(entry, list) else [entry])
        except ServingError as error:
            raise invalid(f"error when parsing feature {name}: {error.message}") from error
    return example


def _fill(feature: tf.train.Feature, values: list[Any]) -> None:
    """Appends values to a feature; all must be of the same kind."""
    for value in values:
        if isinstance(value, bool):
            feature.int64_list.value.append(int(value))
        elif isinstance(value, int) and value in INT64:
            feature.int64_list.value.append(value)
        elif isinstance(value, (int, float)):
            feature.float_list.value.append(float(value))
        elif isinstance(value, str):
            feature.bytes_list.value.append(value.encode(errors="replace"))
        elif is_bytes(value):
            try:
                feature.bytes_list.value.append(base64.b64decode(value["b64"], validate=True))
            except ValueError as error:
                raise invalid("Unable to base64 decode") from error
        else:
            raise invalid(f"JSON value: {shown(value)} is not a number, a string, a boolean or bytes")
    kinds = [kind for kind in ("int64_list", "float_list", "bytes_list") if getattr(feature, kind).value]
    if len(kinds) > 1:
        raise invalid(f"values of several kinds in one list: {', '.join(kinds)}")
