"""The colours of napari's theme, for what pyqtgraph draws; and the diverging map in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

# Blue to orange through the background, which every kind of colour vision tells apart.
_ON_DARK = ((0.62, 0.83, 1.0), (0.16, 0.48, 0.80), (0.13, 0.14, 0.16), (0.84, 0.42, 0.10), (1.0, 0.82, 0.60))
_ON_LIGHT = ((0.03, 0.19, 0.42), (0.27, 0.58, 0.79), (0.97, 0.97, 0.97), (0.90, 0.49, 0.20), (0.50, 0.20, 0.02))


@dataclass(frozen=True)
class Theme:
    """Colours as ``#rrggbb``."""

    background: str
    text: str
    faint: str
    accent: str
    is_dark: bool

    @classmethod
    def dark(cls) -> "Theme":
        """Return napari's own default."""
        return cls("#262930", "#f0f1f2", "#6a7380", "#ffd166", is_dark=True)

    @classmethod
    def of(cls, name: str) -> "Theme":
        """Return the colours of a theme of napari by its name."""
        from napari.utils.theme import get_theme

        theme = get_theme(name)
        background, text, faint = (theme_color(getattr(theme, key)) for key in ("background", "text", "secondary"))
        dark = sum(int(background[i : i + 2], 16) for i in (1, 3, 5)) < 384
        return cls(background, text, faint, "#ffd166" if dark else "#b3005e", is_dark=dark)

    def diverging(self) -> np.ndarray:
        """Return 256 colours from -1 to 1, (256, 4) uint8."""
        anchors = np.array(_ON_DARK if self.is_dark else _ON_LIGHT)
        places = np.linspace(0, 1, len(anchors))
        at = np.linspace(0, 1, 256)
        rgb = np.column_stack([np.interp(at, places, anchors[:, band]) for band in range(3)])
        return np.column_stack([rgb * 255, np.full(256, 255)]).astype(np.uint8)


def theme_color(color: Any) -> str:
    """Return a colour of a theme as ``#rrggbb``."""
    return str(color.as_hex(format="long"))[:7]
