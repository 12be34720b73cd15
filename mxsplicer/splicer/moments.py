"""Moments: a closed-form description of a cell, computed inside the encoder, so that learning starts where it ends.

For every marker its level, and how it is distributed over the cell: how much of it lies at the rim, how one-sided it
is, how much its pixels vary, and whether its edges are sharper outwards or inwards. For some pairs of markers, whether
they lie in the same pixels, near each other, and along the same direction. For the cell its area and elongation. These
are moments of the pixels, of a smoothed image, and of its gradients (:mod:`mxsplicer.splicer.pixel_moments`). None of
them needs training, but each is scaled by numbers that are measured on training cells (:meth:`Moments.prepare`), so
that Euclidean distances between cells are meaningful:

- A level is ``log(1 + mean / s)`` of the intensities, where ``s`` is the typical standard error of the mean of a cell:
  below it differences are noise. So a marker of a few counts per cell (MIBI, IMC) is resolved as well as a bright one.
- A pattern is a correlation over the pixels of the cell whose denominator contains a floor for the deviation within a
  cell, ``sqrt(var + floor)``. A marker without structure in a cell so has patterns near 0 there, instead of
  correlations of noise.
- A pattern counts as much as its marker is present in the cell, ``m / (m + half)``, where ``m`` is the mean intensity
  above background and ``half`` half of its mean over cells. Otherwise what spills over from the neighbours of a cell
  would decide who resembles it.
- Patterns are correlations, so their unit is the same for every marker and every slide: each kind has one constant
  weight. A slide whose patterns are weak (counts of a few ions per pixel) is described by its levels.
- What a simpler column says is subtracted: the rim's share of a polarity, and from two markers near each other that
  they lie in the same pixels.
- A pattern that hardly varies between cells is left out: neighbours do not notice it, and a probe, which scales every
  column to unit variance, needs more labels for it.
- Proteins of the cell cycle, known by their names, count half: dividing cells of a type are cells of that type first.
- Of all pairs those are kept that vary most between cells. Whether two markers lie along the same direction varies
  also if their directions are independent; that much variance is not counted, and lowers the weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mxsplicer.images.markers import is_nuclear, is_of_cell_cycle
from mxsplicer.splicer.moment_names import KINDS, SHAPES, names_of_moments
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.pixel_moments import PixelMoments, measure_pixels

# A compromise between simulated and real tissue (docs/method.md lists them). Levels have this standard deviation,
# patterns are correlations times these factors.
LEVEL_WEIGHT = 1.0
RIM_WEIGHT, SIDE_WEIGHT, SPREAD_WEIGHT, POLARITY_WEIGHT = 6.2, 5.0, 1.0, 4.0
TOGETHER_WEIGHT, NEAR_WEIGHT, ALONG_WEIGHT = 3.0, 30.0, 3.8
SHAPE_WEIGHT = 0.65  # standard deviation, like that of a level
LEARNED_WEIGHT = 0.5
CELL_CYCLE_WEIGHT = 0.5  # of proteins of the cell cycle, next to other markers
LEARNED_FEATURES = 16  # that are kept
PAIRS_PER_MARKER = {"together": 2.0, "near": 0.5, "along": 0.5}  # that are kept
_FLOOR = 2.0  # variance that is added, in units of the mean variance within a cell
_PRESENT = 0.5  # of the mean intensity: there a marker counts as half present
_BACKGROUND = 0.01  # quantile of cells whose mean intensity is background
_FAINT = 0.1  # of the median deviation of a learned feature
LEAST_PATTERN = 0.03  # variance between cells of a pattern that is kept; that of a typical level is 1
_RIDGE = 0.01  # variance of moments that a regression on them adds
_OF_LEARNED = ("projection", "slope", "center")  # buffers
_LEAST_SIGNAL = 0.02  # mean square over markers of a pixel inside: views add noise and offsets of below 0.004 outside


class Moments(nn.Module):
    """Closed-form moments of patches (B, C, P, P), 0 outside the cell, as z (B, d), at most 5 C + pairs + 2.

    The columns are levels, rims, sides, spreads and polarities of all markers, then pairs of markers: together, near,
    along, then area and elongation of the cell; without those that hardly vary on the cells of :meth:`prepare`.
    """

    log_mean: Tensor
    log_std: Tensor
    log_shift: Tensor
    standard_error: Tensor
    background: Tensor
    half_present: Tensor
    floor: Tensor
    edge_floor: Tensor
    polarity_floor: Tensor
    polarity_slope: Tensor
    near_slope: Tensor
    together: Tensor
    near: Tensor
    along: Tensor
    center: Tensor
    scale: Tensor
    kept: Tensor

    def __init__(self, n_markers: int) -> None:
        super().__init__()
        self.n_markers = n_markers
        possible = torch.triu_indices(n_markers, n_markers, 1)
        for name, per_marker in PAIRS_PER_MARKER.items():
            self.register_buffer(name, possible[:, : round(per_marker * n_markers)].clone())  # (2, pairs)
        n_pairs = sum(getattr(self, name).shape[1] for name in PAIRS_PER_MARKER)
        n_columns = len(KINDS) * n_markers + n_pairs + len(SHAPES)
        for name in ("log_mean", "log_shift", "background", "polarity_slope"):
            self.register_buffer(name, torch.zeros(n_markers))
        for name in ("log_std", "standard_error", "half_present", "floor", "edge_floor", "polarity_floor"):
            self.register_buffer(name, torch.ones(n_markers))
        self.register_buffer("near_slope", torch.zeros(self.near.shape[1]))
        self.register_buffer("center", torch.zeros(n_columns))
        self.register_buffer("scale", torch.ones(n_columns))
        self.register_buffer("kept", torch.arange(n_columns))

    @property
    def out_features(self) -> int:
        """Width of z."""
        return len(self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, d) of normalised patches."""
        with torch.autocast(x.device.type, enabled=False):  # second moments need all digits
            pixels = self._pixels(x.float())
            scaled: Tensor = (self._raw(pixels) - self.center) * self.scale * self._presences(pixels)
            return scaled[:, self.kept]

    @torch.no_grad()
    def prepare(self, x: Tensor, normalization: Normalization, markers: Sequence[str]) -> None:
        """Measure every scale, and select the pairs, on normalised patches of training cells, (n, C, P, P).

        The names of the C markers say which of them count half (:func:`weigh_markers`).
        """
        self.log_mean.copy_(normalization.mean)
        self.log_std.copy_(normalization.std)
        self.log_shift.copy_(normalization.low.clamp(max=0))
        training = self.training
        self.eval()
        batches = [self._pixels(some.float()) for some in x.split(256)]  # type: ignore[no-untyped-call]
        self.train(training)
        pixels = PixelMoments(*(torch.cat(column) for column in zip(*batches, strict=True)))
        n = pixels.area[:, None]
        error = (pixels.variance / n).sqrt().maximum(0.5 / n)  # at least that of one count
        self.standard_error.copy_(error.median(dim=0).values.clamp_min(1e-6))
        self.background.copy_(pixels.mean.quantile(_BACKGROUND, dim=0))
        self.half_present.copy_((_PRESENT * (pixels.mean - self.background).clamp_min(0).mean(dim=0)).clamp_min(1e-6))
        self.floor.copy_((_FLOOR * pixels.covariance.diagonal(dim1=1, dim2=2).mean(dim=0)).clamp_min(1e-6))
        self.edge_floor.copy_(pixels.energy.mean(dim=0).clamp_min(1e-9))
        self.polarity_floor.copy_((_FLOOR * pixels.cubes.mean(dim=0)).clamp_min(1e-9))
        self._subtract_rim(pixels)
        reliability = self._select_pairs(pixels)
        raw = self._raw(pixels)
        present = self._presences(pixels)
        self.center.copy_(_mean(raw, present))
        self.scale.copy_(self._scales(raw - self.center, reliability))
        varies = ((raw - self.center) * self.scale * present).var(dim=0) >= LEAST_PATTERN
        self.kept = (varies | self._is_always_kept()).nonzero().flatten()
        self.scale.mul_(self._weights(weigh_markers(markers).to(x.device)))

    def names(self, markers: Sequence[str]) -> list[str]:
        """Return what every column is, in words."""
        names = names_of_moments(markers, {kind: getattr(self, kind).T.tolist() for kind in PAIRS_PER_MARKER})
        return [names[column] for column in self.kept.tolist()]

    def _is_always_kept(self) -> Tensor:
        """Return which columns are kept however little they vary: levels, spreads and shapes, (columns,)."""
        kept = torch.zeros_like(self.scale, dtype=torch.bool)
        for kind in ("level", "spread"):
            first = KINDS.index(kind) * self.n_markers
            kept[first : first + self.n_markers] = True
        kept[-len(SHAPES) :] = True
        return kept

    def _weights(self, of_markers: Tensor) -> Tensor:
        """Return the weight of every column by those of its markers (C), (columns,)."""
        pairs = (of_markers[getattr(self, name)].prod(dim=0) for name in PAIRS_PER_MARKER)
        return torch.cat([of_markers.repeat(len(KINDS)), *pairs, of_markers.new_ones(len(SHAPES))])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        _take_shapes(self, ("kept",), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _pixels(self, x: Tensor) -> PixelMoments:
        shown = x.square().mean(dim=1) > _LEAST_SIGNAL if self.training else (x != 0).any(dim=1)
        return measure_pixels(x, shown.to(x.dtype), self._intensities)

    def _intensities(self, pixels: Tensor) -> Tensor:
        """Return the clipped intensities (B, C, p) that were normalised."""
        logs = pixels * self.log_std[:, None] + self.log_mean[:, None]
        return (logs.expm1() + self.log_shift[:, None]).clamp_min(0)

    def _presence(self, pixels: PixelMoments) -> Tensor:
        """Return how much of each marker is in each cell, 0 to 1, (B, C)."""
        above = (pixels.mean - self.background).clamp_min(0)
        return above / (above + self.half_present)

    def _presences(self, pixels: PixelMoments) -> Tensor:
        """Return the weight of every column in each cell: that of levels and shapes is 1, (B, d)."""
        present = self._presence(pixels)
        pairs = (_of_both(present, getattr(self, name)) for name in PAIRS_PER_MARKER)
        patterns = present.repeat(1, len(KINDS) - 1)
        return torch.cat([torch.ones_like(present), patterns, *pairs, torch.ones_like(pixels.shape)], dim=1)

    def _raw(self, pixels: PixelMoments) -> Tensor:
        """Return the columns before they are centred, scaled, and weighted by presence, (B, d)."""
        deviation = self._deviation(pixels)
        rim = pixels.rim / deviation
        return torch.cat(
            [
                (pixels.mean / self.standard_error).log1p(),
                rim,
                pixels.side / deviation,
                deviation.log(),
                self._polarity(pixels) - self.polarity_slope * rim,
                _correlation(pixels.covariance, deviation, self.together),
                _correlation(pixels.smooth_covariance, deviation, self.near)
                - self.near_slope * _correlation(pixels.covariance, deviation, self.near),
                self._along(pixels, self.along),
                pixels.shape,
            ],
            dim=1,
        )

    def _deviation(self, pixels: PixelMoments) -> Tensor:
        return (pixels.covariance.diagonal(dim1=1, dim2=2) + self.floor).sqrt()  # (B, C)

    def _polarity(self, pixels: PixelMoments) -> Tensor:
        return pixels.polarity / (pixels.cubes + self.polarity_floor)

    def _directions(self, pixels: PixelMoments) -> Tensor:
        return pixels.direction / (pixels.energy.square() + self.edge_floor.square()).sqrt()[..., None]  # (B, C, 2)

    def _along(self, pixels: PixelMoments, pairs: Tensor) -> Tensor:
        """Return the cosine of twice the angle between the directions of two markers, times their strengths."""
        first, second = pairs
        directions = self._directions(pixels)
        return (directions[:, first] * directions[:, second]).sum(dim=2)

    def _subtract_rim(self, pixels: PixelMoments) -> None:
        """Measure how polarity follows the rim."""
        present, rim, polarity = self._presence(pixels), pixels.rim / self._deviation(pixels), self._polarity(pixels)
        self.polarity_slope.copy_(_slope(rim, polarity, present))

    def _select_pairs(self, pixels: PixelMoments) -> Tensor:
        """Keep the pairs that vary most; return the reliability of the directions of those that are kept."""
        possible = torch.triu_indices(self.n_markers, self.n_markers, 1, device=pixels.area.device)
        present = _of_both(self._presence(pixels), possible)
        deviation = self._deviation(pixels)
        together = _correlation(pixels.covariance, deviation, possible)
        self.together.copy_(possible[:, _most(_variance(together, present), self.together.shape[1])])

        near = _correlation(pixels.smooth_covariance, deviation, possible)
        slope = _slope(together, near, torch.ones_like(near))
        kept = _most(_variance(near - slope * together, present), self.near.shape[1])
        self.near.copy_(possible[:, kept])
        self.near_slope.copy_(slope[kept])

        along = self._along(pixels, possible)
        first, second = possible
        strength = self._directions(pixels).norm(dim=2)
        chance = (present * strength[:, first] * strength[:, second]).square().mean(dim=0) / 2  # of independent ones
        observed = _variance(along, present)
        reliability = (1 - chance / observed.clamp_min(1e-12)).clamp(0, 1)
        kept = _most(observed * reliability.square(), self.along.shape[1])
        self.along.copy_(possible[:, kept])
        of_kept: Tensor = reliability[kept]
        return of_kept

    def _scales(self, centred: Tensor, reliability: Tensor) -> Tensor:
        """Return the factor of every column, by centred columns (n, d) and the reliabilities of directions."""
        # Between a scale of its own for every marker and one for all: a marker that varies more counts more.
        level = centred[:, : self.n_markers]
        deviation = level.square().mean(dim=0).sqrt().clamp_min(1e-3)
        typical = (level.square().mean(dim=0) / deviation).mean().sqrt().clamp_min(1e-6)
        ones = torch.ones_like(deviation)
        patterns = (RIM_WEIGHT, SIDE_WEIGHT, SPREAD_WEIGHT, POLARITY_WEIGHT)
        return torch.cat(
            [
                LEVEL_WEIGHT / deviation.sqrt() / typical,
                *(weight * ones for weight in patterns),
                TOGETHER_WEIGHT * torch.ones_like(self.together[0], dtype=ones.dtype),
                NEAR_WEIGHT * torch.ones_like(self.near_slope),
                ALONG_WEIGHT * reliability,
                SHAPE_WEIGHT / centred[:, -len(SHAPES) :].square().mean(dim=0).sqrt().clamp_min(1e-3),
            ]
        )


class WithMoments(nn.Module):
    """Moments and a learned encoder next to each other: z is the moments, then the learned features.

    Most of what an encoder learns of a cell is in its moments already, and repeating it costs a probe and neighbours
    more than it adds. So a learned feature is what moments do not predict: features of the encoder are scaled to one
    common variance, ``LEARNED_WEIGHT``² of that of the levels in all, their linear regression on the moments is
    subtracted, and of the residuals the first principal components are kept. :meth:`calibrate` measures all of it on
    training cells.
    """

    projection: Tensor
    slope: Tensor
    center: Tensor

    def __init__(self, learned: nn.Module, n_markers: int) -> None:
        super().__init__()
        self.moments, self.learned = Moments(n_markers), learned
        n: int = learned.out_features  # type: ignore[assignment]
        kept = min(n, LEARNED_FEATURES)
        for prefix in ("", "initial_"):
            self.register_buffer(f"{prefix}projection", torch.eye(n, kept))
            self.register_buffer(f"{prefix}slope", torch.zeros(self.moments.out_features, kept))
            self.register_buffer(f"{prefix}center", torch.zeros(kept))

    @property
    def out_features(self) -> int:
        """Width of z."""
        return self.moments.out_features + self.projection.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, d) of normalised patches."""
        return self._join(self.moments(x), self.learned(x).float())

    def prepare(self, x: Tensor, normalization: Normalization, markers: Sequence[str]) -> None:
        """Measure all scales on training cells (n, C, P, P) before training; remembers those of the initial network."""
        self.moments.prepare(x, normalization, markers)
        self.slope = torch.zeros(self.moments.out_features, self.projection.shape[1], device=x.device)
        self.calibrate(x)
        for name in _OF_LEARNED:
            setattr(self, f"initial_{name}", getattr(self, name).clone())

    @torch.no_grad()
    def reset(self, trained: "WithMoments") -> None:
        """Take the scales that a trained encoder had before its training: those of the untrained baseline."""
        self.moments.load_state_dict(trained.moments.state_dict())
        for name in _OF_LEARNED:
            for own in (name, f"initial_{name}"):
                setattr(self, own, getattr(trained, f"initial_{name}").clone())

    def names(self, markers: Sequence[str]) -> list[str]:
        """Return what every column is, in words."""
        learned = self.projection.shape[1]
        return [*self.moments.names(markers), *(f"learned {number + 1}" for number in range(learned))]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        _take_shapes(self, ("slope", "initial_slope"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Measure what moments do not predict of the features, as they are now, on training cells (n, C, P, P).

        Returns
        -------
        z of these cells before and after, (n, d) each.
        """
        training = self.training
        self.eval()
        batches = x.split(256)  # type: ignore[no-untyped-call]
        moments = torch.cat([self.moments(some) for some in batches])
        features = torch.cat([self.learned(some).float() for some in batches])
        self.train(training)
        before = self._join(moments, features)
        deviation = features.std(dim=0)
        # A feature that hardly varies is next to rounding: it is not scaled up to the others.
        scale = 1 / (deviation.square() + (_FAINT * deviation.median()).square()).sqrt().clamp_min(1e-6)
        total = (deviation * scale).square().sum().clamp_min(1e-12)
        scale = scale * LEARNED_WEIGHT * (self.moments.n_markers / total).sqrt()
        centred = moments - moments.mean(dim=0)
        scaled = (features - features.mean(dim=0)) * scale
        ridge = _RIDGE * len(x) * torch.eye(centred.shape[1], device=x.device)
        slope = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ scaled)
        residual = scaled - centred @ slope
        _, axes = torch.linalg.eigh(residual.T @ residual)
        axes = axes.flip(1)[:, : self.projection.shape[1]]
        axes = axes * axes.sum(dim=0).sign()  # an axis has no direction of its own
        self.projection, self.slope = scale[:, None] * axes, slope @ axes
        self.center = features.mean(dim=0) @ self.projection - moments.mean(dim=0) @ self.slope
        return before, self._join(moments, features)

    def _join(self, moments: Tensor, features: Tensor) -> Tensor:
        with torch.autocast(moments.device.type, enabled=False):
            learned = features @ self.projection - moments @ self.slope - self.center
            return torch.cat([moments, learned], dim=1)


