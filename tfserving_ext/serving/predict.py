"""What a request means, whether it came by gRPC or by REST."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import Servable, ServingError, invalid, load_servable

MAX_VERSION = (1 << 63) - 1
_VERSION = re.compile(r"[0-9]{1,19}")


class Answer(NamedTuple):
    """Outputs by name, and the version that gave them."""

    version: int
    outputs: dict[str, np.ndarray]


class Models:
    """The models that are served: by name, by version."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Servable]] = {}

    def load(self, name: str, base_path: Path) -> int:
        """Loads the newest version below `base_path` as `name`; returns the version.

        Raises:
          NannError: there is no version, or it does not load.
        """
        if not base_path.is_dir():
            raise NannError(f"{base_path} is not a folder; it must hold versions, such as {base_path / '1'}")
        # The folder may be 1 or 01, which TensorFlow Serving takes too.
        entries = [entry for entry in base_path.iterdir() if _VERSION.fullmatch(entry.name) and entry.is_dir()]
        folders = {int(entry.name): entry for entry in entries if int(entry.name) <= MAX_VERSION}
        if not folders:
            raise NannError(f"{base_path} holds no version, a folder with a number for a name such as 1")
        version = max(folders)
        self._models[name] = {version: load_servable(folders[version])}
        return version

    def close(self) -> None:
        """Unloads all."""
        for versions in self._models.values():
            for servable in versions.values():
                servable.close()

    def find(self, spec: model_pb2.ModelSpec) -> tuple[int, Servable]:
        """The version and model that a request is for.

        Raises:
          ServingError: none is.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        versions = self._models.get(spec.name, {})
        if spec.HasField("version"):
            version = spec.version.value
            request = f"Specific({spec.name}, {version})"
        else:
            version = max(versions, default=-1)
            request = f"Latest({spec.name})"
        if version not in versions:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
        return version, versions[version]

    def predict(
        self, spec: model_pb2.ModelSpec, inputs: Mapping[str, np.ndarray], wanted: list[str] | None = None
    ) -> Answer:
        """Runs a signature; `wanted` names the outputs to return, None or [] for all.

        Raises:
          ServingError: no such model, version, signature or output, wrong inputs, or the model failed.
        """
        version, servable = self.find(spec)
        signature = servable.signature(spec.signature_name)
        names = sorted(signature.proto.outputs)
        for name in wanted or []:
            if name not in names:
                raise invalid(
                    f"output tensor alias not found in signature: {name} "
                    f"Outputs expected to be in the set {{{','.join(names)}}}."
                )
            if (wanted or []).count(name) > 1:
                raise invalid(f"duplicate output tensor alias: {name}")
        outputs = signature.run(dict(inputs))
        return Answer(version, {name: outputs[name] for name in (wanted or names)})

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of one version, or of all.

        Raises:
          ServingError: the model or the version is not served.
        """
        versions = sorted(self._models.get(spec.name, {}), reverse=True)
        if not versions:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        if spec.HasField("version"):
            version = spec.version.value
            if version not in versions:
                message = f"Could not find version {version} of model {spec.name}"
                raise ServingError(grpc.StatusCode.NOT_FOUND, message)
            versions = [version]
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in versions:
            entry = response.model_version_status.add(version=version)
            entry.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            entry.status.SetInParent()
        return response

    def signature_defs(
        self, spec: model_pb2.ModelSpec
    ) -> tuple[model_pb2.ModelSpec, get_model_metadata_pb2.SignatureDefMap]:
        """All signatures of a model, and the ModelSpec of who has them.

        Raises:
          ServingError: the model or the version is not served.
        """
        version, servable = self.find(spec)
        found = model_pb2.ModelSpec(name=spec.name, version=wrappers_pb2.Int64Value(value=version))
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, proto in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(proto)
        return found, signatures
