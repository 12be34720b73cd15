"""Analyses of embedded cells: each takes an AnnData and writes its result into it.

A name is loaded when it is first used: scanpy and scikit-learn take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxsplicer.tl.clustering import cluster
    from mxsplicer.tl.correlation import correlate, partners
    from mxsplicer.tl.enrichment import enrich_neighbourhoods
    from mxsplicer.tl.examples import pick_examples
    from mxsplicer.tl.local import local_correlation
    from mxsplicer.tl.mixing import measure_mixing
    from mxsplicer.tl.naming import cluster_profiles, name_clusters
    from mxsplicer.tl.probing import probe, probe_few_labels, set_task, verdict
    from mxsplicer.tl.reliance import measure_reliance
    from mxsplicer.tl.similarity import index_cells, similar
    from mxsplicer.tl.structure import measure_structure

__all__ = [
    "cluster",
    "cluster_profiles",
    "correlate",
    "enrich_neighbourhoods",
    "index_cells",
    "local_correlation",
    "measure_mixing",
    "measure_reliance",
    "measure_structure",
    "name_clusters",
    "partners",
    "pick_examples",
    "probe",
    "probe_few_labels",
    "set_task",
    "similar",
    "verdict",
]

_MODULES = {
    "cluster": "clustering",
    "cluster_profiles": "naming",
    "correlate": "correlation",
    "enrich_neighbourhoods": "enrichment",
    "index_cells": "similarity",
    "measure_mixing": "mixing",
    "measure_reliance": "reliance",
    "measure_structure": "structure",
    "local_correlation": "local",
    "name_clusters": "naming",
    "partners": "correlation",
    "pick_examples": "examples",
    "probe": "probing",
    "probe_few_labels": "probing",
    "set_task": "probing",
    "similar": "similarity",
    "verdict": "probing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
