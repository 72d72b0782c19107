"""The models that `nann train` can train, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from tfserving_ext.errors import NannError
from tfserving_ext.models.dnn import Dnn
from tfserving_ext.models.foreign import ForeignConfig, ForeignModel
from tfserving_ext.models.nann_attention import NannAttention
from tfserving_ext.models.sequence_model import SequenceModel
from tfserving_ext.models.two_sided import TwoSided

MODELS: Mapping[str, type[SequenceModel]] = MappingProxyType(
    {kind.config_type.model: kind for kind in (NannAttention, Dnn, TwoSided)}
)


def model_named(name: object) -> type[SequenceModel]:
    """Returns the class of the model `name`.

    Raises:
      NannError: there is no model of that name.
    """
    if name == ForeignConfig.model:
        return cast(type[SequenceModel], ForeignModel)
    if not isinstance(name, str) or name not in MODELS:
        raise NannError(f"the model is {name!r}, this release knows {', '.join(map(repr, MODELS))}")
    return MODELS[name]
