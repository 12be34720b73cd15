"""Files of slides in a folder: masks and outlines, found by the names of the slides."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from mxsplicer.errors import InputError
from mxsplicer.images.opening import slide_name
from mxsplicer.masks.formats import is_label_file
from mxsplicer.masks.geojson import is_geojson

# What programs add to the name of a slide, word by word: NAME_mask.tif, NAME_cp_masks.png, NAME_whole_cell.tiff.
_OF_CELLS = frozenset(["cell", "cells", "cellmask", "cp", "full", "instanseg", "label", "labels", "mask", "masks"])
_OF_CELLS |= {"mesmer", "seg", "stardist", "whole", "wholecell"}
_OF_NUCLEI = frozenset(("nuclear", "nuclei", "nucleimask", "nucleus"))
_ENDINGS = re.compile(r"(\.(png|npy|npz|geojson|json|gz|zip))+$", re.IGNORECASE)

Kind = Literal["cells", "nuclei", "outlines"]


def find_masks(folder: Path, slides: Sequence[str], kind: Kind) -> list[Path]:
    """Return the mask of each slide in a folder, by its name.

    A file belongs to the slide with the longest name that its own begins with, followed by no letter or digit, so
    that ``core_1_2_mask.tif`` is not of slide ``core_1``. Of several files of a slide, one that has just its name is
    taken, then one that adds only words such as ``mask`` or ``whole_cell`` (of nuclei ``nuclear``). A folder
    that ends with the name of a slide may hold its masks, as in mcmicro's ``unmicst-NAME/cell.ome.tif``. Files that
    cannot be masks are ignored, as are hidden ones.

    Raises
    ------
    InputError
        If a slide has no mask in the folder, or several and none of them is certain.
    """
    found = {slide: _best(_ranked(folder, slide, slides, kind)) for slide in slides}
    for slide, files in found.items():
        if len(files) != 1:
            listed = ", ".join(path.name for path in files) or "none"
            what = "masks" if kind == "cells" else f"masks of {kind}"
            msg = (
                f"folder {folder} holds {len(files)} {what} whose name begins with {slide!r} ({listed}); one is needed."
            )
            example = f"{slide}_{'mask' if kind == 'cells' else kind}.tif"
            remedy = (
                f"Give the masks one by one, in the order of the slides, or call each as its slide, such as {example}."
            )
            raise InputError(msg, remedy)
    return [files[0] for files in found.values()]


def find_outlines(folder: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Return the GeoJSON file of each slide that has one in a folder, by its name; see :func:`find_masks`.

    Raises
    ------
    InputError
        If no slide has a file, or one has several.
    """
    found = {slide: _best(_ranked(folder, slide, slides, "outlines")) for slide in slides}
    ambiguous = next((slide for slide, files in found.items() if len(files) > 1), None)
    if ambiguous is not None or not any(found.values()):
        what = f"{len(found[ambiguous])} GeoJSON files" if ambiguous else "no GeoJSON file"
        msg = f"folder {folder} has {what} whose name begins with {ambiguous or slides[0]!r}; one per slide is needed."
        raise InputError(msg)
    return {slide: files[0] for slide, files in found.items() if files}


def _best(ranked: Sequence[tuple[int, Path]]) -> list[Path]:
    """Return the files in a folder with the lowest rank for their slides."""
    lowest = min((rank for rank, _ in ranked), default=0)
    return [path for rank, path in ranked if rank == lowest]


def _ranked(folder: Path, slide: str, slides: Collection[str], kind: Kind) -> list[tuple[int, Path]]:
    accepts: Callable[[Path], bool] = is_geojson if kind == "outlines" else _may_be_mask
    ranked = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # hidden, such as the ._NAME of macOS
            continue
        if accepts(path):
            stem = _stem(path)
            if _owner(stem, slides) == slide:
                ranked.append((_rank(stem[len(slide) :], kind) + 4 * (not stem.startswith(slide)), path))
        elif path.is_dir() and re.search(rf"(^|[^A-Za-z0-9]){re.escape(slide)}$", path.name):
            inside = [file for file in sorted(path.iterdir()) if accepts(file) and not file.name.startswith(".")]
            ranked += [(2 + _rank(f" {_stem(file)}", kind), file) for file in inside]
    return ranked


def _owner(stem: str, slides: Collection[str]) -> str | None:
    """Return the slide with the longest name that the name of a file in a folder begins with.

    Where no slide is written like the file, capitals are ignored, if just one slide is meant then.
    """
    slides = [slide for slide in slides if not stem[len(slide) : len(slide) + 1].isalnum()]
    exact = [slide for slide in slides if stem.startswith(slide)]
    if exact:
        return max(exact, key=len)
    alike = [slide for slide in slides if stem[: len(slide)].casefold() == slide.casefold()]
    longest = [slide for slide in alike if len(slide) == max(map(len, alike))]
    return longest[0] if len(longest) == 1 else None


def _rank(remainder: str, kind: Kind) -> int:
    """Return how well the rest of a file name in a folder fits the kind of file: 0 is best, 3 is of the other kind."""
    words = set(re.findall(r"[a-z]+|[0-9]+", remainder.lower()))
    if kind == "outlines" or not words:
        return 0
    if kind == "nuclei":
        return 0 if words & _OF_NUCLEI and words <= _OF_CELLS | _OF_NUCLEI else 2
    if words & _OF_NUCLEI:
        return 3
    return 1 if words <= _OF_CELLS else 2


def _may_be_mask(path: Path) -> bool:
    if path.name.endswith("_seg.npy"):  # Cellpose's session in Python objects, next to the masks it wrote
        return False
    return is_label_file(path) or (path.is_file() and is_geojson(path))


def _stem(path: Path) -> str:
    return slide_name(_ENDINGS.sub("", path.name))
