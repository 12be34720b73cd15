"""Moments: a closed-form description of a cell, computed inside the encoder, so that learning starts where it ends.

For every marker its level, how much of it lies at the rim, how one-sided it is, and how much its pixels vary; for every
two markers whether they lie in the same pixels. These are first and second moments of the pixels of the cell: what a
careful analyst computes by hand. None of them needs training, but each is scaled by numbers that are measured on
training cells (:meth:`Moments.measure`), so that Euclidean distances between cells are meaningful:

- A level is ``log(1 + mean / s)`` of the intensities, where ``s`` is the typical standard error of the mean of a cell:
  below it differences are noise. So a marker of a few counts per cell (MIBI, IMC) is resolved as well as a bright one.
- A pattern (rim, side, pair) is a correlation over the pixels of the cell whose denominator contains a floor for the
  deviation within a cell, ``sqrt(var + floor)``. A marker without structure in a cell so has patterns near 0 there,
  instead of correlations of noise.
- Every pattern is weighted by its reliability, the share of its variance that independent pixels would not have.
- Of all pairs those are kept that vary most between cells, ``PAIRS_PER_MARKER`` for each marker. Each kind has a fixed
  total variance per marker, so no kind crowds out another however many markers there are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mxsplicer.splicer.normalization import Normalization

# Standard deviations of the kinds of columns: a compromise between simulated tissue and MIBI (docs/method.md).
LEVEL_WEIGHT, RIM_WEIGHT, SIDE_WEIGHT = 1.0, 1.0, 0.7
SPREAD_WEIGHT, PAIR_WEIGHT = 0.4, 0.7
LEARNED_WEIGHT = 0.5
PAIRS_PER_MARKER = 2
_FLOOR = 2.0  # variance that is added, in units of the mean variance within a cell
_RIM_PX = 2
_FAINT = 0.1  # of the median deviation of a learned feature
_LEAST_INTERIOR = 0.25  # of the cell; in a smaller cell the rim is thinner
_LEAST_SIGNAL = 0.02  # mean square over markers of a pixel inside: views add noise and offsets of below 0.004 outside

_Pixels = tuple[Tensor, Tensor, Tensor, Tensor]  # see Moments._pixels


class Moments(nn.Module):
    """Closed-form moments of patches (B, C, P, P), 0 outside the cell, as z (B, 4 C + pairs).

    The columns are levels, rims, sides and spreads of all markers, and the pairs of markers that were selected.
    """

    log_mean: Tensor
    log_std: Tensor
    log_shift: Tensor
    standard_error: Tensor
    floor: Tensor
    pairs: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, n_markers: int) -> None:
        super().__init__()
        self.n_markers = n_markers
        possible = torch.triu_indices(n_markers, n_markers, 1)
        self.register_buffer("pairs", possible[:, : PAIRS_PER_MARKER * n_markers].contiguous())  # (2, pairs)
        self.out_features = 4 * n_markers + self.pairs.shape[1]
        for name in ("log_mean", "log_shift"):
            self.register_buffer(name, torch.zeros(n_markers))
        for name in ("log_std", "standard_error", "floor"):
            self.register_buffer(name, torch.ones(n_markers))
        self.register_buffer("center", torch.zeros(self.out_features))
        self.register_buffer("scale", torch.ones(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, d) of normalised patches."""
        with torch.autocast(x.device.type, enabled=False):  # second moments need all digits
            raw = self._raw(*self._pixels(x.float()), self.pairs)
            scaled: Tensor = (raw - self.center) * self.scale
            return scaled

    @torch.no_grad()
    def measure(self, x: Tensor, normalization: Normalization) -> None:
        """Measure every scale, and select the pairs, on normalised patches of training cells, (n, C, P, P)."""
        self.log_mean.copy_(normalization.mean)
        self.log_std.copy_(normalization.std)
        self.log_shift.copy_(normalization.low.clamp(max=0))
        training = self.training
        self.eval()
        batches = [self._pixels(some.float()) for some in x.split(256)]  # type: ignore[no-untyped-call]
        self.train(training)
        variances = torch.cat([_variance(pixels, area) for pixels, _, _, area in batches])  # (n, C)
        self.floor.copy_((_FLOOR * variances.mean(dim=0)).clamp_min(1e-6))
        errors = torch.cat([self._standard_errors(pixels, inside, area) for pixels, inside, _, area in batches])
        self.standard_error.copy_(errors.median(dim=0).values.clamp_min(1e-6))
        areas = torch.cat([area for *_, area in batches])
        chance = variances / (variances + self.floor)  # what independent pixels make of a pattern, times the area
        if self.pairs.numel():
            self.pairs.copy_(self._select_pairs(batches, chance, areas))
        raw = torch.cat([self._raw(*batch, self.pairs) for batch in batches])
        self.center.copy_(raw.mean(dim=0))
        self.scale.copy_(self._scales(raw - self.center, chance, areas))

    def names(self, markers: Sequence[str]) -> list[str]:
        """Return what every column is, in words."""
        single = [f"{marker} {kind}" for kind in ("level", "rim", "side", "spread") for marker in markers]
        return [*single, *(f"{markers[a]} with {markers[b]}" for a, b in self.pairs.T.tolist())]

    def _pixels(self, x: Tensor) -> _Pixels:
        """Return the pixels (B, C, p), which are inside (B, 1, p), three patterns (B, 3, p), and areas (B,)."""
        shown = x.square().mean(dim=1) > _LEAST_SIGNAL if self.training else (x != 0).any(dim=1)
        inside = shown.to(x.dtype)  # (B, P, P)
        area = inside.sum(dim=(1, 2)).clamp_min(1)
        rim = inside - _interior(inside, area)
        places = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        patterns = torch.stack([rim, places[:, None] * inside, places[None, :] * inside], dim=1)
        patterns = (patterns - _mean(patterns, area)[..., None, None]) * inside[:, None]
        patterns = nn.functional.normalize(patterns.flatten(2), dim=2)
        return x.flatten(2), inside.flatten(1)[:, None], patterns, area

    def _intensities(self, pixels: Tensor, inside: Tensor) -> Tensor:
        """Return the clipped intensities (B, C, p) that were normalised, 0 outside."""
        logs = pixels * self.log_std[:, None] + self.log_mean[:, None]
        return (logs.expm1() + self.log_shift[:, None]).clamp_min(0) * inside

    def _standard_errors(self, pixels: Tensor, inside: Tensor, area: Tensor) -> Tensor:
        """Return the standard error of the mean intensity of every cell, at least that of one count, (B, C)."""
        n = area[:, None]
        return (_variance(self._intensities(pixels, inside), area) / n).sqrt().maximum(0.5 / n)

    def _raw(self, pixels: Tensor, inside: Tensor, patterns: Tensor, area: Tensor, pairs: Tensor) -> Tensor:
        """Return the columns before they are centred and scaled, (B, 4 C + pairs)."""
        n = area[:, None]
        level = (self._intensities(pixels, inside).sum(dim=2) / n / self.standard_error).log1p()
        centred = (pixels - (pixels.sum(dim=2) / n)[..., None]) * inside
        covariance = centred @ centred.transpose(1, 2) / n[..., None]  # (B, C, C)
        deviation = (covariance.diagonal(dim1=1, dim2=2) + self.floor).sqrt()  # (B, C)
        onto = centred @ patterns.transpose(1, 2) / n.sqrt()[..., None] / deviation[..., None]  # (B, C, 3)
        first, second = pairs
        together = covariance[:, first, second] / (deviation[:, first] * deviation[:, second])
        return torch.cat([level, onto[..., 0], onto[..., 1:].norm(dim=2), deviation.log(), together], dim=1)

    def _select_pairs(self, batches: Sequence[_Pixels], chance: Tensor, areas: Tensor) -> Tensor:
        """Return the pairs of markers whose correlation varies most between cells, weighted by reliability, (2, n)."""
        n_selected, possible = self.pairs.shape[1], torch.triu_indices(self.n_markers, self.n_markers, 1)
        values = torch.cat([self._raw(*batch, possible)[:, 4 * self.n_markers :] for batch in batches])
        variance = (values - values.mean(dim=0)).square().mean(dim=0)
        weighted = variance * _reliability(variance, self._chance_of_pairs(possible, chance, areas)).square()
        return possible[:, weighted.argsort(descending=True, stable=True)[:n_selected].sort().values]

    @staticmethod
    def _chance_of_pairs(pairs: Tensor, chance: Tensor, areas: Tensor) -> Tensor:
        first, second = pairs
        return (chance[:, first] * chance[:, second] / areas[:, None]).mean(dim=0)

    def _scales(self, centred: Tensor, chance: Tensor, areas: Tensor) -> Tensor:
        """Return the factor of every column."""
        c = self.n_markers
        level, rim, side, spread, pairs = centred.split([c, c, c, c, self.out_features - 4 * c], dim=1)  # type: ignore[no-untyped-call]
        once = (chance / areas[:, None]).mean(dim=0)
        # Between a scale of its own for every marker and one for all: a marker that varies more counts more.
        deviation = level.square().mean(dim=0).sqrt().clamp_min(1e-3)
        typical = (level.square().mean(dim=0) / deviation).mean().sqrt().clamp_min(1e-6)
        of_pairs = PAIR_WEIGHT * (c / max(1, self.pairs.shape[1])) ** 0.5
        return torch.cat(
            [
                LEVEL_WEIGHT / deviation.sqrt() / typical,
                RIM_WEIGHT * _factors(rim, once),
                SIDE_WEIGHT * _factors(side, 2 * once),
                SPREAD_WEIGHT * _factors(spread, torch.zeros_like(once)),
                of_pairs * _factors(pairs, self._chance_of_pairs(self.pairs, chance, areas)),
            ]
        )


