"""Retrieval under a model's score: the search, exact brute force, and the metrics that compare them."""

from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, recall
from tfserving_ext.retrieval.neural_top_k import NeuralTopK
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, ScorerOptions, Surrogate

__all__ = ["BestFirst", "BruteForce", "NeuralTopK", "Rounds", "ScorerOptions", "Surrogate", "coverage", "recall"]
