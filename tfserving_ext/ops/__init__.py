"""The compiled ops: one documented Python function per op.

Importing this module loads the op library into TensorFlow, so that SavedModels with these ops can be loaded:

    import tfserving_ext.ops
    model = tf.saved_model.load("/models/nann/1")
"""

from tfserving_ext.ops._index import (
    index_column,
    index_filter,
    index_gather,
    index_handle,
    index_items,
    index_keys,
    index_numbers,
    index_open,
    index_rows,
)
from tfserving_ext.ops._library import load
from tfserving_ext.ops._scorer import PassReport, RewrittenScorer, Scorer, rewrite_scorer, trace_scorer
from tfserving_ext.ops._search import (
    DEFAULT_BATCH_SIZES,
    MAX_ROUNDS,
    MAX_WIDTH,
    SearchOptions,
    SearchResult,
    SurrogateOptions,
    SurrogateStatistics,
    best_first_search,
    deployed_search,
    rounds_search,
    surrogate_search,
)

__all__ = [
    "DEFAULT_BATCH_SIZES",
    "MAX_ROUNDS",
    "MAX_WIDTH",
    "PassReport",
    "RewrittenScorer",
    "Scorer",
    "SearchOptions",
    "SearchResult",
    "SurrogateOptions",
    "SurrogateStatistics",
    "best_first_search",
    "deployed_search",
    "index_column",
    "index_filter",
    "index_gather",
    "index_handle",
    "index_items",
    "index_keys",
    "index_numbers",
    "index_open",
    "index_rows",
    "load",
    "rewrite_scorer",
    "rounds_search",
    "surrogate_search",
    "trace_scorer",
]

load()
