"""Moments of the pixels of cells: of their intensities, of a smoothed image and of its gradients.

Sums over the pixels of each cell, without any number that was measured on other cells.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

RIM_PX = 2
_LEAST_INTERIOR = 0.25  # of the cell; in a smaller cell the rim is thinner
_EDGE_PX = 0.5  # standard deviations of the Gaussians that come before gradients, and of the smoothed image
_NEAR_PX = 1.5
_STEP_PX = 3  # between the sizes to which patches are cut
_CELLS_AT_ONCE = 32  # of one size, so that they fit in a cache


class PixelMoments(NamedTuple):
    """Moments of the pixels of each cell, by marker."""

    area: Tensor  # (B,) pixels
    mean: Tensor  # (B, C) of the intensity
    variance: Tensor  # (B, C) of the intensity
    covariance: Tensor  # (B, C, C) of the normalised pixels
    smooth_covariance: Tensor  # (B, C, C) of the smoothed image
    rim: Tensor  # (B, C) covariance with being at the rim, in standard deviations of that
    side: Tensor  # (B, C) length of the covariances with the two coordinates
    direction: Tensor  # (B, C, 2) mean square gradient as a vector of twice its angle: the structure tensor
    energy: Tensor  # (B, C) mean square gradient
    polarity: Tensor  # (B, C) mean of |g|² g, where g is the gradient away from the centre of the cell
    cubes: Tensor  # (B, C) mean of |g|³
    shape: Tensor  # (B, 2) logarithms of the area in pixels and of the ratio of the axes


def measure_pixels(x: Tensor, inside: Tensor, intensities: Callable[[Tensor], Tensor]) -> PixelMoments:
    """Return the moments of patches x (B, C, P, P) over the pixels where ``inside`` (B, P, P) is 1 and not 0.

    ``intensities`` returns those of normalised pixels (b, C, n).
    """
    reach = _reach(inside)
    side, order, parts = x.shape[-1], [], []
    for reached in torch.unique(reach).tolist():  # the cut depends on the cell alone, and so do the last digits
        cut = slice(side // 2 - reached, (side + 1) // 2 + reached)
        for some in (reach == reached).nonzero().flatten().split(_CELLS_AT_ONCE):
            parts.append(_measure(x[some][:, :, cut, cut], inside[some][:, cut, cut], intensities))
            order.append(some)
    back = torch.cat(order).argsort()
    return PixelMoments(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))


def _reach(inside: Tensor) -> Tensor:
    """Return how many pixels from the middle moments are measured, in steps, at most half a patch, (B,)."""
    side = inside.shape[-1]
    places = torch.arange(side, device=inside.device)
    steps = torch.maximum(side // 2 - places, places - (side + 1) // 2 + 1)  # cells lie around the middle
    used = torch.maximum(inside.amax(dim=1), inside.amax(dim=2)) > 0
    reach = (used * steps).amax(dim=1).clamp_min(1)
    return ((reach + _STEP_PX - 1) // _STEP_PX * _STEP_PX).clamp_max(side // 2)


def _measure(x: Tensor, inside: Tensor, intensities: Callable[[Tensor], Tensor]) -> PixelMoments:
    x = x.contiguous()
    area = inside.sum(dim=(1, 2)).clamp_min(1)
    n = area[:, None]
    mask = inside[:, None]
    counts = intensities(x.flatten(2)) * inside.flatten(1)[:, None]
    mean = counts.sum(dim=2) / n
    variance = (counts.square().sum(dim=2) / n - mean.square()).clamp_min(0)
    x = x * mask
    centred = (x - (x.sum(dim=(2, 3)) / n)[..., None, None]) * mask
    rim, side = _project(centred, inside, area)
    smooth = _smooth(centred, _NEAR_PX)
    smooth = (smooth - ((smooth * mask).sum(dim=(2, 3)) / n)[..., None, None]) * mask
    return PixelMoments(
        area,
        mean,
        variance,
        _covariance(centred, area),
        _covariance(smooth, area),
        rim,
        side,
        *_edges(centred, inside),
        _shape(inside, area),
    )


def _shape(inside: Tensor, area: Tensor) -> Tensor:
    """Return the logarithms of area and elongation, (B, 2): the axes are those of the ellipse of equal moments."""
    places = torch.arange(inside.shape[-1], dtype=inside.dtype, device=inside.device)
    columns, rows = inside.sum(dim=1), inside.sum(dim=2)  # (B, P)
    x, y = ((counts * places).sum(dim=1) / area for counts in (columns, rows))
    xx = (columns * (places - x[:, None]).square()).sum(dim=1) / area + 1 / 12  # a pixel has an extent
    yy = (rows * (places - y[:, None]).square()).sum(dim=1) / area + 1 / 12
    of_rows = (inside * (places - x[:, None])[:, None, :]).sum(dim=2)
    xy = (of_rows * (places - y[:, None])).sum(dim=1) / area
    difference = ((xx - yy).square() + 4 * xy.square()).sqrt()
    minor = ((xx + yy - difference) / 2).clamp_min(1 / 12)
    elongation = ((xx + yy + difference) / 2 / minor).log() / 2
    return torch.stack([area.log(), elongation], dim=1)


def _covariance(centred: Tensor, area: Tensor) -> Tensor:
    pixels = centred.flatten(2)
    return pixels @ pixels.transpose(1, 2) / area[:, None, None]


def _project(centred: Tensor, inside: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Return two pixel moments: covariance with the rim, and length of those with both coordinates, (B, C) each."""
    rim = inside - _interior(inside, area)
    places = torch.arange(inside.shape[-1], dtype=inside.dtype, device=inside.device)
    patterns = torch.stack([rim, places[:, None] * inside, places[None, :] * inside], dim=1)
    patterns = (patterns - (patterns.sum(dim=(2, 3)) / area[:, None])[..., None, None]) * inside[:, None]
    patterns = nn.functional.normalize(patterns.flatten(2), dim=2)
    onto = centred.flatten(2) @ patterns.transpose(1, 2) / area.sqrt()[:, None, None]  # (B, C, 3)
    return onto[..., 0], onto[..., 1:].norm(dim=2)


