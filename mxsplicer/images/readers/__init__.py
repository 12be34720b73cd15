"""Readers: one module per file format, and the table of them.

A reader takes a path, and for files that hold several images the number or name of one. It returns an
:class:`ImageFile`, the image and its metadata, or None if the file has another format. A new format is a module here
and a line in ``READERS``; :func:`mxsplicer.images.opening.open_slide` tries them in their order.
"""

from collections.abc import Callable

from mxsplicer.images.readers import imagej, ome_tiff, ome_zarr, qptiff, tiff_folder, tiff_stack
from mxsplicer.images.readers.image_file import ImageFile

READERS: dict[str, Callable[..., ImageFile | None]] = {
    "OME-Zarr": ome_zarr.read_ome_zarr,
    "folder of TIFF files": tiff_folder.read_tiff_folder,
    "OME-TIFF": ome_tiff.read_ome_tiff,
    "qptiff": qptiff.read_qptiff,
    "ImageJ": imagej.read_imagej,
    "TIFF": tiff_stack.read_tiff_stack,  # reads any TIFF: keep it last
}
