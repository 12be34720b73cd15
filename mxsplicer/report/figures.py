"""Figures and images as text inside the page, so that it needs no other file and no network."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mxsplicer.report.formatting import shorten

# Marker names come from users: "$" in them must not start a formula, which may fail to parse.
STYLE: dict[Any, Any] = {"text.parse_math": False, "svg.hashsalt": "mxsplicer", "font.size": 9.0, "axes.linewidth": 0.6}


@dataclass(frozen=True)
class InlineImage:
    """A figure or image inside the page: its data URI, its description in words, and its size in pixels."""

    source: str
    alt: str
    width: int
    height: int  # with the width it reserves the space, so that sections stay where links point to


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of ``width`` x ``height`` inches that pyplot does not keep, so that its memory is freed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def inline_figure(figure: Figure, alt: str, *, dpi: int = 150, vector: bool = False) -> InlineImage:
    """Return a figure as WebP, or as SVG if lines and letters should stay sharp."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, tight layouts: neither spoils the page
        if vector:
            figure.savefig(file, format="svg", dpi=dpi, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(file, format="webp", dpi=dpi, pil_kwargs={"quality": 88, "method": 4})
    kind = "svg+xml" if vector else "webp"
    width, height = (round(96 * side) for side in figure.get_size_inches())
    return InlineImage(_data_uri(file.getvalue(), kind), alt, width, height)


def inline_pixels(pixels: np.ndarray, alt: str) -> InlineImage:
    """Return an image (y, x) or (y, x, 3) of uint8 as a figure inside the page, WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="webp", quality=85, method=4)
    return InlineImage(_data_uri(file.getvalue(), "webp"), alt, pixels.shape[1], pixels.shape[0])


def grid_of_slides(names: Sequence[str], draw: Callable[[str, Axes], object], alt: str) -> InlineImage:
    """Return one figure of the page with a small panel for each slide, at most six in a row."""
    columns = min(6, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(9.6, 9.6 / columns * rows + 0.2 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, name in zip(panels, names, strict=False):
        draw(name, ax)
        ax.set_title(shorten(name), fontsize=8 if columns < 5 else 6)
    for ax in panels[len(names) :]:
        ax.set_visible(False)
    return inline_figure(figure, alt, dpi=170)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