def _edges(centred: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pixel moments of edges: direction, energy, polarity and cubes, where all neighbours are inside."""
    clear = _erode(inside)
    n = clear.sum(dim=(1, 2)).clamp_min(1)[:, None]
    smooth = _gaussian(centred.shape[-1], _EDGE_PX, centred)
    slope = _slope(smooth)
    x = (smooth @ centred @ slope.T) * clear[:, None]
    y = (slope @ centred @ smooth.T) * clear[:, None]
    squares = x * x, y * y
    direction = torch.stack([squares[0] - squares[1], 2 * x * y], dim=2).sum(dim=(3, 4)) / n[..., None]
    energy = (squares[0] + squares[1]).sum(dim=(2, 3)) / n
    outwards = _away_from_the_centre(inside)
    along = x * outwards[0] + y * outwards[1]
    square = along * along
    polarity, cubes = ((square * one).sum(dim=(2, 3)) / n for one in (along, along.abs()))
    return direction, energy, polarity, cubes


def _away_from_the_centre(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit vectors (x, y) from the centroid of each cell to its pixels for moments, (B, 1, P, P) each."""
    area = inside.sum(dim=(1, 2)).clamp_min(1)
    places = torch.arange(inside.shape[-1], dtype=inside.dtype, device=inside.device)
    x = places[None, None, :] - ((inside * places[None, :]).sum(dim=(1, 2)) / area)[:, None, None]
    y = places[None, :, None] - ((inside * places[:, None]).sum(dim=(1, 2)) / area)[:, None, None]
    length = (x.square() + y.square()).sqrt().clamp_min(1)
    return (x / length)[:, None], (y / length)[:, None]


def _interior(inside: Tensor, area: Tensor) -> Tensor:
    """Return the cells (B, P, P) without their outer pixels, where moments of gradients are measured."""
    interior = inside
    for _ in range(RIM_PX):
        smaller = _erode(interior)
        large_enough = smaller.sum(dim=(1, 2)) >= _LEAST_INTERIOR * area
        interior = torch.where(large_enough[:, None, None], smaller, interior)
    return interior


def _erode(inside: Tensor) -> Tensor:
    outside = nn.functional.pad(1 - inside, (1, 1, 1, 1), value=1.0)
    return 1 - nn.functional.max_pool2d(outside[:, None], 3, stride=1)[:, 0]


def _smooth(maps: Tensor, deviation: float) -> Tensor:
    gaussian = _gaussian(maps.shape[-1], deviation, maps)
    return gaussian @ maps @ gaussian.T


def _gaussian(side: int, deviation: float, like: Tensor) -> Tensor:
    """Return the smoothing before pixel moments are measured, a Gaussian along an axis, as a matrix (side, side)."""
    places = torch.arange(-side + 1, side, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-places.square() / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    steps = torch.arange(side, device=like.device)
    return kernel[steps[:, None] - steps[None, :] + side - 1]


def _slope(smooth: Tensor) -> Tensor:
    """Return the gradient along an axis for pixel moments: ``smooth`` (side, side), then differences of neighbours."""
    return (nn.functional.pad(smooth, (0, 0, 0, 1))[1:] - nn.functional.pad(smooth, (0, 0, 1, 0))[:-1]) / 2
