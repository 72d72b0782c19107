"""Reference ranking models, in the style in which users write them, to test and time the passes over scorers.

The weights and the user are random, by seed. Biases, PReLU slopes and batch-norm statistics have values that a rewrite
cannot drop unnoticed.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.scorer.models.attention import dien, din, transformer
from benchmarks.scorer.models.crosses import dcn_v2, deepfm
from benchmarks.scorer.models.project import nann_attention, two_sided
from benchmarks.scorer.models.reference_scorer import DTYPES, ReferenceScorer
from benchmarks.scorer.models.towers import dnn, mmoe

SCORERS: Mapping[str, Callable[[int], ReferenceScorer]] = MappingProxyType(
    {
        "nann_attention": nann_attention,
        "dnn": dnn,
        "two_sided": two_sided,
        "din": din,
        "dien": dien,
        "dcn_v2": dcn_v2,
        "deepfm": deepfm,
        "transformer": transformer,
        "mmoe": mmoe,
    }
)

# The models that can compute matrix products in bfloat16.
MIXED: Mapping[str, Callable[[int, str], ReferenceScorer]] = MappingProxyType({"dnn": dnn, "dcn_v2": dcn_v2})

__all__ = ["DTYPES", "MIXED", "SCORERS", "ReferenceScorer"]
