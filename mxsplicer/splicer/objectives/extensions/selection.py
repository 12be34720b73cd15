"""Selection: each step trains k of the n components, round-robin, and weighs their losses n / k."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mxsplicer.splicer.objectives.objective import Terms


def select_components(step: int, n: int, per_step: int | None) -> list[int] | None:
    """Return the components that a step trains, in order; over n steps each has equally many. None: all of them.

    Examples
    --------
    >>> [select_components(step, n=3, per_step=2) for step in range(3)]
    [[0, 1], [0, 2], [1, 2]]
    """
    if per_step is None or per_step >= n:
        return None
    return sorted((step * per_step + i) % n for i in range(per_step))


def fill_unselected(targets: Sequence[Tensor], computed: Tensor, selected: Sequence[int]) -> list[Tensor]:
    """Return an embedding for every component: computed where it is selected, else its own target, without a loss.

    Parameters
    ----------
    targets
        What the embedding of each component is compared with, (B, D_i) each.
    computed
        Embeddings of the selected components, (B, k, widest chunk); each is cut to the width of its target.
    """
    embeddings = [*targets]
    for place, i in enumerate(selected):
        embeddings[i] = computed[:, place, : targets[i].shape[1]]
    return embeddings


def weigh_selected(terms: Terms, selected: Sequence[int] | None, n: int) -> Terms:
    """Return the terms of n chunks, n / k times those of the k selected ones: their mean over steps is the full sum."""
    if selected is None:
        return terms
    share = torch.zeros(n, device=next(iter(terms.values())).device)
    share[list(selected)] = n / len(selected)
    return {name: share * term for name, term in terms.items()}
