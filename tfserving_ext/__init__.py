"""Top-k of millions of items under your own ranking model, served by TensorFlow Serving.

One function for each stage from recorded behaviours to a served model; `nann NAME` is the same on the command line:

  convert      turn behaviours of users into sequences
  synth        make up behaviours, to try things at scale
  train        train a model by its recipe
  adversarial  train a Keras ranker of yours with the adversarial loss
  extract      write the item embeddings of a trained model
  build_index  build the HNSW graph over item embeddings (`nann index`)
  evaluate     measure recall and coverage against brute force, on held-out users
  tune         find search parameters for a wanted coverage or latency
  preflight    check whether an index can be trusted for a model
  export       write one SavedModel with user tower, search and scorer
  verify       check an exported model in a fresh process
  judge        measure an exported model on real requests, against exact answers
  upsert       add items to a served model, or change them
  delete       delete items of a served model
  compact      fold the updates of a served model into a new version
  recommend    show what an exported model answers for one user
  retrieve_all write the top k of every user of a table (`nann retrieve-all`)
  inspect      show what is in a SavedModel
  explain      show what the graph passes did to its scorer
  bench        measure throughput and latency of a server

Classes to use in your own programs:

  Index        an index on disk: item ids, embeddings and graph
  Items        the raw features of the items, to export a ranker with
  NeuralTopK   top-k under a model's score, by walking the graph
  Updates      writes updates of a served model, for a process that makes many
  BruteForce   the same interface with exact answers, by scoring every item
  RecallAtK    a Keras callback: recall of a ranker in training, by scoring every item
  LocalServer  a server with TensorFlow Serving's interfaces (`nann serve`)
  Client       a gRPC client for this server and TensorFlow Serving

Example:
  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tfserving_ext as nann
  >>> embeddings = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
  >>> index = nann.build_index(np.arange(1000), embeddings, "made_up")
  >>> def score(user, items):  # Any TensorFlow function of user tensors and items [B, N, 16]; this one is simple.
  ...     return -tf.norm(user[0][:, None] - items, axis=-1)
  >>> scores, item_ids = nann.NeuralTopK(index, score)([tf.constant(embeddings[:1])], k=3)
  >>> int(item_ids[0, 0])
  0

Each of these is imported when it is first used: `import tfserving_ext` itself imports neither TensorFlow nor NumPy.
`help(tfserving_ext.train)` describes the arguments of one of them; docs/python.md lists all with their commands.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export_tools.batch.run import retrieve_all
    from export_tools.compact import compact
    from export_tools.cut.items import Items
    from export_tools.explain import explain
    from export_tools.export import export
    from export_tools.inspect import inspect
    from export_tools.judge import judge
    from export_tools.updates import Updates, delete, upsert
    from export_tools.verify import verify
    from tfserving_ext.data.conversion import convert
    from tfserving_ext.data.synth import synth
    from tfserving_ext.evaluation.preflight import preflight
    from tfserving_ext.evaluation.run import evaluate
    from tfserving_ext.evaluation.tune import tune
    from tfserving_ext.index.build import build_index
    from tfserving_ext.index.format import Index
    from tfserving_ext.loadtest.run import bench
    from tfserving_ext.retrieval.brute_force import BruteForce
    from tfserving_ext.retrieval.neural_top_k import NeuralTopK
    from tfserving_ext.serving.client import Client
    from tfserving_ext.serving.recommendation import recommend
    from tfserving_ext.serving.server import LocalServer
    from tfserving_ext.training.adversarial import adversarial
    from tfserving_ext.training.extract import extract
    from tfserving_ext.training.recall import RecallAtK
    from tfserving_ext.training.recipes import train

__version__ = "0.1.0"

__all__ = [
    "BruteForce",
    "Client",
    "Index",
    "Items",
    "LocalServer",
    "NeuralTopK",
    "RecallAtK",
    "Updates",
    "adversarial",
    "bench",
    "build_index",
    "compact",
    "convert",
    "delete",
    "evaluate",
    "explain",
    "export",
    "extract",
    "inspect",
    "judge",
    "preflight",
    "recommend",
    "retrieve_all",
    "synth",
    "train",
    "tune",
    "upsert",
    "verify",
]

# The module that defines each name; a test compares this with the imports above, which type checkers and editors read.
_HOMES = {
    "BruteForce": "tfserving_ext.retrieval.brute_force",
    "Client": "tfserving_ext.serving.client",
    "Index": "tfserving_ext.index.format",
    "Items": "export_tools.cut.items",
    "LocalServer": "tfserving_ext.serving.server",
    "NeuralTopK": "tfserving_ext.retrieval.neural_top_k",
    "RecallAtK": "tfserving_ext.training.recall",
    "Updates": "export_tools.updates",
    "adversarial": "tfserving_ext.training.adversarial",
    "bench": "tfserving_ext.loadtest.run",
    "build_index": "tfserving_ext.index.build",
    "compact": "export_tools.compact",
    "convert": "tfserving_ext.data.conversion",
    "delete": "export_tools.updates",
    "evaluate": "tfserving_ext.evaluation.run",
    "explain": "export_tools.explain",
    "export": "export_tools.export",
    "extract": "tfserving_ext.training.extract",
    "inspect": "export_tools.inspect",
    "judge": "export_tools.judge",
    "preflight": "tfserving_ext.evaluation.preflight",
    "recommend": "tfserving_ext.serving.recommendation",
    "retrieve_all": "export_tools.batch.run",
    "synth": "tfserving_ext.data.synth",
    "train": "tfserving_ext.training.recipes",
    "tune": "tfserving_ext.evaluation.tune",
    "upsert": "export_tools.updates",
    "verify": "export_tools.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    # help() loads every name that dir() returns, which would import TensorFlow: it gets only the names loaded so far.
    reads_all = sys._getframe(1).f_globals.get("__name__") == "inspect"
    return sorted(globals() if reads_all else globals().keys() | set(__all__))
