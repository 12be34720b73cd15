import pytest
import torch

from mxsplicer.splicer.component_encoders import COMPONENT_ENCODERS, ComponentEncoders


@pytest.mark.parametrize("kind", COMPONENT_ENCODERS)
@pytest.mark.parametrize("width", [4, 32])  # side by side, and one by one
def test_a_component_embedding_depends_on_its_component_alone(kind, width):
    encoders = ComponentEncoders(3, 2, 16, chunk_width=6, kind=kind, width=width)
    components = torch.randn(4, 3, 2, 16, 16)
    changed = components.clone()
    changed[:, 2] += torch.randn(16, 16)

    before, after = encoders(components), encoders(changed)

    assert before.shape == (4, 3, 6)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-3)
    after.pow(2).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoders.parameters())
