"""The layers of a slide for napari: an image per marker, the painted cells, and the label image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mxsplicer
from mxsplicer import LazyImage, Slide, find_nuclear_marker, open_result_slide
from mxsplicer.pl import contrast_limits
from napari_mxsplicer.joining import check_ids, check_positions
from napari_mxsplicer.lazy import Channel, Labels, label_levels, with_coarser
from napari_mxsplicer.painting import Paint, PaintedLevel, RowIndex, RowNumbers
from napari_mxsplicer.palettes import categorical_colormap
from napari_mxsplicer.state import Painted, values_of
from napari_mxsplicer.study import Study, open_study

LayerData = tuple[Any, dict[str, Any], str]

ROLE, STUDY, SLIDE, MARKER, PAINT = (
    "mxsplicer_role",
    "mxsplicer",
    "mxsplicer_slide",
    "mxsplicer_marker",
    "mxsplicer_paint",
)
PAINTED = "mxsplicer coloured cells"
# Blended additively: grey for nuclei, then colours that stand out from it with any colour vision.
COLORMAPS = ("gray", "bop orange", "bop blue", "bop purple")
_ENOUGH = 25_000  # cells from which percentiles are estimated
_SAMPLE_PX = 256  # side of the windows from which contrast is estimated if a file has no coarse level
_LARGEST_COARSE = 1 << 23  # pixels of the largest level that is read for the contrast


@dataclass(frozen=True, eq=False)
class OpenedSlide:
    """A slide to make layers of: its label image at every level, and the values that its cells are painted by."""

    name: str
    slide: Slide | None  # None if there is only a label image
    labels: tuple[LazyImage, ...]  # (Y, X), finest first
    numbers: tuple[RowNumbers, ...]  # the same as row numbers
    paint: Paint
    rows: np.ndarray  # of the cells of this slide in the study
    note: str = ""  # a limitation for the user
    _limits: dict[str, tuple[float, float]] = field(default_factory=dict)

    def channel(self, marker: str) -> list[LazyImage]:
        """Return the levels of a marker's channel, finest first."""
        assert self.slide is not None
        channel = self.slide.markers.index(marker)
        return with_coarser([Channel(level, channel) for level in (self.slide.image, *self.slide.pyramid)])

    def limits(self, marker: str) -> tuple[float, float]:
        """Return the intensities of a marker to show as black and as full on this slide, wherever it is shown."""
        if marker not in self._limits:
            assert self.slide is not None
            self._limits[marker] = _limits(self.channel(marker), has_coarse=bool(self.slide.pyramid))
        return self._limits[marker]


def open_slide(study: Study, name: str) -> OpenedSlide:
    """Open one slide of a result to make layers of it: its image, and its mask joined with its cells.

    Raises
    ------
    InputError
        If the result has no such slide, or its image or mask was moved.
    """
    assert study.folder is not None
    slide, mask = open_result_slide(study.folder, name)
    return join(study, name, tuple(label_levels(mask)), slide=slide, image=f"the mask of slide {name!r}")


def join(
    study: Study, name: str, labels: Sequence[LazyImage], *, image: str, slide: Slide | None = None
) -> OpenedSlide:
    """Join the cells of a slide with the label image of its layers by id; ``image`` is what errors call it.

    Raises
    ------
    InputError
        If the cells have no ids, or none of these occurs in the label image.
    """
    rows = study.rows_of(name)
    index = RowIndex(study.cell_ids[rows])
    numbers = tuple(RowNumbers(level, index) for level in labels)
    check_ids(study, rows, labels, numbers, image)
    note = "" if study.folder is not None else check_positions(study, rows, numbers[0], image)
    return OpenedSlide(name, slide, tuple(labels), numbers, Paint(index), rows, note)


def layers_of(study: Study, opened: OpenedSlide) -> list[LayerData]:
    """Return the layers of a slide: one per marker, the label image, and the painted cells."""
    slide, name = opened.slide, opened.name
    assert slide is not None
    common = {STUDY: study, SLIDE: name}
    place = {"scale": (slide.pixel_size_um,) * 2, "units": ("micrometer",) * 2, "axis_labels": ("y", "x")}
    several = f"{name}: " if len(study.slide_names) > 1 else ""
    visible = _initial_channels(slide, study)
    out: list[LayerData] = []
    for channel, marker in enumerate(slide.markers):
        levels = opened.channel(marker)
        options = {
            "name": several + marker,
            "colormap": COLORMAPS[visible.index(channel)] if channel in visible else "gray",
            "visible": channel in visible,
            "blending": "additive",
            "contrast_limits": opened.limits(marker),
            "metadata": {**common, ROLE: "marker", MARKER: marker},
        }
        out.append((*_data(levels), options | place, "image"))
    cells = {"name": several + "cells", "visible": False, "metadata": {**common, ROLE: "cells"}}
    out.append((*_data([Labels(level) for level in opened.labels]), cells | place, "labels"))
    out.append(painted_layer(study, opened, place, prefix=several))
    return [_as_layer(one) for one in out]


