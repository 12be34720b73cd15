import numpy as np
import pytest
import torch

from mxsplicer.splicer.deconstruction import by_marker
from mxsplicer.splicer.encoders import ResNet
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.objectives import Joint, Parts, Splicer, redundancy


def parts(**changes: object) -> Parts:
    torch.manual_seed(0)
    settings = {
        "encoder": ResNet(3, 16, width=8),
        "components": tuple(by_marker(["DAPI", "CD3e", "CD20"])),
        "loss": VICReg(),
        "chunk_width": 4,
        "projector_layers": 0,
        "patch_px": 16,
        "component_width": 4,
        "redundancy_weight": 0.1,
    }
    return Parts(**settings | changes)


def views(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.randn(8, 3, 16, 16, generator=generator)


def test_splicer_holds_each_chunk_to_its_own_component():
    a, b = views()
    objective = Splicer(parts()).eval()
    changed = b.clone()
    changed[:, 1] = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(2))  # CD3e

    before, after = objective(a, b), objective(a, changed)

    for name in ("invariance", "variance", "covariance"):
        differs = before[name] != after[name]
        assert differs.tolist() == [False, True, False]


def test_splicer_without_the_redundancy_term_is_the_sum_of_the_paper():
    objective = Splicer(parts(redundancy_weight=0.0))
    a, b = views()

    terms = objective(a, b)
    e = objective.projector(objective.encoder(a)).view(8, 3, 4)
    e_components = objective.component_encoders(b[:, :, None])

    one_by_one = [VICReg()(e[:, i], e_components[:, i]) for i in range(3)]
    torch.testing.assert_close(sum(terms.values()), torch.stack(one_by_one))


def test_joint_compares_two_views_of_the_whole():
    objective = Joint(parts())
    a, b = views()

    terms = objective(a, b)
    e_a, e_b = objective.projector(objective.encoder(torch.cat([a, b]))).chunk(2)

    torch.testing.assert_close(sum(terms.values())[0], VICReg()(e_a, e_b))


def test_redundancy_is_the_squared_correlation_with_all_other_chunks():
    e = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))

    r = np.corrcoef(e.flatten(1).numpy().T).reshape(3, 4, 3, 4) ** 2
    expected = [r[i].sum() / 4 - r[i, :, i].sum() / 4 for i in range(3)]

    np.testing.assert_allclose(redundancy(e).numpy(), expected, rtol=2e-3)


@pytest.mark.parametrize("kept", [Splicer, Joint])
def test_the_encoder_that_is_kept_is_the_one_that_was_given(kept):
    given = parts()

    assert kept(given).encoder is given.encoder
