"""The configuration of a run of `nann bench`, whose fields are also available as flags."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.ranges import MAX_CONCURRENCY, MAX_RATE, parse_range

MAX_CONFIG_BYTES = 1 << 20

Positive = Annotated[float, Field(gt=0)]


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 1:16 as text; in YAML 1.1 it would be a number to the base of sixty."""


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?[0-9]+"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"),
}
_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _form in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form.pattern})$"), list("-+.0123456789"))


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Part):
    """How one input is made up.

    Attributes:
      shape: the shape; by default the signature's, with 1 for an open first dimension and 20 for other open ones.
      low: the smallest number.
      high: the largest number, inclusive for integers.
      value: a fixed value (a number, a string or nested lists) instead of random ones.
    """

    shape: list[Annotated[int, Field(ge=0, le=1 << 24)]] | None = None
    low: float | None = None
    high: float | None = None
    value: Any = None


class ModelSpec(_Part):
    """One model of the run.

    Attributes:
      name: the model's name on the server.
      signature: the signature to call.
      version: the version to call; the server's choice by default.
      weight: the model's share of the requests, relative to the other models.
      path: the SavedModel, for targets in process, for values of made-up inputs and for the hash in the result.
      input_data: a JSON or npz file of requests.
      data: the output folder of `nann convert`; requests are histories of its test users.
      history_length: the number of behaviours in each such history.
      inputs: how to make up inputs that these sources leave out.
      requests: how many different requests to make.
    """

    name: str = "nann"
    signature: str = "serving_default"
    version: Annotated[int, Field(ge=0)] | None = None
    weight: Positive = 1.0
    path: Path | None = None
    input_data: Path | None = None
    data: Path | None = None
    history_length: Annotated[int, Field(ge=1, le=100_000)] = 20
    inputs: dict[str, InputSpec] = {}
    requests: Annotated[int, Field(ge=1, le=100_000)] = 64

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if self.input_data is not None and self.data is not None:
            raise ValueError("input_data and data are both given; give only one of them")
        return self


class SwapSpec(_Part):
    """Swaps to a new version at regular intervals.

    Attributes:
      model: the model whose version changes; the first one by default.
      every: the seconds between two swaps.
      base_path: the folder of versions that the server watches.
      exports: the SavedModels that are used in turn; by default the newest version in `base_path`.
      keep: how many of the new versions stay on disk.
    """

    model: str | None = None
    every: Positive = 10.0
    base_path: Path
    exports: list[Path] = []
    keep: Annotated[int, Field(ge=1)] = 2


