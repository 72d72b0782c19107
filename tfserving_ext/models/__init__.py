"""Retrieval models: the contract, and the models that come with the project."""

from tfserving_ext.models.contract import RetrievalModel, UserTensors
from tfserving_ext.models.nann_attention import NannAttention, NannAttentionConfig
from tfserving_ext.models.vocabulary import Vocabulary

__all__ = ["NannAttention", "NannAttentionConfig", "RetrievalModel", "UserTensors", "Vocabulary"]
