"""Figures and images as text that a page can hold, so that it needs no other file and no network."""

import base64
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Marker names are text of others: "$" in them must not start a formula, which can fail to parse.
STYLE: dict[Any, Any] = {"text.parse_math": False, "svg.hashsalt": "mxsplicer", "font.size": 9.0, "axes.linewidth": 0.6}


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: where it is from (a data URI), what it shows in words, and its width in pixels."""

    source: str
    alt: str
    width: int


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of inches, unknown to pyplot: it is freed with its last name."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def of_figure(figure: Figure, alt: str, *, dpi: int = 150, vector: bool = False) -> Picture:
    """Return a figure as WebP, or as SVG where lines and letters should stay sharp."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters the font lacks, layouts that are tight: the page can bear both
        if vector:
            figure.savefig(file, format="svg", dpi=dpi, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(file, format="webp", dpi=dpi, pil_kwargs={"quality": 88, "method": 4})
    kind = "svg+xml" if vector else "webp"
    return Picture(_data_uri(file.getvalue(), kind), alt, round(figure.get_size_inches()[0] * 96))


def of_pixels(pixels: np.ndarray, alt: str) -> Picture:
    """Return an image (y, x) or (y, x, 3) of uint8 as WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="webp", quality=85, method=4)
    return Picture(_data_uri(file.getvalue(), "webp"), alt, pixels.shape[1])


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
