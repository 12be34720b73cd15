"""Consistency: a second view of every component, which agrees with the first and with the chunk.

Chunk and component can agree on what is easy and give up a faint marker. Two views of the component alone have its
marker in common, so their loss keeps the marker in the embedding of the component even while the chunk lacks it.
"""

import torch

from mxsplicer.splicer.objectives.objective import Terms


def mean_over_views(of_views: list[Terms]) -> Terms:
    """Return a chunk's terms, averaged over the views of its component that are to be consistent: less chance."""
    return {name: torch.stack([terms[name] for terms in of_views]).mean(dim=0) for name in of_views[0]}


def weigh_consistency(terms: Terms, weight: float) -> Terms:
    """Return the terms between two views of the components, weighted, under names of their own."""
    return {f"component {name}": weight * term for name, term in terms.items()}
