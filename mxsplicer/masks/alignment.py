"""Compare a mask with the nuclear marker of its slide: shifts, flips, rotations, and masks of other slides.

The depth of pixels inside their cells is correlated with the nuclear marker in a few windows of full resolution; the
position of the highest correlation shows how the mask is displaced.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import fft, ndimage

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide, overview
from mxsplicer.masks.findings import Finding, orientation_finding
from mxsplicer.masks.fragments import Fragments

_WINDOW_PX, _WINDOWS = 1024, 9  # where the mask is compared with the nuclear marker
_SURE = 7.0  # standard deviations above the correlation at unrelated positions
_FOLLOWS = 0.5  # of the highest correlation is reached without displacement by a mask that follows the nuclei
_SHIFT_UM, _SHIFT_PX = 0.75, 1.5  # shifts below both are ignored: the centre of a nucleus is less certain than that


@dataclass(frozen=True)
class _Match:
    """The displacement of a mask at which it correlates best with the nuclear marker."""

    correlation: float  # at the best displacement
    here: float  # without displacement
    sigmas: float  # of the best above unrelated displacements
    dy: int  # rows the mask has to move down
    dx: int


def alignment_findings(
    slide: Slide, mask: LazyImage, fragments: Fragments, nuclear_marker: str | None
) -> list[Finding]:
    """Find shifts, flips and rotations of a mask, or that it does not follow the nuclei at all."""
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    if marker is None:
        found = f"No marker of the slide is known to stain nuclei: {', '.join(slide.markers[:40])}."
        cause = "The position of the mask was not checked."
        return [Finding("nuclei not known", False, found, cause, "Name the marker by `nuclear_marker`.")]
    channel = slide.channels_of([marker])[0]
    matches = _matches(slide, mask, channel, fragments, _UNCHANGED)
    if matches is None:
        found = f"{marker} is constant wherever the mask has cells."
        cause = "The position of the mask was not checked."
        return [Finding("nuclei not seen", False, found, cause, "Name another marker by `nuclear_marker`.")]
    best, windows = matches
    if best.sigmas >= _SURE:
        return _uneven_shift(slide, marker, best, windows) or _even_shift(slide, marker, best)
    for orientation, (name, remedy) in _ORIENTATIONS.items():
        if orientation[0] and mask.shape[0] != mask.shape[1]:
            continue
        reoriented = _matches(slide, mask, channel, fragments, orientation)
        if reoriented is not None and reoriented[0].sigmas >= _SURE:
            found = (
                f"{marker} correlates with the mask after reorientation ({reoriented[0].correlation:.2f}), but not as "
                f"it is ({best.here:.2f})."
            )
            figures = {"correlation": round(reoriented[0].correlation, 3), "correlation_as_it_is": round(best.here, 3)}
            return [orientation_finding(name, remedy, found, figures)]
    far = _far_shift(slide, mask, channel, fragments)
    if far is not None:
        return _even_shift(slide, marker, far)
    found = f"The intensity of {marker} does not correlate with the mask ({best.here:.2f})."
    cause = "The mask is of another slide or section, or the marker does not show nuclei."
    fix = "Compare the two in a viewer; name another marker by `nuclear_marker`."
    # Not a fault with few cells: the correlation is too uncertain.
    return [Finding("does not follow the nuclei", len(fragments.ids) >= 100, found, cause, fix, asdict(best))]


def follows_nuclei(slide: Slide, mask: LazyImage, marker: str, y: np.ndarray, x: np.ndarray) -> bool | None:
    """Return whether a mask follows the nuclear marker where it lies, in a few windows; None if nothing can be seen.

    Parameters
    ----------
    y, x
        Rough centres of the cells, by which windows are chosen.
    """
    none = np.zeros(0, np.int64)
    centres = Fragments((mask.shape[0], mask.shape[1]), none, none, y, x, (none, none), (none, none))
    matches = _matches(slide, mask, slide.channels_of([marker])[0], centres, _UNCHANGED)
    if matches is None:
        return None
    best = matches[0]
    return best.sigmas >= _SURE and best.here >= _FOLLOWS * best.correlation


def _even_shift(slide: Slide, marker: str, match: _Match) -> list[Finding]:
    um = slide.pixel_size_um
    length = float(np.hypot(match.dy, match.dx))
    if length < _SHIFT_PX or length * um < _SHIFT_UM or match.correlation < 1.05 * match.here:
        return []
    down, across = (
        f"{abs(px)} px ({abs(px) * um:.3g} µm) too {words[px < 0]}" if px else ""
        for px, words in ((match.dy, ("high", "low")), (match.dx, ("far left", "far right")))
    )
    found = (
        f"The mask lies {' and '.join(shift for shift in (down, across) if shift)}: its correlation with {marker} is "
        f"{match.here:.2f}, and {match.correlation:.2f} after moving it."
    )
    cause = "The image was cropped, registered or stitched after segmentation, or tiles were displaced by their halo."
    fix = f"Move the mask by {match.dy} rows and {match.dx} columns, or segment the image as it is now."
    figures = {"dy_px": match.dy, "dx_px": match.dx, "dy_um": match.dy * um, "dx_um": match.dx * um} | asdict(match)
    return [Finding("shifted", True, found, cause, fix, figures)]


def _uneven_shift(
    slide: Slide, marker: str, best: _Match, windows: Sequence[tuple[tuple[int, int], _Match]]
) -> list[Finding]:
    sure = [(place, match) for place, match in windows if match.sigmas >= 1.5 * _SURE]
    off = [(place, match) for place, match in sure if _even_shift(slide, marker, match)]
    least = max(3.0, 2 * _SHIFT_UM / slide.pixel_size_um)
    if not off or max(np.hypot(match.dy - best.dy, match.dx - best.dx) for _, match in sure) < least:
        return []
    shifts = "; ".join(f"{match.dy} rows and {match.dx} columns near row {y}, column {x}" for (y, x), match in off[:5])
    found = f"In {len(off)} of {len(windows)} windows the mask is shifted: move it by {shifts}."
    cause = "Cycles or tiles were registered again after segmentation; if the shift grows steadily, the scales differ."
    figures = {"places": [{"y": y, "x": x, "dy_px": match.dy, "dx_px": match.dx} for (y, x), match in off]}
    return [Finding("shifted in parts", True, found, cause, "Segment the image as it is now.", figures)]


def _matches(
    slide: Slide,
    mask: LazyImage,
    channel: int,
    fragments: Fragments,
    orientation: tuple[bool, bool, bool],
    start: tuple[int, int] = (0, 0),
) -> tuple[_Match, list[tuple[tuple[int, int], _Match]]] | None:
    """Correlate the mask, reoriented and moved by ``start``, with the nuclear marker; None if one is constant."""
    um = slide.pixel_size_um
    y, x = _reorient_points(fragments, orientation)
    whole = np.zeros(0)
    energy = 0.0
    windows = []
    for rows, columns in _busy_windows(slide.shape_px, y + start[0], x + start[1]):
        labels = _read_reoriented(mask, rows, columns, orientation, start)
        nuclei = _nuclear_signal(np.asarray(slide.image[channel, rows, columns]), um)
        depth = _without_trend(_depth_inside(labels, um), um)
        strength = float(np.sqrt((nuclei**2).sum() * (depth**2).sum()))
        if not strength:
            continue
        product = fft.rfft2(nuclei) * np.conj(fft.rfft2(depth))
        surface = fft.irfft2(product, s=nuclei.shape)
        place = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
        windows.append((place, _peak(surface / strength, (0, 0))))
        whole = surface if not whole.size else whole + surface
        energy += strength
    return (_peak(whole / energy, start), windows) if energy else None


def _peak(surface: np.ndarray, start: tuple[int, int]) -> _Match:
    """Return the highest point of a correlation surface of mask and nuclei, up to a third of its sides away."""
    reach = [max(1, n // 3) for n in surface.shape]
    near = np.roll(surface, reach, axis=(0, 1))[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
    top = np.unravel_index(int(np.argmax(near)), near.shape)
    # A robust spread, since the peak and its surroundings are included.
    middle = float(np.median(near))
    spread = 1.4826 * float(np.median(np.abs(near - middle))) or 1.0
    return _Match(
        correlation=float(near[top]),
        here=float(surface[0, 0]),
        sigmas=(float(near[top]) - middle) / spread,
        dy=int(top[0]) - reach[0] + start[0],
        dx=int(top[1]) - reach[1] + start[1],
    )


def _far_shift(slide: Slide, mask: LazyImage, channel: int, fragments: Fragments) -> _Match | None:
    """Find a shift of the mask over the whole slide: roughly on its overview, then at full resolution."""
    small, factor = overview(slide, channels=[channel])
    nuclei = small[0].astype(np.float32)
    density = np.zeros(nuclei.shape, np.float32)
    y, x = (
        np.minimum(along.astype(np.int64) // factor, n - 1)
        for along, n in zip((fragments.y, fragments.x), nuclei.shape, strict=True)
    )
    np.add.at(density, (y, x), 1)
    if factor == 1 or not nuclei.any():
        return None
    a, b = (ndimage.gaussian_filter(np.sqrt(np.maximum(one, 0)), 2) for one in (nuclei, density))
    a, b = (np.pad(one - one.mean(), [(0, n) for n in one.shape]) for one in (a, b))
    surface = fft.irfft2(fft.rfft2(a) * np.conj(fft.rfft2(b)), s=a.shape)
    rough = _peak(surface / max(1e-12, float(np.sqrt((a**2).sum() * (b**2).sum()))), (0, 0))
    matches = _matches(slide, mask, channel, fragments, _UNCHANGED, (rough.dy * factor, rough.dx * factor))
    return matches[0] if matches is not None and matches[0].sigmas >= _SURE else None


def _busy_windows(shape: tuple[int, int], y: np.ndarray, x: np.ndarray) -> Iterable[tuple[slice, slice]]:
    """Yield windows with many cells, spread over the slide, in which the alignment of mask and nuclei is measured."""
    side = min(_WINDOW_PX, shape[0]), min(_WINDOW_PX, shape[1])
    grid = shape[0] // side[0], shape[1] // side[1]
    rows, columns = (y // side[0]).astype(np.int64), (x // side[1]).astype(np.int64)
    within = (rows >= 0) & (columns >= 0) & (rows < grid[0]) & (columns < grid[1])
    counts = np.bincount(rows[within] * grid[1] + columns[within], minlength=grid[0] * grid[1]).reshape(grid)
    thirds = [np.array_split(np.arange(n), min(n, 3)) for n in grid]
    for some_rows in thirds[0]:
        for some_columns in thirds[1]:
            density = counts[np.ix_(some_rows, some_columns)]
            if density.any():
                row, column = np.unravel_index(int(np.argmax(density)), density.shape)
                top, left = int(some_rows[row]) * side[0], int(some_columns[column]) * side[1]
                yield slice(top, top + side[0]), slice(left, left + side[1])


def _reorient_points(fragments: Fragments, orientation: tuple[bool, bool, bool]) -> tuple[np.ndarray, np.ndarray]:
    transposed, upside_down, mirrored = orientation
    y, x = (fragments.x, fragments.y) if transposed else (fragments.y, fragments.x)
    height, width = fragments.shape[::-1] if transposed else fragments.shape
    return (height - 1 - y if upside_down else y), (width - 1 - x if mirrored else x)


def _read_reoriented(
    mask: LazyImage, rows: slice, columns: slice, orientation: tuple[bool, bool, bool], start: tuple[int, int]
) -> np.ndarray:
    """Read a window of the mask after reorientation and shift; 0 beyond the mask."""
    transposed, upside_down, mirrored = orientation
    shape = mask.shape[::-1] if transposed else mask.shape
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
    wanted = [(one.start - by, one.stop - by) for one, by in zip((rows, columns), start, strict=True)]
    inner = [(max(0, a), min(n, b)) for (a, b), n in zip(wanted, shape, strict=True)]
    if any(a >= b for a, b in inner):
        return out
    source = [(n - b, n - a) if flip else (a, b) for (a, b), n, flip in zip(inner, shape, orientation[1:], strict=True)]
    slices = [slice(*one) for one in source]
    labels = np.asarray(mask[slices[1], slices[0]]).T if transposed else np.asarray(mask[slices[0], slices[1]])
    labels = labels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    (y0, y1), (x0, x1) = ((a - w, b - w) for (a, b), (w, _) in zip(inner, wanted, strict=True))
    out[y0:y1, x0:x1] = labels
    return out


def _depth_inside(labels: np.ndarray, um: float) -> np.ndarray:
    """Return, to align it, how far each pixel of a mask lies inside its cell, limited to 3 µm, where nuclei begin."""
    inner = labels > 0
    for axis in (0, 1):
        differ = np.diff(labels.astype(np.int64), axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        inner[tuple(before)] &= ~differ
        inner[tuple(after)] &= ~differ
    depth: np.ndarray = ndimage.distance_transform_edt(np.pad(inner, 1))[1:-1, 1:-1]
    shallow: np.ndarray = np.minimum(depth, max(2.0, 3.0 / um)).astype(np.float32)
    return shallow


def _nuclear_signal(image: np.ndarray, um: float) -> np.ndarray:
    image = np.nan_to_num(image.astype(np.float32), posinf=0, neginf=0)
    low, high = np.percentile(image, [1, 99.8])
    image = np.sqrt(np.clip(image - low, 0, high - low))
    return _without_trend(ndimage.gaussian_filter(image, max(0.5, 0.7 / um)), um)


def _without_trend(image: np.ndarray, um: float) -> np.ndarray:
    """Subtract what varies over more than a few cells: tissue and background correlate in any alignment."""
    flat: np.ndarray = image - ndimage.uniform_filter(image, int(24 / um) | 1, mode="nearest")
    return flat


_ORIENTATIONS = {  # (transposed, upside down, mirrored): name, and the code that reverses it
    (False, True, False): ("upside down", "numpy.flipud"),
    (False, False, True): ("mirrored", "numpy.fliplr"),
    (False, True, True): ("rotated by 180°", "numpy.rot90(mask, 2)"),
    (True, False, False): ("transposed", "numpy.transpose"),
    (True, True, False): ("rotated by 90°", "numpy.rot90(mask)"),
    (True, False, True): ("rotated by 90°", "numpy.rot90(mask, -1)"),
    (True, True, True): ("transposed and rotated", "numpy.rot90(numpy.transpose(mask), 2)"),
}
_UNCHANGED = (False, False, False)
