"""Simulate a slide of tissue whose truth is known: a pyramidal OME-TIFF, its mask and a table of its cells.

Every cell is a function of the seed and of its place, so a slide of any size is made block by block without holding it
in memory. docs/simulation-settings.md lists every setting with the figure or the real image it comes from; they were
fixed before anything was trained on them.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.simulation.pyramid import Pyramid
from mxsplicer.simulation.randomness import Keys
from mxsplicer.simulation.settings import PANELS
from mxsplicer.simulation.tissue import Tissue
from mxsplicer.system.progress import track


@dataclass(frozen=True)
class SimulatedSlide:
    """Paths of the three files of a simulated slide."""

    image: Path
    mask: Path
    truth: Path


def simulate_slide(
    path: str | Path,
    *,
    size_px: int = 2048,
    seed: int = 0,
    slide_number: int = 0,
    pixel_size_um: float = 0.5,
    tile_px: int = 512,
    panel: str = "orion-crc",
    overwrite: bool = False,
) -> SimulatedSlide:
    """Simulate a multiplex image of tissue, with the outline and the true identity of every cell.

    The panel is that of Orion-CRC (Lin et al. 2023): 19 channels, of which AF1 and Argo550 are unstained. Slides of one
    ``seed`` form a cohort: each ``slide_number`` is another piece of the same kind of tissue, stained and exposed
    slightly differently. The same arguments give the same pixels. Memory does not grow with the slide.

    Parameters
    ----------
    path
        Image to write, ``NAME.ome.tiff``; the mask ``NAME_mask.ome.tiff`` (uint32, 0 is background) and the truth
        ``NAME_truth.csv`` (one row per cell) are written to the same folder.
    size_px
        Height and width of the slide.
    seed
        Number of the cohort.
    slide_number
        Number of the slide in its cohort.
    pixel_size_um
        Width of a pixel in micrometres; it does not change the size of cells.
    tile_px
        Side of a tile of the files, a multiple of 16. Four tiles are rendered at once; the camera's noise depends on
        it, the tissue does not.
    panel
        ``"orion-crc"``, or ``"arrangements"``: the same cells with eight markers of their lineages and seven markers
        whose states are visible only in how things are arranged in the cell, or around it.
    overwrite
        Replace existing files.

    Returns
    -------
    The paths of the three files. The columns of the truth are described in docs/simulation.md.

    Raises
    ------
    InputError
        If a file exists, the name does not end in ``.ome.tiff`` or ``.ome.tif``, or a number is out of range.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> made = simulate_slide(folder / "tissue.ome.tiff", size_px=256)
    >>> made.truth.name
    'tissue_truth.csv'
    >>> import tifffile
    >>> tifffile.imread(made.image).shape
    (19, 256, 256)
    """
    files = _files(Path(path), overwrite=overwrite)
    _check_numbers(size_px, seed, slide_number, pixel_size_um, tile_px)
    if panel not in PANELS:
        msg = f"panel {panel!r} is unknown; the panels are {', '.join(PANELS)}."
        raise InputError(msg)
    tissue = Tissue(Keys(seed, slide_number), size_px, pixel_size_um, tile_px, panel)
    with tempfile.TemporaryDirectory(prefix=".simulating-", dir=files.image.parent) as folder:
        unfinished = SimulatedSlide(Path(folder, "image.tiff"), Path(folder, "mask.tiff"), Path(folder, "truth.csv"))
        pyramid = Pyramid(tissue, Path(folder))
        with unfinished.truth.open("w", encoding="utf-8", newline="") as table:
            for place, truth in enumerate(track(pyramid.blocks(), "Simulating tissue", total=pyramid.n_blocks)):
                truth.to_csv(table, index=False, header=place == 0, float_format="%.4f")
        pyramid.write(unfinished.image, unfinished.mask)
        for field in ("mask", "truth", "image"):  # the image last: where it exists, the slide is complete
            getattr(unfinished, field).replace(getattr(files, field))
    return files


def _files(path: Path, *, overwrite: bool) -> SimulatedSlide:
    stem, dot, ending = path.name.partition(".ome.tif")
    if not stem or not dot or ending not in ("", "f"):
        msg = f"a simulated slide is an OME-TIFF, but its name is {path.name!r}."
        raise InputError(msg, "End the name in .ome.tiff.")
    if not path.parent.is_dir():
        msg = f"the folder {str(path.parent)!r} does not exist."
        raise InputError(msg, "Create it first.")
    files = SimulatedSlide(path, path.with_name(f"{stem}_mask.ome.tiff"), path.with_name(f"{stem}_truth.csv"))
    for file in (files.image, files.mask, files.truth):
        if file.exists() and not overwrite:
            msg = f"{str(file)!r} exists."
            raise InputError(msg, "Choose another name, or pass `overwrite=True` to replace it.")
    return files


def _check_numbers(size_px: int, seed: int, slide_number: int, pixel_size_um: float, tile_px: int) -> None:
    if size_px < 64:
        msg = f"`size_px` is {size_px}; at least 64 pixels are needed to hold a few cells."
        raise InputError(msg)
    if seed < 0 or slide_number < 0:
        msg = f"`seed` is {seed} and `slide_number` is {slide_number}; neither can be negative."
        raise InputError(msg)
    if not 0.1 <= pixel_size_um <= 1.0:
        msg = f"`pixel_size_um` is {pixel_size_um}; cells can be drawn at 0.1 to 1.0 µm per pixel."
        raise InputError(msg)
    if tile_px < 64 or tile_px % 16:
        msg = f"`tile_px` is {tile_px}; a multiple of 16 of at least 64 pixels is needed."
        raise InputError(msg)
