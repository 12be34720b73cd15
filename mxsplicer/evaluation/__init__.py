"""Evaluation: scores of embedded cells on labels, compared with baselines, and a verdict.

It applies the measures of :mod:`mxsplicer.tl` to a file or a result folder. Where the run and the patches, or the
slide, can be opened, the baselines that need pixels are computed for a sample of the cells.
"""

from mxsplicer.evaluation.scoring import Evaluation, evaluate, write_scores

__all__ = ["Evaluation", "evaluate", "write_scores"]
