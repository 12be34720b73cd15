"""Formats of microscopes that are not read, and the command that converts each."""

from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.system.location import Location, name_of

_BIOFORMATS = {
    ".czi": "Zeiss CZI",
    ".lif": "Leica LIF",
    ".lof": "Leica LOF",
    ".xlef": "Leica XLEF",
    ".nd2": "Nikon ND2",
    ".vsi": "Olympus VSI",
    ".oir": "Olympus OIR",
    ".oib": "Olympus OIB",
    ".ims": "Imaris",
    ".mrxs": "3DHISTECH MRXS",
    ".dv": "DeltaVision",
    ".sld": "SlideBook",
    ".zvi": "Zeiss ZVI",
    ".isyntax": "Philips iSyntax",
    ".dcm": "DICOM",
}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pdf", ".svg")


def check_can_be_read(location: Location) -> None:
    """Raise if a file has a format of a microscope that is not read; the remedy is the command that converts it."""
    path = Path(location)
    name, ending = name_of(location), path.suffix.lower()
    if ending in _BIOFORMATS:
        msg = f"{name} is a {_BIOFORMATS[ending]} file, which is not read."
        zarr = f"{path.stem}.zarr"
        remedy = (
            f'Convert it by \'bioformats2raw "{name}" "{zarr}"\' (conda install -c ome bioformats2raw) and give '
            f"{zarr}; or export it as OME-TIFF from QuPath or Fiji."
        )
        raise InputError(msg, remedy)
    if ending == ".mcd":
        msg = f"{name} is a Fluidigm MCD file of imaging mass cytometry, which is not read."
        remedy = (
            "Put it into a folder 'raw', run 'steinbock preprocess imc panel' and 'steinbock preprocess imc images', "
            f"and give img/{path.stem}_001.tiff with `markers` panel.csv and `pixel_size_um` 1; or export OME-TIFF "
            "from MCD Viewer."
        )
        raise InputError(msg, remedy)
    if ending in _PICTURES:
        msg = f"{name} is a picture without markers and pixel size, which is not read."
        raise InputError(msg, "Export the image as OME-TIFF, with one grey channel per marker.")
