"""Small slides with known answers, and checks of the contracts of extensions: for tests and examples."""

import itertools
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from mxsplicer.images.readers.image_file import ImageFile
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore

if TYPE_CHECKING:
    from mxsplicer.splicer.deconstruction import Component
    from mxsplicer.splicer.losses import Loss
    from mxsplicer.splicer.objectives import Objective, Parts


def check_reader(read: Callable[[Path | str], ImageFile | None], path: Path | str, expected: np.ndarray) -> None:
    """Test a reader: raise unless it opens ``path`` as ``expected`` (C, Y, X), lazily, and slices like an array.

    Slices are NumPy's: integers, any step, a list of channels, empty slices. The image can be shared with threads and,
    by a pickle that does not hold the pixels, with processes; levels run from fine to coarse.
    """
    found = read(path)
    assert found is not None, "the reader returned None, as for a file of another format"
    assert found.image.shape == expected.shape
    assert found.image.dtype == expected.dtype
    assert found.image.ndim == 3
    assert found.markers is None or len(found.markers) == len(expected)
    assert all(side >= 1 for side in found.tile_px), "a tile has no pixels"
    height, width = expected.shape[1:]
    window = (slice(None), slice(height // 3, height), slice(1, width, 2))
    backwards = (slice(None, None, -1), slice(height, None, -3), slice(-2, 1, -1))
    channels = ([len(expected) - 1, 0], *window[1:])
    nothing = (slice(None), slice(5, 5), slice(None))
    points = ((0, *window[1:]), (-1, 2), (slice(None), height // 2, width // 2), (0, -1, -1))
    keys: list[Any] = [window, backwards, channels, nothing, *points, Ellipsis]
    for key in keys:
        np.testing.assert_array_equal(found.image[key], expected[key], strict=True)
    with ThreadPoolExecutor(4) as pool:
        for key, piece in zip(keys, pool.map(found.image.__getitem__, keys), strict=True):
            np.testing.assert_array_equal(piece, expected[key])
    pickled = pickle.dumps(found.image)
    assert len(pickled) < 10_000 + expected.nbytes // 10, "the pickle of the image holds its pixels"
    np.testing.assert_array_equal(pickle.loads(pickled)[window], expected[window])
    for finer, coarser in itertools.pairwise((found.image, *found.pyramid)):
        assert coarser.shape[0] == finer.shape[0], "levels differ in channels"
        assert coarser.shape[1] < finer.shape[1], "levels do not run from fine to coarse"


def check_loss(loss: "Loss") -> None:
    """Test a loss: raise unless it keeps the contract.

    It is a scalar and the sum of its terms, has a finite gradient, does not change when the cells are reordered, is
    lower for embeddings that agree than for ones that do not, and works on all chunks at once.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    e_a = torch.randn(16, 6, generator=generator, requires_grad=True)
    e_b = torch.randn(16, 6, generator=generator)

    def seeded(e_a: "torch.Tensor", e_b: "torch.Tensor") -> "torch.Tensor":
        torch.manual_seed(0)  # for a loss that draws random numbers
        return loss(e_a, e_b)

    value = seeded(e_a, e_b)
    assert value.shape == (), "a loss is a scalar"
    torch.manual_seed(0)
    torch.testing.assert_close(value, torch.stack(list(loss.terms(e_a, e_b).values())).sum())
    (gradient,) = torch.autograd.grad(value, e_a)
    assert torch.isfinite(gradient).all(), "the gradient is not finite"
    order = torch.randperm(16, generator=generator)
    torch.testing.assert_close(value, seeded(e_a[order], e_b[order]))
    assert seeded(e_a, e_a.detach()) < value, "embeddings that agree cost no less than ones that do not"
    torch.manual_seed(0)
    chunks = torch.func.vmap(loss.terms, in_dims=1, randomness="same")(e_a[:, None], e_b[:, None])
    torch.testing.assert_close(value, torch.stack(list(chunks.values())).sum())


def check_objective(make: "Callable[[Parts], Objective]", *, consistency_weight: float = 1.0) -> None:
    """Test an objective: raise unless it keeps the contract.

    It keeps the given encoder, embeds each cell of the views that it asks for, has one entry per chunk in each term and
    in its pairs, and a finite gradient for every weight.
    """
    import torch

    from mxsplicer.splicer.deconstruction import by_marker
    from mxsplicer.splicer.encoders import ResNet
    from mxsplicer.splicer.losses.chunks import Chunks
    from mxsplicer.splicer.losses.vicreg import VICReg
    from mxsplicer.splicer.objectives import Parts

    generator = torch.Generator().manual_seed(0)
    encoder, components = ResNet(3, 16, width=8), tuple(by_marker(["DAPI", "CD3e", "CD20"]))
    chunks = Chunks((4, 2, 6), (VICReg(),) * 3, (1.0,) * 3)
    objective = make(
        Parts(encoder, components, chunks, VICReg(), 0, 16, "lean", 4, consistency_weight=consistency_weight)
    )
    whole, regions = torch.randn(8, 3, 16, 16, generator=generator), torch.ones(8, 16, 16, dtype=torch.uint8)
    views = []
    for one in objective.view_inputs(whole, whole, regions):
        seen = one.patches + 0.1 * torch.randn(one.patches.shape, generator=generator)
        masks = [] if one.masks is None else [one.masks.float()]
        views.append(torch.cat([seen, *masks], dim=1))
    arguments = objective.step_arguments(0, None)

    z, *e = objective.embed(*views, **arguments)
    terms = objective.terms(z, *e, **arguments)

    n = len(objective.chunk_names)
    assert objective.encoder is encoder, "the encoder that is kept is another"
    assert z.shape == (8, encoder.out_features), "the first output is not z of the first view"
    assert all(len(one) == 8 for one in e), "the rows are not cells, so that rows of several processes cannot be joined"
    assert all(term.shape == (n,) for term in terms.values()), f"a term has not one entry for each of {n} chunks"
    assert len(objective.pairs(z, *e, **arguments)) == n, f"pairs has not one entry for each of {n} chunks"
    names, weights = zip(*objective.named_parameters(), strict=True)
    loss = torch.stack(list(terms.values())).sum()
    for name, gradient in zip(names, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        assert gradient is not None, f"{name} does not contribute to the loss"
        assert torch.isfinite(gradient).all(), f"the gradient of {name} is not finite"


def check_deconstruction(deconstruct: Callable[[Sequence[str]], "list[Component]"]) -> None:
    """Test a deconstruction: raise unless it keeps the contract.

    It names every component once, its channels are indices of markers, and the pixels of a component depend on each
    cell alone.
    """
    import torch

    markers = ["DAPI", "CD3e", "CD20", "CD8a"]
    components = deconstruct(markers)
    names = [component.name for component in components]
    assert len(names) == len(set(names)) > 0
    for component in components:
        assert component.channels, f"component {component.name} has no channel"
        assert all(0 <= channel < len(markers) for channel in component.channels)
        if component.pixels is not None:
            regions = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
            inside = component.pixels(regions)
            assert (inside.shape, inside.dtype) == (regions.shape, torch.bool), (
                f"pixels of {component.name} are not booleans (B, P, P)"
            )
            assert torch.equal(component.pixels(regions[1:3]), inside[1:3]), "a cell's pixels depend on other cells"
    assert [c.name for c in deconstruct(markers)] == names, "it depends on more than the markers"


def tiny_slide(
    *,
    cells_at: Sequence[tuple[int, int]] = ((20, 30), (40, 70)),
    shape_px: tuple[int, int] = (64, 96),
    markers: Sequence[str] = ("DAPI", "CD3e", "CD20"),
    radius_px: int = 5,
    seed: int = 0,
) -> tuple[Slide, np.ndarray]:
    """Return a slide in memory for tests, half a micrometre per pixel, and its mask; equal for equal arguments.

    Parameters
    ----------
    cells_at
        Centre (y, x) in pixels of each cell, a disc; the first has id 1. Where discs overlap the later one is whole.

    Returns
    -------
    The slide, image (C, Y, X) uint16 of noise with brighter cells, and the mask (Y, X) uint32.

    Examples
    --------
    >>> slide, mask = tiny_slide(cells_at=[(20, 30)])
    >>> slide.image.shape, int(mask[20, 30])
    ((3, 64, 96), 1)
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 500, (len(markers), *shape_px), dtype=np.uint16)
    mask = np.zeros(shape_px, np.uint32)
    y, x = np.ogrid[: shape_px[0], : shape_px[1]]
    for cell_id, (centre_y, centre_x) in enumerate(cells_at, start=1):
        inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius_px**2
        mask[inside] = cell_id
        image[:, inside] += rng.integers(500, 5000, (len(markers), 1), dtype=np.uint16)
    return Slide("tiny", image, tuple(markers), pixel_size_um=0.5), mask


def tiny_store(
    path: str | Path | None = None, *, cells_at: Sequence[tuple[int, int]] = ((20, 30), (40, 70))
) -> PatchStore:
    """Return test patches (16 µm, 32 pixels), those of :func:`tiny_slide`, in a new folder if ``path`` is None.

    Examples
    --------
    >>> tiny_store().patches.shape
    (2, 3, 32, 32)
    """
    slide, mask = tiny_slide(cells_at=cells_at)
    return extract_patches(slide, mask, path or Path(mkdtemp()) / "tiny.zarr", patch_size_um=16)


def lone_tissue(
    n_cells: int, *, range_um: float, n_fields: int = 1, side_um: float = 1000.0, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return test points and fields of a tissue without signal: neighbours are similar, fields are independent.

    The tissue is a disc with holes, clipped at the edges of the slide. A field is Gaussian: of its variance,
    ``1 - noise`` has the correlation ``exp(-(distance / range_um)² / 4)``, and the rest is independent between cells.

    Returns
    -------
    Points (N, 2) in µm and fields (N, n_fields), float32, of about mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, side_um, (2 * n_cells, 2))
    inside = np.hypot(*(points - side_um / 2).T) < 0.6 * side_um
    for centre, radius in zip(rng.uniform(0, side_um, (5, 2)), rng.uniform(0.04, 0.1, 5) * side_um, strict=True):
        inside &= np.hypot(*(points - centre).T) > radius
    points = points[inside][:n_cells]
    fields = rng.normal(size=(len(points), n_fields)).astype(np.float32)
    if range_um > 0:
        step = range_um / 4
        size = int(side_um / step) + 2
        places = tuple((points / step).T)
        for field in range(n_fields):
            # A Gaussian filter of white noise, computed with a margin around the slide.
            noise_around = rng.normal(size=(size + 40, size + 40))
            smooth = gaussian_filter(noise_around, 4.0)[20:-20, 20:-20] * (2 * np.sqrt(np.pi) * 4.0)
            fields[:, field] *= np.sqrt(noise)
            fields[:, field] += np.sqrt(1 - noise) * map_coordinates(smooth, places, order=1)
    return points, fields
