"""The memory that training takes, estimated before it begins from one pass of a few cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.views import Views
from mxsplicer.system.memory import Budget

_TRIAL_CELLS = 4
_COPIES = 2.5  # per view: the view, its input, and a share of the batch as it was read
_OF_GRAPH = 1.05  # with the gradients in transit and the workspace of convolutions
_BUFFERS = 4.0  # blocks in use, blocks being read, and a copy of each while blocks are concatenated


def choose_buffer_bytes(budget: Budget, batches: Batches, *, step_bytes: int) -> int:
    """Return how many bytes of patches may be mixed so that the memory of a training stays within a budget.

    Parameters
    ----------
    budget
        Memory budget of the process at this moment.
    batches
        Batches to train on, of which at least one block is in memory.
    step_bytes
        Memory of a step apart from its patches; see :func:`step_bytes`.

    Raises
    ------
    InputError
        If one block and one step do not fit; the message says how much memory is needed.
    """
    try:
        budget.require(step_bytes + int(_BUFFERS * batches.block_bytes), f"a step of {batches.batch_size} cells")
    except InputError as error:
        also = "Or increase `accumulate`, decrease `encoder_width`, or use a trained `model`."
        raise InputError(error.problem, f"{error.remedy} {also}".strip()) from error
    # A power of two, so that small differences in free memory do not change which cells share a batch.
    return 1 << (int((budget.free - step_bytes) / _BUFFERS).bit_length() - 1)


def trial_views(objective: Objective, patch_shape: tuple[int, int, int]) -> list[Tensor]:
    """Return views of a few patches of noise, (n, ·, P, P), on which the memory of a step is estimated."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.zeros(_TRIAL_CELLS, *patch_shape).normal_(generator=generator)
    regions = torch.full((_TRIAL_CELLS, *patch_shape[1:]), THIS_CELL, dtype=torch.uint8)
    return [*Views()(*objective.view_inputs(shown, shown, regions), generator=generator)]


def step_bytes(
    objective: nn.Module, views: Sequence[Tensor], batch_size: int, step_arguments: Mapping[str, Any] | None = None
) -> int:
    """Return about how much memory a training step takes apart from its patches: the graph, weights and optimizer.

    Parameters
    ----------
    views
        Views of a few cells, as the objective takes them.
    step_arguments
        Keyword arguments of a step, as :meth:`~mxsplicer.splicer.objectives.Objective.step_arguments` returns them.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = objective(*views, **step_arguments or {})  # referenced while its tensors are counted
    for weight in objective.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    del graph
    objective.load_state_dict(state)  # the pass changed the statistics of batch norm
    # Weights, their gradients, and the two moments of AdamW.
    weights = sum(4 * weight.numel() for weight in objective.parameters())
    of_views = _COPIES * sum(view.nbytes for view in views)
    per_cell = (_OF_GRAPH * sum(kept.values()) + of_views) / len(views[0])
    return int(per_cell * batch_size) + 4 * weights