class Scenario(_Part):
    """One run of `nann bench`.

    Attributes:
      target: `grpc://host:port` or `http://host:port`, both with an `s` for TLS; or `session` or `function`, which run
        the models in this process from their paths.
      ca: a PEM file with the authorities to trust for a TLS server; this machine's by default.
      cert: a PEM file with the client's certificate for a TLS server; requires `key`.
      key: a PEM file with the key of `cert`.
      models: the models to call.
      concurrency: closed loop: the number of clients, each of which waits for its answer; one level, or a range `1:64`
        (doubling) or `10:50:10`.
      rate: open loop: requests per second, sent whether earlier ones are answered or not; a level or a range.
      arrivals: the distribution of an open loop's send times.
      replay: a JSON-lines file of recorded requests, which are sent at the recorded times.
      speed: how much faster than recorded a replay is sent.
      max_rate_with: conditions such as "p99_ms <= 20"; the run searches for the highest rate that meets them.
      warm_up: the longest warm-up in seconds, which ends earlier once latency is steady; 0 for none.
      seconds: how long to measure each level; by default until the intervals are within `bound`.
      bound: a level ends once the half-widths of the 95 % intervals of throughput and of `percentile` are at most this,
        in per cent.
      percentile: the latency percentile whose interval must be within `bound`.
      max_seconds: the longest measurement of a level, in seconds.
      timeout: seconds after which a request counts as failed.
      max_in_flight: how many requests of an open loop may be in flight at once.
      seed: the seed of made-up inputs, arrivals and the choice of models.
      swap: swaps to new versions during the load.
      prometheus: the URL of the server's metrics, which are read before and after each level.
      pid: a process whose processor time and memory are recorded.
      profile: a folder for a TensorBoard trace of the last level.
      profile_server: the gRPC address of the server's profiler; not needed for a target in process.
      trace: how many requests of `retrieve_trace`, if a model has it, measure the time by stage at the end; 0 for none.
      fail_if: conditions such as "p99_ms > 20"; if one holds, the exit status is 1.
    """

    target: str = "grpc://127.0.0.1:8500"
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    models: Annotated[list[ModelSpec], Field(min_length=1, max_length=64)] = [ModelSpec()]
    concurrency: str | None = None
    rate: str | None = None
    arrivals: Literal["constant", "poisson"] = "poisson"
    replay: Path | None = None
    speed: Positive = 1.0
    max_rate_with: list[str] = []
    warm_up: Annotated[float, Field(ge=0, le=3600)] = 10.0
    seconds: Annotated[float, Field(ge=1, le=86_400)] | None = None
    bound: Annotated[float, Field(gt=0, le=100)] = 5.0
    percentile: Annotated[float, Field(gt=0, lt=100)] = 99.0
    max_seconds: Annotated[float, Field(ge=3, le=86_400)] = 60.0
    timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0
    max_in_flight: Annotated[int, Field(ge=1, le=4096)] = 512
    seed: int = 0
    swap: SwapSpec | None = None
    prometheus: str | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    profile: Path | None = None
    profile_server: str | None = None
    trace: Annotated[int, Field(ge=0, le=10_000)] = 50
    fail_if: list[str] = []

    @pydantic.field_validator("concurrency", "rate", mode="before")
    @classmethod
    def _range_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @pydantic.field_validator("concurrency")
    @classmethod
    def _concurrency_levels(cls, value: str | None) -> str | None:
        if value is not None:
            levels = parse_range(value, MAX_CONCURRENCY)
            if any(level != int(level) for level in levels):
                raise ValueError(f"{value!r} has a level that is not a whole number of clients")
        return value

    @pydantic.field_validator("rate")
    @classmethod
    def _rate_levels(cls, value: str | None) -> str | None:
        if value is not None:
            parse_range(value, MAX_RATE)
        return value

    @pydantic.field_validator("max_rate_with", "fail_if")
    @classmethod
    def _conditions(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                Condition.parse(text)
            except NannError as error:
                raise ValueError(str(error)) from error
        return value

    @pydantic.field_validator("target")
    @classmethod
    def _known_target(cls, value: str) -> str:
        if value in ("session", "function") or re.fullmatch(r"(grpc|http)s?://\S+", value):
            return value
        raise ValueError(
            f"{value!r} is not grpc://HOST:PORT, http://HOST:PORT, the same with grpcs:// or https:// for TLS, session "
            "or function"
        )

    @pydantic.model_validator(mode="after")
    def _one_load(self) -> "Scenario":
        given = [
            name for name in ("concurrency", "rate", "replay", "max_rate_with") if getattr(self, name) not in (None, [])
        ]
        if len(given) > 1 and set(given) != {"rate", "max_rate_with"}:
            raise ValueError(f"{' and '.join(given)} are given; a run can have only one kind of load")
        if "arrivals" in self.model_fields_set and not {"rate", "max_rate_with"} & set(given):
            raise ValueError("arrivals applies only to an open loop; give rate or max_rate_with")
        by_tls = self.target.startswith(("grpcs://", "https://"))
        of_tls = [name for name in ("ca", "cert", "key") if getattr(self, name) is not None]
        if of_tls and not by_tls:
            raise ValueError(f"{of_tls[0]} requires TLS, but the target is {self.target}; use grpcs:// or https://")
        names = [model.name for model in self.models]
        if self.swap is not None and self.swap.model is not None and self.swap.model not in names:
            raise ValueError(f"swap.model is {self.swap.model!r}, the models are {', '.join(names)}")
        if self.target in ("session", "function"):
            if self.swap is not None:
                raise ValueError(f"swap needs a server, but the target is {self.target}")
            missing = [model.name for model in self.models if model.path is None]
            if missing:
                raise ValueError(f"the target {self.target} needs the path of model {missing[0]}")
        return self

    def levels(self) -> list[tuple[str, float]]:
        """Returns the levels of load as ("closed", clients) or ("open", requests per second); not for a replay."""
        if self.rate is not None:
            return [("open", level) for level in parse_range(self.rate, MAX_RATE)]
        return [("closed", level) for level in parse_range(self.concurrency or "1", MAX_CONCURRENCY)]


def make_scenario(fields: dict[str, Any], where: str = "", lines: dict[tuple, int] | None = None) -> Scenario:
    """Builds a scenario.

    Args:
      fields: the fields, as in the configuration file.
      where: the file's name, for error messages.
      lines: the line of each field in the file, for error messages.

    Raises:
      NannError: a field is unknown or its value is not allowed; the message is one line, about the first error.
    """
    try:
        return Scenario(**fields)
    except pydantic.ValidationError as error:
        raise NannError(_describe(error.errors()[0], where, lines or {})) from error


def _describe(error: Any, where: str, lines: dict[tuple, int]) -> str:
    place = tuple(error["loc"])
    line = next((lines[place[:size]] for size in range(len(place), 0, -1) if place[:size] in lines), None)
    name = ".".join(map(str, place))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = [field for part in (Scenario, ModelSpec, InputSpec, SwapSpec) for field in part.model_fields]
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        message = "is not a field" + (f"; did you mean {near[0]}?" if near else "; `nann bench --init` lists them all")
    elif error["type"] == "missing":
        message = "is missing"
    elif error["type"] != "value_error":
        message = f"is {error['input']!r}: {message}"
    start = where + (f", line {line}" if line is not None else "")
    return ": ".join(part for part in (start, f"{name} {message}".strip() if name else message) if part)


def read_scenario(path: Path) -> tuple[dict[str, Any], dict[tuple, int]]:
    """Reads a YAML configuration.

    Returns:
      The fields, and the line of each field by its path in the document.

    Raises:
      NannError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise NannError(f"{path} has more than {MAX_CONFIG_BYTES} bytes, which is too long for a configuration")
        text = raw.decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader)):
            raise NannError(f"{path} has an alias (*name), which is not supported; write the value out")
        node = yaml.compose(text, _Loader)
        fields = yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise NannError(f"cannot read {path}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise NannError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(fields, dict):
        raise NannError(
            f"{path} {'is empty' if fields is None else 'holds ' + type(fields).__name__}, it must be a mapping of "
            "fields; see `nann bench --init`"
        )
    return {str(key): value for key, value in fields.items()}, dict(_lines(node, ()))


def _lines(node: Any, place: tuple) -> Iterator[tuple[tuple, int]]:
    """Yields every field's path in the document and its line."""
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from (
                (where, line) for where, line in _lines(value, (*place, key.value)) if len(where) > len(place) + 1
            )
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*place, number))
