"""How much memory training takes, known before it begins: from one pass of a few cells."""

import torch
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.memory import Budget
from mxsplicer.splicer.batches import Batches

_TRIAL_CELLS = 4
_PICTURES = 5  # a batch as it was read, normalised twice and in two views
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


def step_bytes(objective: nn.Module, picture_shape: tuple[int, int, int], batch_size: int) -> int:
    """Return about how many bytes a training step takes beside its patches: the graph, the weights, the optimizer."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    views = torch.zeros(2, _TRIAL_CELLS, *picture_shape).normal_(generator=torch.Generator().manual_seed(0))
    state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = objective(*views)  # held while what it keeps is counted
    for weight in objective.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    del graph
    objective.load_state_dict(state)  # batch norm has seen noise
    weights = sum(4 * weight.numel() for weight in objective.parameters())
    pictures = _PICTURES * batch_size * 4 * views[0, 0].numel()
    # Weights, their gradients, and the two moments of AdamW.
    return int(_OF_GRAPH * sum(kept.values()) / _TRIAL_CELLS * batch_size) + pictures + 4 * weights
