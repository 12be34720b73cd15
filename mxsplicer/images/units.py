"""Units of length as programs spell them, and the size of a pixel in micrometres."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_SAME_SCALE = 0.05  # largest difference of pixel sizes, relative: calibrations differ by about a per cent

PLAUSIBLE_UM = (0.02, 20.0)  # light-sheet and electron microscopes below, coarse IMC and laser ablation above
MOST_DIFFERENT = 0.05  # relative difference of two sizes of a pixel that calibration may leave

_SPELLINGS = {
    1.0: ("um", "micrometer", "micron", "micro", "u", "mum", "umeter", "mkm", "?m"),
    1e-6: ("pm", "picometer"),
    1e-4: ("a", "å", "angstrom", "ångström", "ångstrom", "angström"),
    1e-3: ("nm", "nanometer"),
    1e3: ("mm", "millimeter"),
    1e4: ("cm", "centimeter"),
    1e5: ("dm", "decimeter"),
    1e6: ("m", "meter"),
    25_400.0: ("in", "inch", "inche", '"'),
    25.4: ("thou", "li", "mil"),
    25_400 / 72: ("pt", "point"),
}
_UM_PER_UNIT = {spelling: um for um, spellings in _SPELLINGS.items() for spelling in spellings}
_UNCALIBRATED = ("", "pixel", "px", "none", "null", "referenceframe")


@dataclass(frozen=True)
class PixelSize:
    """Width and height of a pixel in µm by one source; a problem instead where that source cannot be understood."""

    width_um: float | None
    source: str
    aspect: float = 1.0  # height as a multiple of the width
    problem: str = ""

    @classmethod
    def of(cls, source: str, width: object, height: object, units: Sequence[str | None]) -> "PixelSize":
        """Return the size by two numbers as a file has them, and the unit of each; a missing number is the other.

        A number whose unit is not known is a problem. One pixel, nothing or no number are not a size.
        """
        sizes = []
        for given, unit_given in zip((width, height), units, strict=True):
            number, unit = _apart(given, unit_given)
            size, um = to_number(number), um_per_unit(unit)
            if size is None or (size in (0, 1) and _bare(unit or "").removesuffix("s") in _UNCALIBRATED):
                continue
            if um is None:
                problem = f"it gives {size:g} in the unit {unit!r} ({source}), which is not a known length"
                return cls(None, source, problem=problem)
            sizes.append(_with_micro_sign(size, um))
        if not sizes:
            return cls(None, source)
        return cls(sizes[0], source, sizes[-1] / sizes[0] if sizes[0] > 0 and sizes[-1] > 0 else 1.0)


def um_per_unit(unit: str | None) -> float | None:
    """Return how many micrometres a unit has, however it is spelled; None if it is not a known length.

    Examples
    --------
    >>> [um_per_unit(unit) for unit in ("µm", "microns", "UnitsLength.MICROMETER", "Âµm", "?m", "nm", "parsec")]
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.001, None]
    """
    word = _bare(unit or "")
    return _UM_PER_UNIT.get(word, _UM_PER_UNIT.get(word.removesuffix("s")))


def to_number(text: object) -> float | None:
    """Return the number of a unit, also with a decimal comma; None if missing, not a number or not finite.

    Examples
    --------
    >>> to_number("0,325"), to_number("5.0E-1"), to_number("")
    (0.325, 0.5, None)
    """
    word = str(text).strip()
    word = word.replace(",", ".") if word.count(",") == 1 and "." not in word else word
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _apart(number: object, unit: str | None) -> tuple[object, str | None]:
    """Return a number and its unit, also where both are one text such as ``"0.5 µm"``."""
    both = None if to_number(number) is not None else re.fullmatch(r"\s*([\d.,]+)\s*([^\d\s.,].*)", str(number))
    return (both[1], both[2]) if both else (number, unit)


def choose_pixel_size(sizes: Sequence[PixelSize]) -> tuple[float | None, str, str]:
    """Return the pixel size and its source, or why none is used.

    Parameters
    ----------
    sizes
        By each source, best first. The next is used only if one has no number: an implausible number, or one of an
        unknown unit, is reported and not replaced.
    """
    low, high = PLAUSIBLE_UM
    for one in sizes:
        if one.problem:
            return None, "", one.problem
        if not one.width_um:
            continue
        size = one.width_um
        if not low <= size <= high:
            return None, "", f"it gives {size:g} µm, and {low:g} to {high:g} µm are plausible"
        if abs(one.aspect - 1) > MOST_DIFFERENT:
            oblong = f"it gives {size:g} x {size * one.aspect:g} µm, and pixels must be square: resample the image"
            return None, "", oblong
        return size, one.source, ""
    return None, "", ""


def disagreement(sizes: Sequence[PixelSize]) -> str:
    """Return a sentence if two pixel sizes, each in its unit, differ by more than calibration does; "" otherwise."""
    low, high = PLAUSIBLE_UM
    plausible = [one for one in sizes if one.width_um and low <= one.width_um <= high]
    for other in plausible[1:]:
        first, second = plausible[0].width_um, other.width_um
        assert first is not None
        assert second is not None
        if abs(second / first - 1) > MOST_DIFFERENT:
            return (
                f"{plausible[0].source} gives {first:g} µm per pixel and {other.source} {second:g}; the first is used"
            )
    return ""


def _with_micro_sign(size: float, um: float) -> float:
    # Writers that lose the micro sign write "m"; pixels of metres are implausible.
    lost = um == _UM_PER_UNIT["m"] and not PLAUSIBLE_UM[0] <= size * um <= PLAUSIBLE_UM[1]
    return size if lost else size * um


def _bare(unit: str) -> str:
    """Return a unit in small letters, with "u" for any micro sign and the American ending."""
    text = html.unescape(unit)
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    for _ in range(2):  # UTF-8 that was read as Latin-1, once or twice
        for encoding in ("latin-1", "cp1252"):
            try:
                text = text.encode(encoding).decode("utf-8")
                break
            except UnicodeError:
                continue
    text = unicodedata.normalize("NFKC", text).casefold()  # both micro signs become a Greek mu
    text = re.sub(r"^.*\.(?=\w)|[\s_()\[\]-]", "", text)  # "UnitsLength.MICROMETER"
    text = re.sub(r"(/|per)(px|pixels?)$", "", text)
    text = text.replace("μ", "u").replace("\ufffd", "?").replace("metre", "meter")
    return re.sub(r"^\?+m", "?m", text)


def same_scale(pixel_size_um: float, other_um: float) -> bool:
    """Return whether two pixel sizes in micrometres differ by at most 5 %, as calibrations of one microscope do."""
    return abs(pixel_size_um / other_um - 1) <= _SAME_SCALE
