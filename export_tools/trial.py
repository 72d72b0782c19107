"""Loads a new export as a server does and has it answer requests, before the folder gets its name."""

from pathlib import Path

from export_tools.graphs.scorers import read_meta_graph
from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import LoadError, load_servable

# Ops that call a Python function by a number, which is known only in the process that traced the graph.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def try_out(folder: Path) -> None:
    """Loads the SavedModel in `folder` in a session of its own and runs its warm-up records, which use every signature.

    A session shares no variable, table or index with the functions that were saved.

    Raises:
      NannError: the model does not load, a record fails, or the model calls Python, which works in this process but on
        no server.
    """
    graph = read_meta_graph(folder).graph_def
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op in _PYTHON_OPS:
                raise NannError(
                    f"the model calls Python, at {node.name} (tf.py_function or tf.numpy_function), which no server "
                    "has; write this part in TensorFlow ops"
                )
    try:
        load_servable(folder).close()
    except LoadError as error:
        reason = (error.message.strip().splitlines() or [error.code.name])[0]
        raise NannError(f"the model was exported but cannot be served, so nothing is kept: {reason}") from error
