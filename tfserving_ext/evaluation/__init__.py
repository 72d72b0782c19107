"""Evaluation: the quality of a model and its searches on held-out users, and whether an index can be trusted.

`evaluate` measures, `report` draws, `compare` compares several evaluations, `tune` finds search parameters, and
`preflight` checks an index before a deployment (docs/evaluation.md).
"""

from tfserving_ext.evaluation.cases import HeldOut, user_tensors
from tfserving_ext.evaluation.run import SEARCHES, EvaluationOptions, evaluate, summary

__all__ = ["SEARCHES", "EvaluationOptions", "HeldOut", "evaluate", "summary", "user_tensors"]