def weigh_markers(markers: Sequence[str]) -> Tensor:
    """Return the weight of every marker in distances, by its name: 1, or less for proteins of the cell cycle.

    Where they are at least half of the markers, nuclear stains apart, the panel was made to study the cycle, and every
    marker has the weight 1.

    Examples
    --------
    >>> weigh_markers(["DNA", "CD3", "CD20", "Ki67"]).tolist(), weigh_markers(["DNA", "Ki67"]).tolist()
    ([1.0, 1.0, 1.0, 0.5], [1.0, 1.0])
    """
    of_cycle = torch.tensor([is_of_cell_cycle(marker) for marker in markers])
    n_others = sum(not is_nuclear(marker) for marker in markers) - int(of_cycle.sum())
    return torch.where(of_cycle & (n_others > int(of_cycle.sum())), CELL_CYCLE_WEIGHT, 1.0)


def _take_shapes(module: nn.Module, names: Sequence[str], state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give buffers, whose length depends on how many moments vary, the shapes that a file has."""
    for name in names:
        if prefix + name in state_dict:
            setattr(module, name, torch.empty_like(state_dict[prefix + name]))


def _correlation(covariance: Tensor, deviation: Tensor, pairs: Tensor) -> Tensor:
    first, second = pairs
    return covariance[:, first, second] / (deviation[:, first] * deviation[:, second])


def _of_both(present: Tensor, pairs: Tensor) -> Tensor:
    first, second = pairs
    return (present[:, first] * present[:, second]).sqrt()


def _mean(columns: Tensor, weights: Tensor) -> Tensor:
    return (weights * columns).sum(dim=0) / weights.sum(dim=0).clamp_min(1e-6)


def _variance(columns: Tensor, weights: Tensor) -> Tensor:
    """Return the moment of second order, the variance, of columns (n, d) that are centred, then weighted."""
    weighted = weights * (columns - _mean(columns, weights))
    return (weighted - weighted.mean(dim=0)).square().mean(dim=0)


def _slope(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the slope of the regression of one moment on another: of each column of y (n, d) on that of x."""
    x, y = x - _mean(x, weights), y - _mean(y, weights)
    return (weights * x * y).sum(dim=0) / (weights * x.square()).sum(dim=0).clamp_min(1e-12)


def _most(values: Tensor, n: int) -> Tensor:
    """Return the places of the n largest values, in their order, to choose pairs of moments."""
    return values.argsort(descending=True, stable=True)[:n].sort().values
