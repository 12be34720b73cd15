"""Views: augmented copies of a whole batch of normalised patches, made on the device.

Multiplex images are not photographs: there is no up, no colour, and the scale is biology. So views turn, mirror, shift
and slightly scale a patch; and per marker they change gain and offset, add noise and blur; where asked, they leave a
marker out now and then. No crops, no colour jitter.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.errors import InputError


class Picture(NamedTuple):
    """What a view is made of."""

    patches: Tensor  # (B, C, P, P), normalised
    masks: Tensor | None = None  # (B, m, P, P): moved as the patches are, and not stained; in the view they come last
    view_px: int | None = None  # side of the view, where it is to be smaller than the patches
    as_whole: bool = False  # turned as the first picture is, whatever others are


@dataclass(frozen=True)
class Views:
    """How views of a batch differ.

    Parameters
    ----------
    shared_geometry
        Whether all views are turned, shifted and scaled alike. Then a feature of where a marker lies, or of whether
        two markers coincide, is the same in all, and worth learning.
    spanning
        Whether that holds for components that show several markers, and for them alone.
    upright
        Whether views are neither turned nor mirrored, for pictures that have an up, such as digits.
    scale
        Range of the magnification.
    shift
        Largest shift, as a fraction of the patch.
    gain, offset
        Half-widths of the ranges of the factor and the summand of each marker, in standard deviations of the marker.
    noise
        Largest standard deviation of the added noise.
    blur
        Probability of a blurred view.
    drop
        Probability that a marker is left out of a view.
    """

    shared_geometry: bool = False
    spanning: bool = False
    upright: bool = False
    scale: tuple[float, float] = (0.8, 1.2)
    shift: float = 0.05
    gain: float = 0.1
    offset: float = 0.05
    noise: float = 0.03
    blur: float = 0.05
    drop: float = 0.0

    def __call__(
        self, *pictures: Picture, generator: torch.Generator, first: int = 0, of: int | None = None
    ) -> tuple[Tensor, ...]:
        """Return a view, (B, C + m, P, P), of each of some pictures of the same cells.

        Where they are a part of a batch ``of`` more cells, the first of them being number ``first`` there, they get the
        views that they would get in the whole batch.
        """
        patches = pictures[0].patches
        draws = _Draws(generator, patches.device, first, len(patches), of or len(patches))
        turns = [self._matrices(draws)]
        for picture in pictures[1:]:
            turns.append(turns[0] if self.shared_geometry or picture.as_whole else self._matrices(draws))
        views = tuple(_move(picture, turn) for picture, turn in zip(pictures, turns, strict=True))
        for picture, view in zip(pictures, views, strict=True):
            self._stain(view[:, : picture.patches.shape[1]], draws)
        return views

    def _matrices(self, draws: "_Draws") -> Tensor:
        """Return an affine matrix (2, 3) per patch: a turn, perhaps a reflection, a scale, a shift."""
        u = draws.uniform(5).T  # (5, B)
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * u[1]
        angle, mirror = 2 * math.pi * u[0], torch.where(u[2] < 0.5, -1.0, 1.0)
        if self.upright:
            angle, mirror = torch.zeros_like(angle), torch.ones_like(mirror)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        x, y = (2 * self.shift * (2 * u[3:] - 1)).unbind()  # the grid runs from -1 to 1
        rows = (torch.stack([cos * mirror, -sin, x], dim=1), torch.stack([sin * mirror, cos, y], dim=1))
        return torch.stack(rows, dim=1)

    def _stain(self, patches: Tensor, draws: "_Draws") -> None:
        """Change, in place, how bright and how sharp the markers are."""
        channels = patches.shape[1]
        gain = 1 + self.gain * (2 * draws.uniform(channels, 1, 1) - 1)
        offset = self.offset * (2 * draws.uniform(channels, 1, 1) - 1)
        kept = (draws.uniform(channels, 1, 1) >= self.drop).float()
        # 0 is the marker's mean: an absent marker tells nothing.
        patches.mul_(gain * kept).add_(offset * kept)
        blurred = draws.uniform() < self.blur
        if blurred.any():
            patches[blurred] = _blur(patches[blurred])
        if self.noise:
            patches.addcmul_(draws.normal(*patches.shape[1:]), self.noise * draws.uniform(1, 1, 1))


@dataclass(frozen=True)
class _Draws:
    """Random numbers of some cells of a batch: drawn for all of it, so that they do not depend on its parts."""

    generator: torch.Generator
    device: torch.device
    first: int
    n: int
    of: int

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers between 0 and 1, (n, *shape)."""
        return self._part(torch.rand((self.of, *shape), generator=self.generator, device=self.device))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, (n, *shape)."""
        return self._part(torch.randn((self.of, *shape), generator=self.generator, device=self.device))

    def _part(self, drawn: Tensor) -> Tensor:
        return drawn[self.first : self.first + self.n]


def plan_views(name: str) -> Views:
    """Return views of ``shared``, ``independent`` or ``spanning`` geometry, ``upright`` or not: ``shared+upright``."""
    words = name.split("+")
    geometries = {"shared", "independent", "spanning"}
    if not set(words) <= {*geometries, "upright"} or len(geometries.intersection(words)) > 1:
        msg = (
            f"there are no {name!r} views; there are shared and independent, spanning, and each of them with +upright."
        )
        raise InputError(msg)
    return Views(shared_geometry="shared" in words, spanning="spanning" in words, upright="upright" in words)


def _move(picture: Picture, turns: Tensor) -> Tensor:
    """Return patches and masks turned, shifted and scaled, (B, C + m, P, P), in memory of their own."""
    patches, masks, px, _ = picture
    if masks is not None:
        patches = torch.cat([patches, masks.to(patches.dtype)], dim=1)
    px = px or patches.shape[2]
    # One resampling for all of it. Corners that a turned patch lacks are mirrored tissue, not an empty wedge.
    grid = F.affine_grid(turns, [*patches.shape[:2], px, px], align_corners=False)
    return F.grid_sample(patches, grid, padding_mode="reflection", align_corners=False)


def _blur(patches: Tensor) -> Tensor:
    """Smooth with the binomial kernel 1-2-1 in both directions."""
    channels = patches.shape[1]
    row = torch.tensor([0.25, 0.5, 0.25], device=patches.device, dtype=patches.dtype)
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
