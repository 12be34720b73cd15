"""How wide the chunk of each component is: equal, or by what the component has to say.

The paper (arXiv 2503.07444) has equal chunks and leaves others open. Here the same total can be shared out by the
variance of the components, or by their effective rank above what control channels show: noise alone has a high rank.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mxsplicer.errors import InputError
from mxsplicer.images.markers import is_control
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import Normalization
from mxsplicer.splicer.deconstruction import Component, areas, by_marker, cut
from mxsplicer.splicer.recipe import Recipe, said_of

_SAMPLE_CELLS = 1_000
_MARGIN = 0.15  # of the floor; an eigenvalue of 1,000 cells is known to 0.045 of itself
_GRID_PX = 8  # patches are averaged to this side: finer detail is mostly noise, and there are 1,000 cells to see it in


def choose_widths(
    recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore], normalization: Normalization
) -> list[int]:
    """Return the width of the chunk of each component.

    By ``variance`` or ``rank`` the chunks have ``recipe.chunk_width`` features in the mean, in steps of an eighth of it
    and no fewer than one step. Chunks whose width is given are not counted.

    Raises
    ------
    InputError
        If the rank is asked for without control channels.
    """
    given = {component.name: said_of(component, recipe.widths) for component in components}
    free = [component for component in components if given[component.name] is None]
    widths = {name: width for name, width in given.items() if width is not None}
    if recipe.width_rule == "equal" or not free:
        widths |= {component.name: recipe.chunk_width for component in free}
    else:
        shares = _shares(recipe, free, stores, normalization)
        widths |= {c.name: w for c, w in zip(free, share_out(recipe.chunk_width, shares), strict=True)}
    return [widths[component.name] for component in components]


def share_out(mean_width: int, shares: Sequence[float]) -> list[int]:
    """Return widths in proportion to ``shares``, ``mean_width`` in the mean, in steps of an eighth of it, at least one.

    Examples
    --------
    >>> share_out(32, [1.0, 3.0, 0.0])
    [24, 68, 4]
    """
    step = max(1, mean_width // 8)
    n, left = len(shares), mean_width * len(shares) // step - len(shares)
    total = sum(shares)
    wanted = [left * share / total if total > 0 else left / n for share in shares]
    steps = [int(want) for want in wanted]
    by_remainder = sorted(range(n), key=lambda i: steps[i] - wanted[i])
    for i in by_remainder[: left - sum(steps)]:
        steps[i] += 1
    return [step * (1 + more) for more in steps]


def rank_above(spectrum: np.ndarray, floor: np.ndarray) -> float:
    """Return how many directions stand out of a floor: exp of the entropy of what of each eigenvalue is above it.

    Both spectra are sorted, largest first, and compared place by place, as parallel analysis does (Horn 1965); the
    entropy is that of Roy and Vetterli 2007. The gain of a channel is its own, so the floor is first brought to the
    level of the spectrum in the lower half, where there is noise alone.

    Examples
    --------
    >>> round(rank_above(np.array([50.0, 50.0, 2, 2, 2, 2]), np.ones(6)), 6)
    2.0
    >>> rank_above(2 * np.ones(6), np.ones(6))
    0.0
    """
    seen = floor > 0.1 * np.median(floor[floor > 1e-9 * floor.max()])  # pixels that no cell reaches hardly vary
    spectrum, floor = spectrum[seen], floor[seen]
    lower = slice(len(floor) // 2, None)
    floor = floor * np.median(spectrum[lower] / floor[lower])
    above = (spectrum - floor)[spectrum > (1 + _MARGIN) * floor]
    if not len(above):
        return 0.0
    share = above / above.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _shares(
    recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore], normalization: Normalization
) -> list[float]:
    markers = stores[0].markers
    names = recipe.controls or tuple(marker for marker in markers if is_control(marker))
    if recipe.width_rule == "rank" and not names:
        msg = (
            "the rank of a component is counted from what control channels show, and none is known. "
            f"Name markers of background by --controls; there are {', '.join(markers)}."
        )
        raise InputError(msg)
    controls = [component for component in by_marker(markers) if component.name in names]
    spectra = _spectra(recipe, [*components, *controls], stores, normalization)
    spectra, floors = spectra[: len(components)], spectra[len(components) :]
    if recipe.width_rule == "variance":
        return [float(spectrum.sum()) for spectrum in spectra]
    floor = np.mean(floors, axis=0)
    return [rank_above(s, np.repeat(floor, len(c.channels))) for s, c in zip(spectra, components, strict=True)]


def _spectra(
    recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore], normalization: Normalization
) -> list[np.ndarray]:
    """Return the eigenvalues of the covariance of each component's pixels over cells, largest first."""
    generator = np.random.default_rng(recipe.seed)
    per_store = max(2, _SAMPLE_CELLS // len(stores))
    seen = []
    for store in stores:
        rows = np.sort(generator.choice(store.n_cells, min(per_store, store.n_cells), replace=False))
        patches, regions = store.read_rows(rows)
        # In units of the logarithm, not of each marker's own spread: by that, noise would be as large as signal.
        logs = normalization(patches) * normalization.std[:, None, None]
        hide = recipe.component_area == "cell"
        shown = cut(logs, areas(torch.from_numpy(regions), components, hide=hide), components, hide=hide)
        seen.append(F.adaptive_avg_pool2d(shown, min(_GRID_PX, store.patch_px)))
    pictures = torch.cat(seen)  # (N, channels of all components, 8, 8)
    spectra = []
    for picture in torch.split(pictures, [len(component.channels) for component in components], dim=1):
        pixels = picture.flatten(1).double()
        values = torch.linalg.svdvals(pixels - pixels.mean(dim=0)).numpy() ** 2 / (len(pixels) - 1)
        spectra.append(np.pad(values, (0, pixels.shape[1] - len(values))))  # of fewer cells than pixels the rest are 0
    return spectra
