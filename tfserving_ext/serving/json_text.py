"""JSON documents, parsed and printed as RapidJSON does it in TensorFlow Serving, with the same error messages."""

import json
import math
from typing import Any

from tfserving_ext.serving.models import ServingError, invalid

MAX_SHOWN = 512
_NO_NAME = "Expecting property name enclosed in double quotes"
# Messages of Python's parser, and RapidJSON's message for the same error.
_RAPIDJSON = {
    "Expecting value": "Invalid value.",
    _NO_NAME: "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}
_MEMBER, _ELEMENT = "Missing a comma or '}' after an object member.", "Missing a comma or ']' after an array element."


def read_object(body: bytes) -> dict[str, Any]:
    """Parses a request's body as a JSON object.

    Raises:
      ServingError: the body is not a JSON object, or its `signature_name` is not a string.
    """
    try:
        request = json.loads(body, object_pairs_hook=_first_of_each, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise _parse_error(body, error) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        # ValueError: a number too large for a double, or an integer with thousands of digits.
        raise invalid(f"JSON Parse error: {str(error).splitlines()[0]}") from error
    if not isinstance(request, dict):
        raise invalid(f"JSON Value: {shown(request)} Is not object")
    if not isinstance(request.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {shown(request)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return request


def shown(value: Any) -> str:
    """Formats a value for an error message: members indented, arrays on one line, truncated to MAX_SHOWN characters."""
    try:
        text = _pretty(value, 0)
    except RecursionError:
        text = "(nested too deeply to show)"
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def _pretty(value: Any, level: int) -> str:
    if isinstance(value, dict) and value:
        indent = " " * 4 * (level + 1)
        members = (f"{indent}{json.dumps(key)}: {_pretty(one, level + 1)}" for key, one in value.items())
        return "{\n" + ",\n".join(members) + "\n" + " " * 4 * level + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_pretty(one, level + 1) for one in value) + "]"
    return json.dumps(value)


def _parse_error(body: bytes, error: json.JSONDecodeError) -> ServingError:
    if not body.strip():
        at = f" at offset: {len(body)}" if body else ""
        return invalid(f"JSON Parse error: The document is empty{'.' if body else ''}{at}")
    message, place = error.msg, error.pos
    if message.startswith("Illegal trailing comma"):  # Python 3.13 and later report the comma, RapidJSON what follows.
        place += 1 + len(error.doc[place + 1 :]) - len(error.doc[place + 1 :].lstrip())
        message = (
            "Expecting value"
            if error.doc[place : place + 1] == "]"
            else "Expecting property name enclosed in double quotes"
        )
    if message == "Expecting ',' delimiter":
        message = _MEMBER if _open_bracket(error.doc[:place]) == "{" else _ELEMENT
    return invalid(f"JSON Parse error: {_RAPIDJSON.get(message, message)} at offset: {place}")


def _open_bracket(text: str) -> str:
    """Returns the innermost bracket that is still open at the end of `text`, the beginning of a JSON document."""
    brackets, in_string, escaped = [], False, False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            brackets.append(char)
        elif char in "]}" and brackets:
            brackets.pop()
    return brackets[-1] if brackets else ""


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object; a repeated key keeps its first value, as in TensorFlow Serving."""
    found = dict(pairs)
    if len(found) < len(pairs):
        found.update(reversed(pairs))
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number too big to be stored in double.")
    return number
