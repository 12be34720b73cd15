"""The colours of napari's theme for plots, with a diverging palette that suits it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_mxsplicer.palettes import diverging


@dataclass(frozen=True)
class Theme:
    """Colours as ``#rrggbb``."""

    background: str
    text: str
    faint: str
    accent: str
    warning: str
    raised: str  # the background of a row that is selected
    is_dark: bool

    @classmethod
    def dark(cls) -> "Theme":
        """Return the colours of napari's default theme."""
        return cls("#262930", "#f0f1f2", "#6a7380", "#ffd166", "#ffb454", "#414851", is_dark=True)

    @classmethod
    def of(cls, name: str) -> "Theme":
        """Return the colours of a theme of napari by its name."""
        from napari.utils.theme import get_theme

        theme = get_theme(name)
        background, text, faint = (theme_color(getattr(theme, key)) for key in ("background", "text", "secondary"))
        dark = sum(int(background[i : i + 2], 16) for i in (1, 3, 5)) < 384
        accent, warning = ("#ffd166", "#ffb454") if dark else ("#b3005e", "#a34700")
        raised = theme_color(theme.primary)  # tables have the foreground as background
        return cls(background, text, faint, accent, warning, raised, is_dark=dark)

    @property
    def muted(self) -> str:
        """The colour of text that is less important."""
        both = zip(*([int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in (self.text, self.background)), strict=True)
        return "#" + "".join(f"{round(0.65 * text + 0.35 * background):02x}" for text, background in both)

    def text_in(self, color: str) -> str:
        """Return a colour of a marker, made for black, as text can be read in it: darker on a bright background."""
        share = 1 if self.is_dark else 0.6
        return "#" + "".join(f"{round(share * int(color[i : i + 2], 16)):02x}" for i in (1, 3, 5))

    def diverging(self) -> np.ndarray:
        """Return 256 colours from -1 to 1, (256, 4) uint8."""
        return diverging(on_dark=self.is_dark)


def theme_color(color: Any) -> str:
    """Return a colour of a theme as ``#rrggbb``."""
    return str(color.as_hex(format="long"))[:7]
