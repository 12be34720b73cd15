"""OME-Zarr (NGFF): read multiscale images and labels from a folder or a URL, and write label images.

https://ngff.openmicroscopy.org: 0.4 (zarr format 2, metadata in ``.zattrs``), 0.5 and 0.6 (zarr format 3, in
``zarr.json`` below ``ome``; 0.6 names coordinate systems), also in one zip file (``.ozx``); older versions and the
layout of bioformats2raw are read as far as they mean the same. A written label image is a zarr group whose arrays
``0``, ``1``, ... are the levels, finest first.
"""

import itertools
import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import is_zipfile

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage, Pick, Reordered, Windowed, as_index
from mxsplicer.images.tiles import TileGrid, Window
from mxsplicer.system.location import (
    Location,
    absolute,
    archive_of,
    below,
    file_system,
    inside_zip,
    locate,
    name_of,
    read_small_file,
    unreachable,
)
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order

if TYPE_CHECKING:  # it takes a quarter of a second to import, and a TIFF does without
    import zarr
    from zarr.storage import FsspecStore, LocalStore, ZipStore

_LARGEST_CHUNK = 1 << 31  # bytes: the limit of zarr's compressors, and what a laptop can decode at once
_MOST_PIXELS = 1 << 44  # of an image: since chunks may be absent, nothing else reveals a wrong shape
_LABEL_CHUNK_PX = {"0.4": 1024, "0.5": 512}  # of every level that is written, by version
_COARSEST_LABELS_PX = 512  # the longest side of the coarsest level that is written


