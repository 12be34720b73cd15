"""The memory of training is estimated before it begins, and limits are respected."""

import numpy as np
import pytest
import torch

from mxsplicer.errors import InputError
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.training import train
from mxsplicer.splicer.training_memory import choose_buffer_bytes, step_bytes
from mxsplicer.system.memory import Budget, resident_bytes
from mxsplicer.testing import tiny_store

SMALL = Recipe(encoder_width=8, component_width=2, chunk_width=4, batch_size=2, epochs=1)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())


class Pairs(torch.nn.Module):
    """Two views through one network."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, view_a, view_b):
        """Return one term."""
        return {"sum": self.network(view_a).sum() + self.network(view_b).sum()}


def test_the_bytes_of_a_step_are_those_of_its_graph_and_the_weights_are_unchanged():
    objective = Pairs()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}

    small, large = (step_bytes(objective, torch.randn(2, 4, 3, 32, 32), n) for n in (100, 200))

    of_activations = 100 * 2 * 8 * 30 * 30 * 4  # the output of one layer, for two views
    assert 2 * of_activations < large - small < 4 * of_activations
    assert small == pytest.approx(large - small, rel=0.01)  # but for the weights
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_buffer_shrinks_with_memory_and_never_below_a_block(tmp_path):
    batches = Batches([tiny_store(tmp_path / "tiny.zarr")], 2)
    free = [Budget(total=int((100 + mb) * 2**20 / 0.9) + 1, taken=100 << 20) for mb in (64, 256)]

    assert [choose_buffer_bytes(budget, batches, step_bytes=0) for budget in free] == [1 << 24, 1 << 26]
    with pytest.raises(InputError, match=r"too little: a step of 2 cells takes .*`accumulate`"):
        choose_buffer_bytes(free[0], batches, step_bytes=100 << 20)


def test_training_raises_before_it_begins_if_memory_is_too_small(tmp_path):
    store = tiny_store(tmp_path / "tiny.zarr")

    with pytest.raises(InputError, match="too little"):
        train(store, tmp_path / "run", recipe=SMALL, device="cpu", max_bytes=resident_bytes() // 2)

    assert not list(tmp_path.glob("run*"))


def test_a_generous_memory_limit_does_not_change_the_weights(tmp_path):
    store = tiny_store(tmp_path / "tiny.zarr")
    runs = [
        train(store, tmp_path / name, recipe=SMALL, device="cpu", max_bytes=limit)
        for name, limit in (("free", None), ("held", resident_bytes() * 4))
    ]

    free, held = (run.encoder.state_dict() for run in runs)
    assert all(np.array_equal(free[name], held[name]) for name in free)