class WithMoments(nn.Module):
    """Moments and a learned encoder next to each other: z is the moments, then the learned features.

    The learned features are scaled to one common variance, ``LEARNED_WEIGHT``² of that of the levels in all, as
    :meth:`calibrate` measures it on training cells.
    """

    center: Tensor
    scale: Tensor
    initial_center: Tensor
    initial_scale: Tensor

    def __init__(self, learned: nn.Module, n_markers: int) -> None:
        super().__init__()
        self.moments, self.learned = Moments(n_markers), learned
        n: int = learned.out_features  # type: ignore[assignment]
        self.out_features = self.moments.out_features + n
        for name in ("center", "initial_center"):
            self.register_buffer(name, torch.zeros(n))
        for name in ("scale", "initial_scale"):
            self.register_buffer(name, torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, d) of normalised patches."""
        learned = (self.learned(x) - self.center) * self.scale
        return torch.cat([self.moments(x), learned.float()], dim=1)

    def prepare(self, x: Tensor, normalization: Normalization) -> None:
        """Measure all scales on training cells (n, C, P, P) before training; remembers those of the initial network."""
        self.moments.measure(x, normalization)
        self.calibrate(x)
        self.initial_center.copy_(self.center)
        self.initial_scale.copy_(self.scale)

    @torch.no_grad()
    def reset(self, trained: "WithMoments") -> None:
        """Take the scales that a trained encoder had before its training: those of the untrained baseline."""
        self.moments.load_state_dict(trained.moments.state_dict())
        for own, name in ((self.center, "center"), (self.scale, "scale")):
            own.copy_(getattr(trained, f"initial_{name}"))
        self.initial_center.copy_(self.center)
        self.initial_scale.copy_(self.scale)

    def names(self, markers: Sequence[str]) -> list[str]:
        """Return what every column is, in words."""
        learned = self.out_features - self.moments.out_features
        return [*self.moments.names(markers), *(f"learned {number + 1}" for number in range(learned))]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the learned features, as they are now, by training cells (n, C, P, P).

        Returns
        -------
        ``shift`` and ``factor``, (d,): a column that was z before is now ``(z - shift) * factor``.
        """
        training = self.training
        self.eval()
        batches = x.split(256)  # type: ignore[no-untyped-call]
        features = torch.cat([self.learned(some).float() for some in batches])
        self.train(training)
        center, deviation = features.mean(dim=0), features.std(dim=0)
        # A feature that hardly varies is next to rounding: it is not scaled up to the others.
        scale = 1 / (deviation.square() + (_FAINT * deviation.median()).square()).sqrt().clamp_min(1e-6)
        total = (deviation * scale).square().sum().clamp_min(1e-12)
        scale = scale * LEARNED_WEIGHT * (self.moments.n_markers / total).sqrt()
        shift = torch.zeros(self.out_features, device=center.device)
        factor = torch.ones_like(shift)
        shift[-len(center) :] = (center - self.center) * self.scale
        factor[-len(center) :] = scale / self.scale.clamp_min(1e-12)
        self.center.copy_(center)
        self.scale.copy_(scale)
        return shift, factor