@dataclass(frozen=True, eq=False)
class ZarrGroup:
    """A zarr group and its OME-NGFF attributes."""

    location: Location
    zarr_format: int
    attributes: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the group for messages."""
        return name_of(self.location)


@dataclass(frozen=True, eq=False)
class ZarrSeries:
    """A multiscale image of an OME-NGFF group without axes of length one, except Y and X."""

    name: str
    image: LazyImage  # axes as in `axes`
    pyramid: tuple[LazyImage, ...]  # coarser levels, same axes
    axes: str  # "CYX", "YX", "TCYX", ... in this order
    tile_px: tuple[int, int]
    storage: str  # version and compression, as text
    pixel_size: float | None  # along X at the finest level, in `unit`
    aspect: float  # height of a pixel, as a multiple of its width
    unit: str | None
    labels: tuple[str, ...]  # of each channel, from omero; "" if it has none


def open_group(path: Path | str) -> ZarrGroup | None:
    """Read the OME-NGFF attributes of a zarr group; return None if there is no group."""
    location = locate(path)
    if isinstance(location, Path) and location.is_file():
        if location.suffix.lower() not in (".ozx", ".zip") or not is_zipfile(location):
            return None
        location = inside_zip(location)
    document = _document(location, "zarr.json")
    if document is not None:
        attributes = document.get("attributes")
        if document.get("node_type") != "group":
            return None
        attributes = attributes if isinstance(attributes, dict) else {}
        ome = attributes.get("ome")
        return ZarrGroup(location, 3, ome if isinstance(ome, dict) else attributes)
    attributes = _document(location, ".zattrs")
    if attributes is None and _document(location, ".zgroup") is None:
        return None
    if _document(location, ".zarray") is not None:
        return None
    return ZarrGroup(location, 2, attributes or {})


def n_multiscales(group: ZarrGroup) -> int:
    """Return how many multiscale images an OME-NGFF group holds."""
    return len(_objects(group, group.attributes, "multiscales"))


def open_series(group: ZarrGroup, number: int = 0) -> ZarrSeries:
    """Open a multiscale image of an OME-NGFF group: metadata is read, pixels are not."""
    try:
        return _open_series(group, number)
    except (InputError, PermissionError):
        raise
    except OSError as error:
        raise unreachable(group.location, error) from error
    except Exception as error:  # broken metadata raises almost any exception in zarr
        raise _broken(group, f"{type(error).__name__}: {error}") from error


def open_labels(path: Path | str) -> list[LazyImage] | None:
    """Open a label image (Y, X) of an OME-NGFF group, in whole numbers as they are stored.

    Parameters
    ----------
    path
        ``slide.ome.zarr/labels/cells``, or the OME-Zarr itself or its ``labels`` if that holds one label image.

    Returns
    -------
    Its levels, finest first, or None if ``path`` is not a zarr group (but, for instance, a zarr array).

    Raises
    ------
    InputError
        If no label image or several are found, or its axes or numbers cannot be labels.
    """
    group = open_group(path)
    if group is None:
        return None
    names = _names(group.attributes.get("labels"))
    if names is None and "image-label" not in group.attributes:
        inner = open_group(below(group.location, "labels"))
        if inner is not None:
            group, names = inner, _names(inner.attributes.get("labels"))
    if names is not None:
        if len(names) != 1:
            choice = f"Give one of them: {', '.join(absolute(below(group.location, name)) for name in names[:20])}."
            msg = f"{group.name} holds {len(names)} label images."
            raise InputError(msg, choice if names else "Give a mask.")
        place = below(group.location, names[0])
        found = open_group(place)
        if found is None:
            msg = f"{group.name} lists the labels {names[0]!r}, but no zarr group {place} was found."
            raise InputError(msg)
        group = found
    if "multiscales" not in group.attributes:
        msg = f"{group.name} is a zarr group without labels."
        raise InputError(msg, "Give a label image, such as slide.ome.zarr/labels/cells.")
    series = open_series(group)
    if series.axes not in ("YX", "XY") or series.image.dtype.kind not in "uib":
        msg = (
            f"labels {group.name} have the axes {series.axes} {series.image.shape} of {series.image.dtype}; a label "
            "image (Y, X) of integers is needed."
        )
        raise InputError(msg, "Export a single plane and time point.")
    order = [series.axes.index(axis) for axis in "YX"]
    return [Reordered.of(level, order) for level in (series.image, *series.pyramid)]


def create_labels(path: Path, shape_px: tuple[int, int], *, version: Literal["0.4", "0.5"] = "0.5") -> "zarr.Array":
    """Create the OME-NGFF group of a label image (Y, X), uint32, and return its finest level for writing.

    What lies at ``path`` is replaced. :func:`finish_labels` completes the image.
    """
    import zarr

    shutil.rmtree(path, ignore_errors=True)
    return _create_level(zarr.create_group(path, zarr_format=3 if version == "0.5" else 2), 0, shape_px)


def finish_labels(
    path: Path,
    *,
    pixel_size_um: float,
    image_label: Mapping[str, Any] | None = None,
    about: Callable[[np.ndarray], dict[str, Any]] | None = None,
    workers: int = 1,
) -> None:
    """Write the coarser levels and OME-NGFF metadata of a label image whose finest level is complete.

    A level takes every second pixel of the one before, since ids cannot be averaged. It is written a chunk at a time,
    so that memory does not grow with the image.

    Parameters
    ----------
    path
        The group of :func:`create_labels`.
    pixel_size_um
        Of the finest level.
    image_label
        NGFF's attribute ``image-label``: colours and properties of the labels.
    about
        From the coarsest level to the settings that made the image, stored as the attribute ``mxsplicer``.
    workers
        Threads.
    """
    import zarr

    group = zarr.open_group(path, mode="r+")
    levels = [_level_of(group, 0)]
    while max(levels[-1].shape) > _COARSEST_LABELS_PX:
        height, width = levels[-1].shape
        levels.append(_create_level(group, len(levels), (-(-height // 2), -(-width // 2))))
        _halve(levels[-2], levels[-1], workers)
    multiscale = _multiscale(levels, pixel_size_um)
    if group.metadata.zarr_format == 3:
        ome = {"version": "0.5", "multiscales": [multiscale], "image-label": dict(image_label or {})}
        group.update_attributes({"ome": ome})
    else:
        multiscale = {"version": "0.4", "name": path.name, **multiscale}
        label = {"version": "0.4", **(image_label or {})}
        group.update_attributes({"multiscales": [multiscale], "image-label": label})
    if about is not None:
        settings = about(np.asarray(levels[-1][...]))
        levels[0].update_attributes({"mxsplicer": settings})  # also here, for readers that open the array alone
        group.update_attributes({"mxsplicer": settings})


def open_finest_labels(path: Path, mode: Literal["r", "r+"] = "r") -> "zarr.Array":
    """Return the finest level of an NGFF label image of :func:`create_labels`, for reading or also for writing (r+)."""
    import zarr

    return _level_of(zarr.open_group(path, mode=mode), 0)


def made_by_mxsplicer(path: Path) -> bool:
    """Return whether a folder holds an NGFF label image of :func:`finish_labels` with settings of mxsplicer."""
    return read_label_settings(path) is not None


def read_label_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings that made an NGFF label image of :func:`finish_labels`; None if it has none."""
    try:
        settings: dict[str, Any] = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"][
            "mxsplicer"
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return settings


