"""Views: augmented copies of a whole batch of normalised patches, made on the device.

Multiplex images are not photographs: orientation means nothing, channels are not colours, and scale is biology. So
views rotate, mirror, shift and slightly scale a patch; they jitter the intensity of each marker (gain and offset), add
noise and blur, and leave a marker out with a given probability. No crops, no colour jitter.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.errors import InputError


class ViewInput(NamedTuple):
    """The patches that a view is made from, and how large the view is."""

    patches: Tensor  # (B, C, P, P), normalised
    masks: Tensor | None = None  # (B, m, P, P): transformed as the patches are, without jitter; last in the view
    view_px: int | None = None  # side of the view, if smaller than that of the patches


@dataclass(frozen=True)
class Views:
    """How the views of a batch differ.

    Parameters
    ----------
    shared_geometry
        Whether all views have the same rotation, shift and scale. Then features of where a marker lies, or of whether
        two markers coincide, agree between views and can be learned.
    upright
        Whether views are neither rotated nor mirrored, for images with an orientation, such as digits.
    scale
        Range of the magnification.
    shift
        Largest shift, as a fraction of the patch.
    gain, offset
        Largest deviation from 1 of the gain of each marker, and largest offset, in standard deviations of the marker.
    noise
        Largest standard deviation of the added noise; that of a view is drawn between 0 and this.
    blur
        Probability of a blurred view.
    drop
        Probability that a marker is left out of a view.
    """

    shared_geometry: bool = False
    upright: bool = False
    scale: tuple[float, float] = (0.8, 1.2)
    shift: float = 0.05
    gain: float = 0.1
    offset: float = 0.05
    noise: float = 0.03
    blur: float = 0.05
    drop: float = 0.0

    def __call__(
        self, *inputs: ViewInput, generator: torch.Generator, first: int = 0, of: int | None = None
    ) -> tuple[Tensor, ...]:
        """Return one view, (B, C + m, P, P), of each input; all inputs show the same cells.

        If they are rows ``first`` and following of a batch ``of`` more cells, they get the views that they would get in
        the whole batch.
        """
        patches = inputs[0].patches
        draws = _Draws(generator, patches.device, first, len(patches), of or len(patches))
        geometries = [self._draw_geometry(draws)]
        geometries += [geometries[0] if self.shared_geometry else self._draw_geometry(draws) for _ in inputs[1:]]
        views = tuple(_transform(one, geometry) for one, geometry in zip(inputs, geometries, strict=True))
        for one, view in zip(inputs, views, strict=True):
            self._jitter(view[:, : one.patches.shape[1]], draws)
        return views

    def _draw_geometry(self, draws: "_Draws") -> Tensor:
        """Return an affine matrix (2, 3) per patch: rotation, reflection or none, scale and shift."""
        u = draws.uniform(5).T  # (5, B)
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * u[1]
        angle, mirror = 2 * math.pi * u[0], torch.where(u[2] < 0.5, -1.0, 1.0)
        if self.upright:
            angle, mirror = torch.zeros_like(angle), torch.ones_like(mirror)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        x, y = (2 * self.shift * (2 * u[3:] - 1)).unbind()  # the grid runs from -1 to 1
        rows = (torch.stack([cos * mirror, -sin, x], dim=1), torch.stack([sin * mirror, cos, y], dim=1))
        return torch.stack(rows, dim=1)

    def _jitter(self, patches: Tensor, draws: "_Draws") -> None:
        """Change the intensity and the sharpness of the markers, in place."""
        channels = patches.shape[1]
        gain = 1 + self.gain * (2 * draws.uniform(channels, 1, 1) - 1)
        offset = self.offset * (2 * draws.uniform(channels, 1, 1) - 1)
        kept = (draws.uniform(channels, 1, 1) >= self.drop).float()
        # 0 is the marker's mean, so a marker that is left out carries no information.
        patches.mul_(gain * kept).add_(offset * kept)
        blurred = draws.uniform() < self.blur
        if blurred.any():
            patches[blurred] = _blur(patches[blurred])
        if self.noise:
            patches.addcmul_(draws.normal(*patches.shape[1:]), self.noise * draws.uniform(1, 1, 1))


@dataclass(frozen=True)
class _Draws:
    """Random numbers for the views of some rows of a batch: how the batch is divided does not change them."""

    generator: torch.Generator
    device: torch.device
    first: int
    n: int
    of: int

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers between 0 and 1, (n, *shape)."""
        return self._rows(torch.rand((self.of, *shape), generator=self.generator, device=self.device))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, (n, *shape)."""
        return self._rows(torch.randn((self.of, *shape), generator=self.generator, device=self.device))

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.first : self.first + self.n]


def plan_views(name: str) -> Views:
    """Return the views of a name: ``shared`` or ``independent``, ``upright``, or ``shared+upright``."""
    words = name.split("+")
    geometries = {"shared", "independent"}
    if not set(words) <= {*geometries, "upright"} or len(geometries.intersection(words)) > 1:
        msg = f"`views` is {name!r}, which is unknown."
        raise InputError(msg, "Choose shared or independent, or one of them with +upright.")
    return Views(shared_geometry="shared" in words, upright="upright" in words)


def _transform(view_input: ViewInput, geometry: Tensor) -> Tensor:
    """Return patches and masks of a view rotated, shifted and scaled, (B, C + m, P, P), as a copy."""
    patches, masks, px = view_input
    if masks is not None:
        patches = torch.cat([patches, masks.to(patches.dtype)], dim=1)
    px = px or patches.shape[2]
    # One resampling for all. Corners that a rotated patch lacks are filled with mirrored tissue, not left empty.
    grid = F.affine_grid(geometry, [*patches.shape[:2], px, px], align_corners=False)
    return F.grid_sample(patches, grid, padding_mode="reflection", align_corners=False)


def _blur(patches: Tensor) -> Tensor:
    """Smooth a view with the binomial kernel 1-2-1 in both directions."""
    channels = patches.shape[1]
    row = torch.tensor([0.25, 0.5, 0.25], device=patches.device, dtype=patches.dtype)
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
