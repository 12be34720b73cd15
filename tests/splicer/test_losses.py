import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.losses.chunks import Chunks, per_chunk
from mxsplicer.splicer.losses.sigreg import SIGReg
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.objectives.extensions.redundancy import redundancy_between_chunks
from mxsplicer.testing import check_loss


def two_batches(seed: int, n: int = 12, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, width, generator=generator)
    return a, a + 0.3 * torch.randn(n, width, generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_keeps_the_contract(name):
    check_loss(LOSSES[name]())


@given(st.integers(0, 10_000), st.integers(3, 20), st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_vicreg_is_the_formula_of_the_paper(seed, n, width):
    a, b = two_batches(seed, n, width)

    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    invariance = ((x - y) ** 2).mean()
    variance = sum(np.maximum(0, 1 - np.sqrt(e.var(axis=0, ddof=1) + 1e-4)).mean() for e in (x, y)) / 2
    off_diagonal = 1 - np.eye(width)
    covariance = sum(((np.cov(e.T) * off_diagonal) ** 2).sum() / width for e in (x, y))

    assert VICReg()(a, b).item() == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(2, 10))
@settings(max_examples=25, deadline=None)
def test_simclr_is_the_formula_of_the_paper(seed, n):
    a, b = two_batches(seed, n)

    e = np.concatenate([a.numpy(), b.numpy()]).astype(np.float64)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    similarity = np.exp(e @ e.T / 0.5)
    pairs = [similarity[i, (i + n) % (2 * n)] / (similarity[i].sum() - similarity[i, i]) for i in range(2 * n)]

    assert SimCLR()(a, b).item() == pytest.approx(-np.log(pairs).mean(), rel=1e-4)


@given(st.integers(0, 10_000), st.integers(3, 20))
@settings(max_examples=25, deadline=None)
def test_sigreg_is_the_formula_of_the_paper(seed, n):
    a, b = two_batches(seed, n, width=1)  # of width 1 every direction is the same but for its sign

    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    t = np.linspace(-5, 5, 17)
    normal = np.exp(-(t**2) / 2)
    statistic = [n * np.trapezoid(abs(np.exp(1j * t * e).mean(axis=0) - normal) ** 2 * normal, t) for e in (x, y)]

    expected = 25 * ((x - y) ** 2).mean() + 0.5 * sum(statistic) / 2
    assert SIGReg()(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_sigreg_distinguishes_a_function_of_another_feature_from_an_independent_one():
    """Two features that are uncorrelated, the second a square of the first: nothing that covariances could see."""
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    y = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    square = (x**2 - 1) / 2**0.5
    dependent, independent = torch.stack([x, square], dim=1), torch.stack([x, y], dim=1)

    assert SIGReg()(dependent, dependent) > 10 * SIGReg()(independent, independent)
    assert VICReg()(dependent, dependent) < VICReg()(independent, independent) + 0.5


@pytest.mark.parametrize("name", LOSSES)
def test_all_chunks_at_once_are_the_chunks_one_by_one(name):
    loss = LOSSES[name]()
    chunks = [two_batches(seed) for seed in range(4)]
    e_a, e_b = (torch.stack([pair[i] for pair in chunks], dim=1) for i in (0, 1))

    torch.manual_seed(0)
    together = sum(per_chunk(loss, e_a, e_b).values())

    one_by_one = []
    for a, b in chunks:
        torch.manual_seed(0)  # what a loss draws at random is the same for all chunks
        one_by_one.append(loss(a, b))
    torch.testing.assert_close(together, torch.stack(one_by_one))


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.sampled_from(sorted(LOSSES)), st.integers(2, 6)), min_size=1, max_size=6),
)
@settings(max_examples=25, deadline=None)
def test_chunks_of_any_losses_and_widths_are_these_one_by_one(seed, chosen):
    widths = tuple(width for _, width in chosen)
    losses, weights = tuple(LOSSES[name]() for name, _ in chosen), tuple(1.0 + i for i in range(len(chosen)))
    chunks = Chunks(widths, losses, weights)
    e_a, e_b = two_batches(seed, width=sum(widths))

    torch.manual_seed(0)
    together = sum(chunks(e_a, e_b).values())

    torch.manual_seed(0)
    drawn: dict[tuple[str, int], torch.Tensor] = {}  # sigreg draws its directions once for all chunks of a width
    for chunk, (a, b) in enumerate(zip(chunks.split(e_a), chunks.split(e_b), strict=True)):
        before = torch.get_rng_state()
        if chosen[chunk] in drawn:
            torch.set_rng_state(drawn[chosen[chunk]])
        torch.testing.assert_close(together[chunk], weights[chunk] * losses[chunk](a, b))
        if chosen[chunk] in drawn:
            torch.set_rng_state(before)
        drawn.setdefault(chosen[chunk], before)


@pytest.mark.parametrize("widths", [(4, 4, 4), (2, 7, 3)])
def test_chunks_repeat_each_other_by_the_squared_correlation_of_their_features(widths):
    e = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))

    squared = np.corrcoef(e.numpy().T) ** 2
    chunk = np.repeat(range(3), widths)

    expected = [squared[chunk == i][:, chunk != i].sum() / width for i, width in enumerate(widths)]
    np.testing.assert_allclose(redundancy_between_chunks(e, widths).numpy(), expected, rtol=2e-3)