def _open_series(group: ZarrGroup, number: int) -> ZarrSeries:
    multiscale = _objects(group, group.attributes, "multiscales")[number]
    datasets = _objects(group, multiscale, "datasets")
    arrays = [_open_array(group, dataset.get("path")) for dataset in datasets]
    axes, units = _axes(group, multiscale.get("axes") or _axes_of_system(multiscale, datasets[0]), arrays[0].ndim)
    kept = [place for place, axis in enumerate(axes) if arrays[0].shape[place] != 1 or axis in "YX"]
    squeezed = "".join(axes[place] for place in kept)
    for finer, coarser in itertools.pairwise(arrays):
        # Y and X shrink, the others stay.
        rest = {axes[i] for i in range(len(axes)) if coarser.shape[i : i + 1] != finer.shape[i : i + 1]} - {*"ZYX"}
        if rest or coarser.ndim != finer.ndim or math.prod(coarser.shape) >= math.prod(finer.shape):
            raise _broken(group, f"{coarser.path!r} {coarser.shape} is not a coarser level of {finer.shape}")
    levels = [_ZarrImage(array, kept, group.name) for array in arrays]
    y, x = axes.index("Y"), axes.index("X")
    height, size = (_scale(datasets[0], axis) * _scale(multiscale, axis) for axis in (y, x))
    chunk = arrays[0].chunks  # of a shard its inner chunks, which zarr fetches and decodes one by one
    return ZarrSeries(
        name=str(multiscale.get("name") or "").strip(),
        image=levels[0],
        pyramid=tuple(levels[1:]),
        axes=squeezed,
        tile_px=(chunk[y], chunk[x]),
        storage=f"zarr {group.zarr_format}, {_compression(arrays[0])}",
        pixel_size=size if size > 0 and math.isfinite(size) else None,
        aspect=height / size if size > 0 and height > 0 and units[y] == units[x] else 1.0,
        unit=units[x],
        labels=_omero_labels(group),
    )


class _ZarrImage(Windowed):
    """An image of an OME-NGFF group without some of its axes of length one."""

    def __init__(self, array: "zarr.Array", kept: Sequence[int], name: str) -> None:
        super().__init__([array.shape[place] for place in kept], array.dtype)
        self._array, self._kept, self._name = array, tuple(kept), name
        self.chunk = tuple(array.chunks[place] for place in kept)  # length along each axis of what is decoded at once

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        selection: list[Any] = [0] * self._array.ndim
        for place, pick in zip(self._kept, picks, strict=True):
            selection[place] = as_index(pick)
        try:
            window = self._array.oindex[tuple(selection)]
        except Exception as error:  # a codec or a network may raise anything
            msg = (
                f"{self._name} cannot be read: a chunk of its array {self._array.path!r} does not arrive or decode "
                f"({_short(error)})."
            )
            raise InputError(msg, "Copy or export it again, or check the network.") from error
        return np.asarray(window).astype(self.dtype, copy=False)


