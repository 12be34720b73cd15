"""Widths of chunks: equal, or in proportion to the variance or the rank of the components.

The paper (arXiv 2503.07444) has equal chunks and mentions others. Here the same total can be allocated by the variance
of the components, or by their effective rank above that of control channels, since noise alone has a high rank.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mxsplicer.errors import InputError
from mxsplicer.images.markers import is_control
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.deconstruction import Component, by_marker, component_pixels, cut
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.recipe import Recipe, find_setting

_SAMPLE_CELLS = 1_000
_MARGIN = 0.15  # of the floor; an eigenvalue of 1,000 cells is known to 0.045 of itself
_COARSE_PX = 8  # patches are averaged to this side: finer detail is mostly noise in a sample of 1,000 cells


def choose_widths(
    recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore], normalization: Normalization
) -> list[int]:
    """Return the width of the chunk of each component.

    With the rules ``variance`` and ``rank`` the mean width is ``recipe.chunk_width``, in steps of an eighth of it and
    at least one step. Chunks of given width are not counted.

    Raises
    ------
    InputError
        If the rule is ``rank`` and control channels are missing.
    """
    given = {component.name: find_setting(component, recipe.widths) for component in components}
    free = [component for component in components if given[component.name] is None]
    widths = {name: width for name, width in given.items() if width is not None}
    if recipe.width_rule == "equal" or not free:
        widths |= {component.name: recipe.chunk_width for component in free}
    else:
        shares = _shares(recipe, free, stores, normalization)
        widths |= {c.name: w for c, w in zip(free, allocate_widths(recipe.chunk_width, shares), strict=True)}
    return [widths[component.name] for component in components]


def allocate_widths(mean_width: int, shares: Sequence[float]) -> list[int]:
    """Return widths of mean ``mean_width`` in proportion to ``shares``, in steps of an eighth of it, at least one step.

    Examples
    --------
    >>> allocate_widths(32, [1.0, 3.0, 0.0])
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
    """Return the effective rank above a noise floor, by which widths are shared: exp of the entropy of the spectrum.

    Both spectra are sorted, largest first, and compared eigenvalue by eigenvalue, as in parallel analysis (Horn 1965);
    the entropy is that of Roy and Vetterli 2007. Channels differ in gain, so the floor is first scaled to the level of
    the spectrum in its lower half, which contains only noise.

    Examples
    --------
    >>> round(rank_above(np.array([50.0, 50.0, 2, 2, 2, 2]), np.ones(6)), 6)
    2.0
    >>> rank_above(2 * np.ones(6), np.ones(6))
    0.0
    """
    varies = floor > 0.1 * np.median(floor[floor > 1e-9 * floor.max()])  # pixels that no cell covers hardly vary
    spectrum, floor = spectrum[varies], floor[varies]
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
        msg = "chunk widths by rank need control channels, and none of the markers is known to be one."
        raise InputError(msg, f"Name markers of background in `controls`; the markers are {', '.join(markers)}.")
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
    """Return what decides the width of each component: eigenvalues of its pixels over cells, largest first."""
    generator = np.random.default_rng(recipe.seed)
    per_store = max(2, _SAMPLE_CELLS // len(stores))
    sample = []
    for store in stores:
        rows = np.sort(generator.choice(store.n_cells, min(per_store, store.n_cells), replace=False))
        patches, regions = store.read_rows(rows)
        # In units of the logarithm, not of each marker's standard deviation, which would scale noise up to signal.
        logs = normalization(patches) * normalization.std[:, None, None]
        hide = recipe.component_area == "cell"
        masks = component_pixels(torch.from_numpy(regions), components, hide=hide)
        shown = cut(logs, masks, components, hide=hide)
        sample.append(F.adaptive_avg_pool2d(shown, min(_COARSE_PX, store.patch_px)))
    coarse = torch.cat(sample)  # (N, channels of all components, 8, 8)
    spectra = []
    for of_component in torch.split(coarse, [len(component.channels) for component in components], dim=1):
        pixels = of_component.flatten(1).double()
        values = torch.linalg.svdvals(pixels - pixels.mean(dim=0)).numpy() ** 2 / (len(pixels) - 1)
        spectra.append(np.pad(values, (0, pixels.shape[1] - len(values))))  # with fewer cells than pixels
    return spectra
