"""Evaluation: finished cells and labels become scores beside baselines, and a verdict.

The composition of :mod:`mxsplicer.tl`'s measures for a file or a result folder. Where the run and the patches (or the
slide) are at hand, the baselines that need pixels are made for a sample of the cells.
"""

from mxsplicer.evaluation.scoring import Evaluation, evaluate, write_scores

__all__ = ["Evaluation", "evaluate", "write_scores"]
