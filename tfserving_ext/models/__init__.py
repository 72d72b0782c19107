"""Retrieval models: the contract, and the models that come with the project."""

from tfserving_ext.models.dnn import Dnn, DnnConfig
from tfserving_ext.models.foreign import ForeignConfig, ForeignModel, import_models
from tfserving_ext.models.nann_attention import NannAttention, NannAttentionConfig
from tfserving_ext.models.registry import MODELS, model_named
from tfserving_ext.models.retrieval_model import RetrievalModel, TrainableModel, UserTensors
from tfserving_ext.models.sequence_model import SequenceConfig, SequenceModel
from tfserving_ext.models.two_sided import TwoSided, TwoSidedConfig
from tfserving_ext.models.vocabulary import Vocabulary

__all__ = [
    "MODELS",
    "Dnn",
    "DnnConfig",
    "ForeignConfig",
    "ForeignModel",
    "NannAttention",
    "NannAttentionConfig",
    "RetrievalModel",
    "SequenceConfig",
    "SequenceModel",
    "TrainableModel",
    "TwoSided",
    "TwoSidedConfig",
    "UserTensors",
    "Vocabulary",
    "import_models",
    "model_named",
]
