"""Analyses of embedded cells: each function takes an AnnData and writes its result into it.

A name is loaded when it is first used, because importing scanpy and scikit-learn takes seconds.
"""

from typing import TYPE_CHECKING

from mxsplicer.system.imports import lazily

if TYPE_CHECKING:
    from mxsplicer.tl.clustering import cluster
    from mxsplicer.tl.correlation import correlate, partners
    from mxsplicer.tl.efficiency import probe_few_labels
    from mxsplicer.tl.enrichment import enrich_neighbourhoods
    from mxsplicer.tl.examples import pick_examples
    from mxsplicer.tl.importance import permutation_importance
    from mxsplicer.tl.local import local_correlation
    from mxsplicer.tl.mixing import measure_mixing
    from mxsplicer.tl.naming import cluster_profiles, name_clusters
    from mxsplicer.tl.outlines import cells_inside, restricted, rows_inside
    from mxsplicer.tl.probing import probe
    from mxsplicer.tl.similarity import index_cells, similar
    from mxsplicer.tl.spillover import find_confounders, neighbourhood_intensity, partial_correlation
    from mxsplicer.tl.structure import measure_structure
    from mxsplicer.tl.tasks import set_task
    from mxsplicer.tl.verdicts import verdict

__all__ = [
    "cells_inside",
    "cluster",
    "cluster_profiles",
    "correlate",
    "enrich_neighbourhoods",
    "find_confounders",
    "index_cells",
    "local_correlation",
    "measure_mixing",
    "measure_structure",
    "name_clusters",
    "neighbourhood_intensity",
    "partial_correlation",
    "partners",
    "permutation_importance",
    "pick_examples",
    "probe",
    "probe_few_labels",
    "restricted",
    "rows_inside",
    "set_task",
    "similar",
    "verdict",
]

__getattr__ = lazily(
    __name__,
    {
        "cells_inside": "outlines",
        "cluster": "clustering",
        "cluster_profiles": "naming",
        "correlate": "correlation",
        "enrich_neighbourhoods": "enrichment",
        "find_confounders": "spillover",
        "index_cells": "similarity",
        "local_correlation": "local",
        "measure_mixing": "mixing",
        "measure_structure": "structure",
        "name_clusters": "naming",
        "neighbourhood_intensity": "spillover",
        "partial_correlation": "spillover",
        "partners": "correlation",
        "permutation_importance": "importance",
        "pick_examples": "examples",
        "probe": "probing",
        "probe_few_labels": "efficiency",
        "restricted": "outlines",
        "rows_inside": "outlines",
        "set_task": "tasks",
        "similar": "similarity",
        "verdict": "verdicts",
    },
)