def _open_array(group: ZarrGroup, path: Any) -> "zarr.Array":
    import zarr

    if not isinstance(path, str) or not path or ".." in Path(path).parts or Path(path).is_absolute():
        raise _broken(group, f"a dataset has the path {_short(path)}")
    document = _document(below(group.location, path), "zarr.json" if group.zarr_format == 3 else ".zarray")
    if document is None:
        msg = f"{group.name} lists a level {path!r}, but holds no array {path!r}."
        raise InputError(msg, "Copy or export it again.")
    store, prefix = _store(group.location)
    with warnings.catch_warnings():  # zarr reads codecs and types that are not standard yet, with a warning
        warnings.simplefilter("ignore")
        array = zarr.open_array(store, path=prefix + path, mode="r", zarr_format=group.zarr_format)
    if array.dtype.kind not in "uifb":
        raise _broken(group, f"{path!r} holds {array.dtype}; integers or floats are needed")
    if not 0 < math.prod(array.shape) <= _MOST_PIXELS or array.ndim < 2:
        raise _broken(group, f"{path!r} is {array.shape}")
    chunk = math.prod(array.chunks) * array.dtype.itemsize
    if chunk > _LARGEST_CHUNK:
        msg = (
            f"{group.name} is stored in chunks of {array.chunks}, {chunk / 2**30:,.0f} GiB each; chunks of at most "
            f"{_LARGEST_CHUNK / 2**30:.0f} GiB can be read."
        )
        raise InputError(msg, "Write it again in smaller chunks.")
    return array


def _store(location: Location) -> "tuple[LocalStore | FsspecStore | ZipStore, str]":
    """Return the zarr store of an OME-NGFF group, and what paths in it begin with."""
    from zarr.storage import FsspecStore, LocalStore, ZipStore

    if isinstance(location, Path):
        return LocalStore(location, read_only=True), ""
    archive = archive_of(location)
    if archive is not None:
        path, inner = archive
        return ZipStore(path, read_only=True), f"{inner}/" if inner else ""
    file_system(location)  # raises if a package is missing
    return FsspecStore.from_url(location, read_only=True), ""


def _document(location: Location, name: str) -> dict[str, Any] | None:
    """Return a document of OME-NGFF metadata, or None if it does not exist."""
    content = read_small_file(below(location, name))
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"{name} of {location} is not JSON ({_short(error)})."
        raise InputError(msg, "Copy or export the OME-Zarr again.") from error
    if not isinstance(found, dict):
        msg = f"{name} of {location} holds {_short(found)}; a JSON object is needed."
        raise InputError(msg, "Export the OME-Zarr again.")
    return found


