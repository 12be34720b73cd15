"""Checks of what a training is given: whether stores, components and batches fit together."""

import logging
from collections.abc import Sequence

from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import same_scale
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.deconstruction import OF_NUCLEI, Component
from mxsplicer.splicer.recipe import Recipe

logger = logging.getLogger(__name__)


def check_agreement(stores: Sequence[PatchStore]) -> tuple[tuple[str, ...], int, float]:
    """Return the markers, patch side and pixel size of all stores, or raise if they differ."""
    first = stores[0]
    for store in stores[1:]:
        if store.markers != first.markers:
            differ = sorted(set(store.markers) ^ set(first.markers))
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in their markers"
                f"{': ' + ', '.join(differ) if differ else ' in their order'}, and one model needs one panel."
            )
            remedy = "Train on the markers of all slides with `panel='shared'`, or of any with `panel='union'`."
            raise InputError(msg, remedy)
        alike = same_scale(store.pixel_size_um, first.pixel_size_um)
        if store.patch_px != first.patch_px or not alike:
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in scale: {first.patch_px} px of "
                f"{first.pixel_size_um:g} µm and {store.patch_px} px of {store.pixel_size_um:g} µm."
            )
            size = f"`patch_size_um={first.patch_px * store.pixel_size_um:g}`"
            raise InputError(msg, f"Cut the patches of {store.slide_name!r} again with {size}." if alike else "")
    return first.markers, first.patch_px, first.pixel_size_um


def make_batches(
    stores: Sequence[PatchStore], recipe: Recipe, processes: int, *, buffer_bytes: int | None = None
) -> Batches:
    """Return the batches, of a size that processes and micro-batches can divide equally, or raise."""
    shares = processes * recipe.accumulate
    n_cells = sum(store.n_cells for store in stores)
    if n_cells < 2 * shares:
        msg = (
            f"{n_cells} cell{'s are' if n_cells > 1 else ' is'} too few to train on"
            f"{f' in {shares} shares' if shares > 1 else ''}."
        )
        raise InputError(msg, "Use more slides, or a trained `model`.")
    if recipe.batch_size % shares or recipe.batch_size < 2 * shares:
        divided = (
            f"{processes} process{'es' * (processes > 1)} and "
            f"{recipe.accumulate} micro-batch{'es' * (recipe.accumulate > 1)}"
        )
        msg = f"a batch of {recipe.batch_size} cells cannot be divided among {divided}, at least two cells to each."
        raise InputError(msg, f"Use a multiple of {shares} as `batch_size`.")
    batch_size = min(recipe.batch_size, n_cells // shares * shares)
    return Batches(stores, batch_size, seed=recipe.seed, buffer_bytes=buffer_bytes)


def find_components(
    recipe: Recipe, markers: Sequence[str], varies: Sequence[bool], stores: Sequence[PatchStore]
) -> list[Component]:
    """Return the components in which something varies, or raise if none does or patches lack the nuclei they need."""
    components = [c for c in recipe.components(markers) if any(varies[channel] for channel in c.channels)]
    if not components:
        names = ", ".join(store.slide_name for store in stores)
        msg = f"every marker of {names} has one value in all cells, so nothing can be learned."
        raise InputError(msg)
    _check_nuclei(recipe, components, stores)
    constant = [marker for marker, moves in zip(markers, varies, strict=True) if not moves]
    if constant:
        logger.warning("left out as components, for they are constant in every cell: %s", ", ".join(constant))
    return components


def _check_nuclei(recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore]) -> None:
    without = [store.slide_name for store in stores if not store.knows_nuclei]
    shown = [component.name for component in components if component.pixels in OF_NUCLEI]
    if without and shown and recipe.method != "joint":
        msg = f"component {shown[0]} needs a mask of nuclei, and the patches of slide {without[0]!r} were cut without."
        raise InputError(msg, "Cut them again with `nuclei`.")
