"""How much memory training takes, known before it begins: from one pass of a few cells."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.views import Views
from mxsplicer.system.memory import Budget

_TRIAL_CELLS = 4
_COPIES = 2.5  # of what a view shows: the view, what it is a view of, and a share of the batch as it was read
_OF_GRAPH = 1.05  # gradients on their way beside what the graph keeps, and the workspace of convolutions
_BUFFERS = 4.0  # blocks in use, blocks being read, and each once more while blocks are put together


def share_out(budget: Budget, batches: Batches, *, step_bytes: int) -> int:
    """Return how many bytes of patches may be mixed at a time, so that training stays inside a budget.

    Parameters
    ----------
    budget
        Of the process, as it is now.
    batches
        What is trained on: at least one of its blocks is held.
    step_bytes
        What else a step takes; see :func:`step_bytes`.

    Raises
    ------
    InputError
        If not even one block and a step fit; the message says how much would do.
    """
    try:
        budget.require(step_bytes + int(_BUFFERS * batches.block_bytes), f"a step of {batches.batch_size} cells")
    except InputError as error:
        msg = f"{error} Or raise --accumulate, lower --encoder-width, or give a trained model by --model."
        raise InputError(msg) from error
    # A power of two, so that a little more or less of free memory does not change which cells meet in a batch.
    return 1 << (int((budget.free - step_bytes) / _BUFFERS).bit_length() - 1)


def trial_views(objective: Objective, picture_shape: tuple[int, int, int]) -> list[Tensor]:
    """Return noise of a few cells, (n, ·, P, P), as large as the views that an objective takes of patches (C, P, P)."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.zeros(_TRIAL_CELLS, *picture_shape).normal_(generator=generator)
    regions = torch.full((_TRIAL_CELLS, *picture_shape[1:]), THIS_CELL, dtype=torch.uint8)
    return [*Views()(*objective.pictures(shown, shown, regions), generator=generator)]


def step_bytes(objective: nn.Module, views: Sequence[Tensor], batch_size: int) -> int:
    """Return about how many bytes a training step takes beside its patches: the graph, the weights, the optimizer.

    Parameters
    ----------
    views
        Of a few cells, as the objective takes them.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = objective(*views)  # held while what it keeps is counted
    for weight in objective.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    del graph
    objective.load_state_dict(state)  # batch norm has seen noise
    weights = sum(4 * weight.numel() for weight in objective.parameters())
    of_pictures = _COPIES * sum(view.nbytes for view in views)
    # Weights, their gradients, and the two moments of AdamW.
    per_cell = (_OF_GRAPH * sum(kept.values()) + of_pictures) / len(views[0])
    return int(per_cell * batch_size) + 4 * weights