def _objects(group: ZarrGroup, attributes: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = attributes.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise _broken(group, f"its {key!r} are {_short(found)}")
    return found


def _axes(group: ZarrGroup, axes: Any, ndim: int) -> tuple[str, list[str | None]]:
    """Return the axes of OME-NGFF metadata as letters ("TCZYX"), and the unit of each."""
    if axes is None:  # before 0.3 all images had five axes
        axes = [*"tczyx"] if ndim == 5 else None
    if not isinstance(axes, list) or len(axes) != ndim:
        raise _broken(group, f"its axes are {_short(axes)}, its array has {ndim}")
    described = [{"name": one} if isinstance(one, str) else one for one in axes]
    if not all(isinstance(one, dict) for one in described):
        raise _broken(group, f"its axes are {_short(axes)}")
    kinds = {"channel": "C", "time": "T"}
    letters = [kinds.get(str(one.get("type")), str(one.get("name", ""))[:1].upper()) for one in described]
    if len(set(letters)) != ndim or not {"Y", "X"} <= set(letters):
        raise _broken(group, f"its axes are {_short(axes)}; one y, one x and one channel axis are needed")
    units = [one.get("unit") for one in described]
    return "".join(letters), [unit if isinstance(unit, str) else None for unit in units]


def _axes_of_system(multiscale: dict[str, Any], dataset: dict[str, Any]) -> Any:
    """Return the axes of the NGFF coordinate system (0.6) that a level is transformed into, or of the first."""
    systems = multiscale.get("coordinateSystems")
    systems = [one for one in systems if isinstance(one, dict)] if isinstance(systems, list) else []
    outputs = [one.get("output") for one in _transformations(dataset)]
    names = [one.get("name") if isinstance(one, dict) else one for one in outputs]
    wanted = [one for one in systems if one.get("name") in names]
    return next((one.get("axes") for one in [*wanted, *systems]), None)


def _scale(holder: dict[str, Any], axis: int, key: str = "coordinateTransformations") -> float:
    """Return the scale of an axis by NGFF's transformations of a level or of a whole multiscale; NaN if it has none.

    Rotations and other transformations that do not keep the axes have no scale.
    """
    factor = 1.0
    for one in _transformations(holder, key):
        kind, scale = one.get("type"), one.get("scale")
        if kind == "sequence":
            factor *= _scale(one, axis, "transformations")
        elif kind == "scale" and isinstance(scale, list) and len(scale) > axis and isinstance(scale[axis], int | float):
            factor *= scale[axis]
        elif kind not in ("scale", "translation", "identity"):
            factor = math.nan
    return factor


def _transformations(holder: dict[str, Any], key: str = "coordinateTransformations") -> list[dict[str, Any]]:
    found = holder.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _omero_labels(group: ZarrGroup) -> tuple[str, ...]:
    omero = group.attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    return tuple(str(one.get("label") or "").strip() if isinstance(one, dict) else "" for one in channels)


def _names(names: Any) -> list[str] | None:
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else None


def _compression(array: "zarr.Array") -> str:
    codecs = [type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors]
    return "+".join(codecs) if codecs else "none"


def _broken(group: ZarrGroup, reason: str) -> InputError:
    return InputError(f"the OME-Zarr metadata of {group.name} is invalid ({reason}).", "Export it again.")


def _short(thing: Any) -> str:
    text = " ".join(str(thing).split()) or type(thing).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _level_of(group: "zarr.Group", number: int) -> "zarr.Array":
    import zarr

    level = group[str(number)]
    assert isinstance(level, zarr.Array)
    return level


def _create_level(group: "zarr.Group", number: int, shape_px: tuple[int, int]) -> "zarr.Array":
    is_05 = group.metadata.zarr_format == 3
    chunk_px = _LABEL_CHUNK_PX["0.5" if is_05 else "0.4"]
    chunks = (min(chunk_px, shape_px[0]), min(chunk_px, shape_px[1]))
    how: dict[str, Any] = (
        {"dimension_names": ("y", "x")} if is_05 else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    )
    return group.create_array(
        str(number), shape=shape_px, chunks=chunks, dtype="uint32", fill_value=0, overwrite=True, **how
    )


def _halve(fine: "zarr.Array", coarse: "zarr.Array", workers: int) -> None:
    def write(window: Window) -> None:
        rows, columns = (slice(2 * one.start, 2 * one.stop) for one in window)
        coarse[window] = np.asarray(fine[rows, columns])[::2, ::2]

    chunks = TileGrid((coarse.shape[0], coarse.shape[1]), (coarse.chunks[0], coarse.chunks[1]))
    for _ in track(map_in_order(write, chunks, workers), f"Writing level {coarse.basename}", total=len(chunks)):
        pass


def _multiscale(levels: Sequence["zarr.Array"], pixel_size_um: float) -> dict[str, Any]:
    """Return the axes and levels of a label image as NGFF describes them."""
    datasets = [
        {
            "path": level.basename,
            "coordinateTransformations": [{"type": "scale", "scale": [pixel_size_um * (1 << number)] * 2}],
        }
        for number, level in enumerate(levels)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    return {"axes": axes, "datasets": datasets}
