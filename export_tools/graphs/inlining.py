"""Puts the functions that a function calls in place of their calls."""

from typing import Any

from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.grappler import tf_optimizer


def inlined(function: Any) -> Any:
    """Returns the GraphDef of a concrete function, with the functions that it calls put in place of their calls."""
    given = meta_graph_pb2.MetaGraphDef(graph_def=function.graph.as_graph_def())
    for node in [*given.graph_def.node, *(one for each in given.graph_def.library.function for one in each.node_def)]:
        node.attr.pop("_lower_using_switch_merge", None)  # A loop stays one node.
    for each in given.graph_def.library.function:
        each.attr.pop("api_implements", None)  # Keras' recurrent layers have a second version of a function, for GPUs.
    kept = given.collection_def["train_op"].node_list.value
    kept.extend(tensor.name for tensor in [*function.inputs, *function.outputs])
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1
    options.optimizers.append("function")
    options.function_optimization = rewriter_config_pb2.RewriterConfig.AGGRESSIVE
    return tf_optimizer.OptimizeGraph(config, given)
