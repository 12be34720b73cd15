import inspect
from pathlib import Path

import pytest
import torch

from mxsplicer.splicer.deconstruction import by_marker
from mxsplicer.splicer.encoders import ResNet
from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.objectives import OBJECTIVES, ExtendedSplicer, Parts, Splicer
from mxsplicer.splicer.objectives.extensions.redundancy import redundancy_between_chunks
from mxsplicer.testing import check_objective

MARKERS = ["DAPI", "CD3e", "CD20"]
EQUAL, UNEQUAL = (4, 4, 4), (4, 2, 6)


def parts(widths: tuple[int, ...] = EQUAL, **changes: object) -> Parts:
    torch.manual_seed(0)
    settings = {
        "encoder": ResNet(3, 16, width=8),
        "components": tuple(by_marker(MARKERS)),
        "chunks": Chunks(widths, (VICReg(),) * 3, (1.0,) * 3),
        "loss": VICReg(),
        "projector_layers": 0,
        "patch_px": 16,
        "component_encoder": "lean",
        "component_width": 4,
    }
    return Parts(**settings | changes)


def patches(seed: int = 1) -> torch.Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def views(objective) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two views as training makes them, except for the geometry: of cells that fill their patches."""
    whole = patches(2)
    second = objective.view_inputs(whole, whole, torch.ones(8, 16, 16, dtype=torch.uint8))[1]
    masks = [] if second.masks is None else [second.masks.float()]
    return patches(1), torch.cat([second.patches, *masks], dim=1)


def components_of(objective, view: torch.Tensor) -> list[torch.Tensor]:
    """Return the embeddings of the components, each as wide as its chunk."""
    e = objective.component_encoders(view[:, :3, None])
    return [one[:, :width] for one, width in zip(e.unbind(1), objective.chunks.widths, strict=True)]


def test_the_page_of_the_paper_fits_on_a_screen():
    page = Path(inspect.getsourcefile(Splicer)).read_text(encoding="utf-8")

    assert len(page.splitlines()) <= 60


@pytest.mark.parametrize("hidden_layers", [0, 2])
@pytest.mark.parametrize("widths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sigreg"])  # whose random directions are shared
def test_the_fast_path_has_the_losses_and_gradients_of_the_page_of_the_paper(name, widths, hidden_layers):
    chunks = Chunks(widths, (LOSSES[name](), VICReg(), LOSSES[name]()), (1.0, 2.0, 0.5))
    plain = Splicer(parts(widths, chunks=chunks, projector_layers=hidden_layers))
    fast = ExtendedSplicer(parts(widths, chunks=chunks, projector_layers=hidden_layers))
    fast.load_state_dict(plain.state_dict())
    a, b = views(plain)

    one_by_one, at_once = (sum(objective(a, b).values()) for objective in (plain, fast))

    torch.testing.assert_close(at_once, one_by_one)
    gradients = (
        torch.autograd.grad(loss.sum(), list(objective.parameters()))
        for loss, objective in ((one_by_one, plain), (at_once, fast))
    )
    for (weight, _), expected, found in zip(plain.named_parameters(), *gradients, strict=True):
        error = (found - expected).norm() / expected.norm().clamp_min(1e-3)
        assert error < 1e-3, weight


def test_the_page_of_the_paper_keeps_the_contract():
    check_objective(Splicer)


@pytest.mark.parametrize("widths", [EQUAL, UNEQUAL])
def test_splicer_is_the_sum_over_chunks(widths):
    objective = OBJECTIVES["splicer"](parts(widths))
    a, b = views(objective)

    terms = objective(a, b)

    chunks = objective.projector(objective.encoder(a)).split(widths, dim=1)
    one_by_one = [VICReg()(e, of) for e, of in zip(chunks, components_of(objective, b), strict=True)]
    torch.testing.assert_close(sum(terms.values()), torch.stack(one_by_one))


@pytest.mark.parametrize("widths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("method", ["splicer", "sigma", "trident"])
def test_losses_of_selected_components_are_those_of_all_in_the_mean_over_steps(method, widths):
    some = OBJECTIVES[method](parts(widths, components_per_step=2))
    every = OBJECTIVES[method](parts(widths, components_per_step=3))
    every.load_state_dict(some.state_dict())
    a, b = views(some)

    at_steps = [sum(some(a, b, **some.step_arguments(step, None)).values()) for step in range(3)]

    whole = every(a, b)
    trained = [int((losses[-3:] > 0).sum()) for losses in at_steps]
    assert trained == [2, 2, 2]
    expected = sum(whole.values())
    mean = torch.stack(at_steps).mean(dim=0)
    torch.testing.assert_close(mean[-3:], expected[-3:])
    at_steps[-1].sum().backward()
    assert all(weight.grad is not None for weight in some.parameters())  # processes wait for every gradient


@pytest.mark.parametrize("widths", [EQUAL, UNEQUAL])
def test_sigma_compares_every_component_with_the_whole_embedding(widths):
    objective = OBJECTIVES["sigma"](parts(widths))
    a, b = views(objective)

    terms = objective(a, b)

    e = objective.projector(objective.encoder(a))
    one_by_one = [VICReg()(e, of) for of in components_of(objective, b)]
    torch.testing.assert_close(sum(terms.values()), torch.stack(one_by_one))


def test_trident_compares_two_views_and_the_paired_one():
    objective = OBJECTIVES["trident"](parts())
    a, b = views(objective)

    terms = objective(a, b)

    e_a, e_b = objective.projector(objective.encoder(torch.cat([a, b[:, :3]]))).chunk(2)
    paired = [VICReg()(e_a, of) + VICReg()(e_b, of) for of in components_of(objective, b[:, 3:])]
    assert objective.chunk_names == ("whole", *MARKERS)
    torch.testing.assert_close(sum(terms.values()), torch.stack([VICReg()(e_a, e_b), *paired]))


def test_joint_compares_two_views_of_the_whole():
    objective = OBJECTIVES["joint"](parts())
    a, b = views(objective)

    terms = objective(a, b)
    e_a, e_b = objective.projector(objective.encoder(torch.cat([a, b]))).chunk(2)

    torch.testing.assert_close(sum(terms.values())[0], VICReg()(e_a, e_b))


def test_a_change_of_one_component_changes_its_chunk_alone():
    objective = OBJECTIVES["splicer"](parts(UNEQUAL)).eval()
    a, b = views(objective)
    changed = b.clone()
    changed[:, 1] = patches(3)[:, 0]  # CD3e

    before, after = objective(a, b), objective(a, changed)

    for name in ("invariance", "variance", "covariance"):
        assert (before[name] != after[name]).tolist() == [False, True, False]


def test_each_chunk_has_its_own_loss_and_weight():
    losses, weights = (VICReg(), SimCLR(), VICReg()), (1.0, 2.0, 0.5)
    objective = OBJECTIVES["splicer"](parts(UNEQUAL, chunks=Chunks(UNEQUAL, losses, weights)))
    a, b = views(objective)

    terms = objective(a, b)

    pairs = objective.pairs(*objective.embed(a, b))
    expected = [w * loss(*pair) for w, loss, pair in zip(weights, losses, pairs, strict=True)]
    torch.testing.assert_close(sum(terms.values()), torch.stack(expected))


def test_redundancy_is_added_by_its_weight():
    objective = OBJECTIVES["splicer"](parts(UNEQUAL, redundancy_weight=0.1))
    a, b = views(objective)

    e = objective.projector(objective.encoder(a))

    expected = 0.1 * redundancy_between_chunks(e, UNEQUAL)
    torch.testing.assert_close(objective(a, b)["redundancy"], expected)


@pytest.mark.parametrize("widths", [EQUAL, UNEQUAL])
def test_two_views_of_a_component_are_compared_with_each_other_and_with_its_chunk(widths):
    objective = OBJECTIVES["splicer"](parts(widths, consistency_weight=0.5)).eval()  # batch norm sees all views
    a, b = views(objective)
    c = torch.cat([b[:, :3] + 0.1 * patches(3), b[:, 3:]], dim=1)
    assert len(objective.view_inputs(a, a, torch.ones(8, 16, 16))) == 3

    terms = objective(a, b, c)

    of_components = zip(components_of(objective, b), components_of(objective, c), strict=True)
    expected = torch.stack([0.5 * VICReg()(of_b, of_c) for of_b, of_c in of_components])
    torch.testing.assert_close(sum(term for name, term in terms.items() if name.startswith("component")), expected)
    e = objective.chunks.split(objective.projector(objective.encoder(a)))
    both = [components_of(objective, view) for view in (b, c)]
    expected = torch.stack([sum(VICReg()(chunk, one) / 2 for one in of) for chunk, *of in zip(e, *both, strict=True)])
    torch.testing.assert_close(sum(terms[name] for name in ("invariance", "variance", "covariance")), expected)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("consistency_weight", [0.0, 1.0])
def test_every_objective_keeps_the_contract(name, consistency_weight):
    check_objective(OBJECTIVES[name], consistency_weight=consistency_weight)


def test_components_show_only_the_cell_if_surroundings_are_hidden():
    whole, regions = patches(), torch.zeros(8, 16, 16, dtype=torch.uint8)
    regions[:, 4:8] = 1

    hidden, kept = (
        OBJECTIVES["splicer"](parts(hide=hide)).view_inputs(whole, whole, regions)[1] for hide in (True, False)
    )

    torch.testing.assert_close(hidden.masks, (regions == 1)[:, None])
    assert kept.masks is None