def painted_layer(study: Study, opened: OpenedSlide, place: Mapping[str, Any], *, prefix: str = "") -> LayerData:
    """Return the layer for napari of painted cells, by :func:`first_painted`."""
    values, options = _initial_paint(study, opened)
    opened.paint.set(values)
    options |= {
        "name": prefix + PAINTED,
        "blending": "translucent",
        "interpolation2d": "nearest",
        "metadata": {STUDY: study, SLIDE: opened.name, ROLE: "painted", PAINT: opened},
        **place,
    }
    return _as_layer((*_data([PaintedLevel(numbers, opened.paint) for numbers in opened.numbers]), options, "image"))


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Return contrast limits of a layer that shows values of cells: the 1st and the 99th percentile."""
    values = values[:: max(1, len(values) // _ENOUGH)]  # sorting a million takes longer than painting them
    seen = values[np.isfinite(values)]
    if not seen.size:
        return 0.0, 1.0
    low, high = np.percentile(seen, [1, 99])
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def first_painted(study: Study) -> Painted | None:
    """Return what cells are coloured by at first: their clusters, else a feature that a marker follows, or a marker."""
    if study.clustering:
        return Painted("column", study.clustering)
    if study.n_features:
        return Painted("feature", str(study.strongest()[1]))
    others = [one for one in study.markers if one not in study.confounders]
    return Painted("marker", others[0]) if others else None


def _initial_paint(study: Study, opened: OpenedSlide) -> tuple[np.ndarray, dict[str, Any]]:
    painted = first_painted(study)
    if painted is None:
        return np.full(len(opened.rows), np.nan), {"contrast_limits": (0.0, 1.0)}
    values, categories = values_of(study, painted)
    values, opacity = values[opened.rows], {"opacity": 0.7}
    if categories:
        colormap, limits = categorical_colormap(len(categories)), limits_of_codes(len(categories))
        return values, {"contrast_limits": limits, "colormap": colormap, **opacity}
    return values, {"contrast_limits": limits_of(values), "colormap": "viridis", **opacity}


def limits_of_codes(n: int) -> tuple[float, float]:
    """Return contrast limits of a layer that shows codes of ``n`` categories."""
    return -0.5, max(n, 2) - 0.5


def _data(levels: Sequence[Any]) -> tuple[Any]:
    return (list(levels) if len(levels) > 1 else levels[0],)


def _as_layer(one: LayerData) -> LayerData:
    data, options, kind = one
    return data, options | {"multiscale": isinstance(data, list)}, kind


def _initial_channels(slide: Slide, study: Study) -> list[int]:
    """Return the layers to show first: the nuclei, and without clusters the marker that a feature follows most."""
    nuclear = find_nuclear_marker(slide.markers)
    by_feature = study.correlations and not study.clustering
    wanted = [nuclear, study.markers[study.strongest()[0]]] if by_feature else [nuclear]
    return [slide.markers.index(marker) for marker in dict.fromkeys(wanted) if marker in slide.markers] or [0]


def _limits(levels: Sequence[LazyImage], *, has_coarse: bool) -> tuple[float, float]:
    coarse = levels[-1]
    if (has_coarse or len(levels) == 1) and coarse.shape[0] * coarse.shape[1] <= _LARGEST_COARSE:
        return contrast_limits(np.asarray(coarse[:, :]))
    height, width = levels[0].shape  # a grid of windows avoids decoding the full image
    windows = [
        np.asarray(levels[0][y : y + _SAMPLE_PX, x : x + _SAMPLE_PX]).ravel()
        for y in np.linspace(0, max(0, height - _SAMPLE_PX), 4).astype(int)
        for x in np.linspace(0, max(0, width - _SAMPLE_PX), 4).astype(int)
    ]
    return contrast_limits(np.concatenate(windows))


def keep_look(tuples: list[LayerData], colormaps: Mapping[str, Any]) -> list[LayerData]:
    """Return the layers of another slide with the same channels visible, in the same colormaps.

    ``colormaps`` are those of the visible channels, by marker.
    """
    out = []
    for data, options, kind in tuples:
        marker = options["metadata"].get(MARKER)
        look = {} if marker is None else {"visible": marker in colormaps, "colormap": colormaps.get(marker, "gray")}
        out.append((data, options | look, kind))
    return out


def is_visible(one: LayerData) -> bool:
    """Return whether a layer is to be visible when it is added."""
    return bool(one[1].get("visible", True))


def result_layers(path: str | Path) -> list[LayerData]:
    """Return the layers of the first slide of a result, which are then added to napari."""
    study = open_study(path)
    return slide_layers(study, study.slide_names[0])


def slide_layers(study: Study, slide: str) -> list[LayerData]:
    """Return the layers for napari of one slide of a result."""
    return layers_of(study, open_slide(study, slide))


def join_layer(path: str | Path, layer: Any) -> list[LayerData]:
    """Return a layer of the cells of an AnnData file for a labels layer, joined by the ids of the cells.

    Raises
    ------
    InputError
        If the table has no ids, or none of them occurs in the label image.
    """
    study = open_study(path)
    levels = list(layer.data) if layer.multiscale else [layer.data]
    name = study.slide_names[0]
    if layer.name in study.slide_names:
        name = layer.name
    place = {"scale": layer.scale[-2:], "translate": layer.translate[-2:], "units": layer.units[-2:]}
    levels = [level if level.ndim == 2 else level[0] for level in levels]
    opened = join(study, name, levels, image=f"the labels layer {layer.name!r}")
    return [painted_layer(study, opened, place)]


def painted_over_mask(study: Study, slide: str, mask: str | Path) -> list[LayerData]:
    """Return a layer of the cells of a table, over a label image.

    Raises
    ------
    InputError
        If the label image cannot be read, or no id of the cells occurs in it.
    """
    levels = label_levels(mxsplicer.open_mask(mask))
    return [painted_layer(study, join(study, slide, levels, image=f"mask {Path(mask).name}"), {})]
