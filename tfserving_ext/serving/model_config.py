"""TensorFlow Serving's configuration of models, checked with the same error messages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.serving.models import invalid

PLATFORM = "tensorflow"
MAX_VERSION = (1 << 63) - 1
MAX_CONFIG_BYTES = 16 << 20
_VERSION = re.compile(r"[0-9]{1,19}")

_Policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of one model.

    Attributes:
      name: the model's name in requests.
      base_path: the folder that contains the versions.
      policy: a ServableVersionPolicy that selects the versions to serve; the latest by default.
      labels: version numbers by label.
    """

    name: str
    base_path: Path
    policy: Any = field(default_factory=_Policy)
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self) -> dict[int, Path] | None:
        """Returns the folders of the versions to serve, by number; None if the base path cannot be read.

        None means that the versions to serve are unknown, not that there are none.
        """
        try:
            # A plain file whose name is a number is not a version. Folders may be called 1 or 01, as in TensorFlow
            # Serving.
            entries = [one for one in self.base_path.iterdir() if _VERSION.fullmatch(one.name) and one.is_dir()]
        except OSError:
            return None
        found = {int(entry.name): entry for entry in entries if int(entry.name) <= MAX_VERSION}
        kind = self.policy.WhichOneof("policy_choice")
        if kind == "all":
            return found
        if kind == "specific":
            return {version: found[version] for version in self.policy.specific.versions if version in found}
        latest = max(self.policy.latest.num_versions, 1) if kind == "latest" else 1
        return {version: found[version] for version in sorted(found)[-latest:]}


def parse_config(text: str) -> model_server_config_pb2.ModelServerConfig:
    """Parses a ModelServerConfig in text form, the content of a `--model_config_file`.

    Raises:
      NannError: the text is not a ModelServerConfig, or is too long.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise NannError(f"the model config has {len(text)} characters, at most {MAX_CONFIG_BYTES} are allowed")
    try:
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise NannError(f"the model config is not a ModelServerConfig in text form: {error}") from error


def read_config(
    config: model_server_config_pb2.ModelServerConfig, served: Sequence[str] = ()
) -> dict[str, ModelConfig]:
    """Checks a configuration and returns its models by name.

    Args:
      config: the configuration.
      served: the names of the models that are served now, whose platform cannot change.

    Raises:
      ServingError: the configuration is invalid.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        _check_platform(entry, entry.name in served)
        try:
            check_local(entry.base_path)
        except NannError as error:
            raise invalid(str(error)) from error
        if not entry.base_path.startswith("/"):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
        models[entry.name] = ModelConfig(
            entry.name, Path(entry.base_path), entry.model_version_policy, dict(entry.version_labels)
        )
    return models


def _check_platform(entry: model_server_config_pb2.ModelConfig, is_served: bool) -> None:
    deprecated = model_server_config_pb2.TENSORFLOW
    if not entry.model_platform and entry.model_type != deprecated:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
            f"model name is {entry.name}"
        )
    platform = entry.model_platform or PLATFORM
    if platform != PLATFORM and is_served:
        raise invalid(
            f"Illegal to change a model's platform. For model {entry.name} platform was {PLATFORM} and new platform "
            f"requested is {platform}"
        )
    if platform != PLATFORM:
        raise invalid(f"Model {entry.name} requests unsupported platform {platform}")