def _interior(inside: Tensor, area: Tensor) -> Tensor:
    """Return the cells (B, P, P) without their outer pixels."""
    interior = inside
    for _ in range(_RIM_PX):
        outside = nn.functional.pad(1 - interior, (1, 1, 1, 1), value=1.0)
        smaller = 1 - nn.functional.max_pool2d(outside[:, None], 3, stride=1)[:, 0]
        large_enough = smaller.sum(dim=(1, 2)) >= _LEAST_INTERIOR * area
        interior = torch.where(large_enough[:, None, None], smaller, interior)
    return interior


def _mean(maps: Tensor, area: Tensor) -> Tensor:
    return maps.sum(dim=(2, 3)) / area[:, None]


def _variance(pixels: Tensor, area: Tensor) -> Tensor:
    n = area[:, None]
    return (pixels.square().sum(dim=2) / n - (pixels.sum(dim=2) / n).square()).clamp_min(0)


def _reliability(variance: Tensor, chance: Tensor) -> Tensor:
    return (1 - chance / variance.clamp_min(1e-12)).clamp(0, 1)


def _factors(centred: Tensor, chance: Tensor) -> Tensor:
    """Return what gives columns a common mean variance of 1, each weighted by its reliability."""
    variance = centred.square().mean(dim=0)
    if not len(variance):
        return variance
    return _reliability(variance, chance) / variance.mean().sqrt().clamp_min(1e-6)
