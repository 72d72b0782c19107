"""Loads a new export as its server will and lets it answer, before it is said to be one."""

from pathlib import Path

from export_tools.graphs.scorers import read_meta_graph
from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import LoadError, load_servable

# Python in a graph is found by a number that only the process has which traced it.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def try_out(folder: Path) -> None:
    """Loads the SavedModel in `folder` in a session of its own and answers its warm-up records: all its signatures.

    A session shares no variable, table or index with the functions that were saved.

    Raises:
      NannError: it does not load, a record fails, or it calls Python, which this process has and no server.
    """
    graph = read_meta_graph(folder).graph_def
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op in _PYTHON_OPS:
                raise NannError(
                    f"the model calls Python, at {node.name} (tf.py_function or tf.numpy_function), which no server "
                    "has; write it in TensorFlow's own ops"
                )
    try:
        load_servable(folder).close()
    except LoadError as error:
        reason = (error.message.strip().splitlines() or [error.code.name])[0]
        raise NannError(f"the model was exported but cannot be served, so nothing is kept: {reason}") from error
