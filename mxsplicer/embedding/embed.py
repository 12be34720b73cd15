"""Embedding: a trained encoder and the cells of slides become an AnnData.

z of a cell depends on its patch and on the weights alone: patches pass the encoder in groups of one fixed size, filled
up at the end, in float32, so neither the block nor the number of workers nor what else is embedded moves a digit.

z of all cells of a slide can be larger than memory, so there is one way for slides of any size: each block is embedded
and written to a file of its own, whole or not at all; at the end these become one AnnData file, some rows at a time.
Interrupted, the same call embeds the blocks that are missing.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import torch

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide
from mxsplicer.patches.blocks import choose_patch_px
from mxsplicer.patches.extraction import stream_blocks
from mxsplicer.patches.store import Block, PatchStore
from mxsplicer.splicer.batches import Normalization
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.encoders import folded
from mxsplicer.splicer.run import Run, check_panel
from mxsplicer.splicer.scales import has_own_scales, in_order
from mxsplicer.system.files import atomic_write, remove_partial
from mxsplicer.system.fingerprints import fingerprint, fingerprint_arrays
from mxsplicer.system.memory import give_back
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)

# Patches in one pass; fixed for a kind of processor, because another number may round differently.
_AT_ONCE = {"cpu": 64, "cuda": 256, "mps": 256}
_ROWS, _FEATURES = 4096, 16  # a piece of z in the file: all features of some cells, and some of all, read about as fast
_VERSION = 1  # of the files of blocks

_OBS = (
    "x_px",
    "y_px",
    "area_um2",
    "eccentricity",
    "major_axis_um",
    "minor_axis_um",
    "orientation",
    "at_border",
    "nucleus_area_um2",
    "patch_valid_fraction",
)


@dataclass(frozen=True, eq=False)
class Source:
    """Cells to embed: the blocks of a store, or of a slide as they are cut."""

    name: str
    markers: tuple[str, ...]
    patch_px: int
    pixel_size_um: float
    blocks: Callable[[Collection[int]], Iterator[Block]]  # all but those of the numbers given
    ledger: Mapping[str, int] = field(default_factory=dict)
    cells: Cells | None = None  # whose further measures become layers
    normalization: Normalization | None = None  # the slide's own, for a run that wants one
    made_from: str = ""  # tells these cells of this image from others: an interrupted embedding goes on with no others

    def measures_of(self, cell_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what was measured of some cells beside their mean intensities, each (n, C)."""
        if self.cells is None or not self.cells.measures:
            return {}
        rows = self._ids.get_indexer(pd.Index(cell_ids))
        return {name: values[rows] for name, values in self.cells.measures.items()}

    @cached_property
    def _ids(self) -> Any:
        assert self.cells is not None
        return pd.Index(self.cells.table["cell_id"].to_numpy())


def from_store(store: PatchStore, *, cells: Cells | None = None, normalization: Normalization | None = None) -> Source:
    """Return the cells of a patch store as something to embed; ``cells`` brings what else was measured of them.

    ``normalization`` is the slide's own, for a run trained with one for each slide.
    """

    def blocks(skip: Collection[int]) -> Iterator[Block]:
        numbers = [number for number in range(store.n_blocks) if number not in skip]
        read = (store.read_block(number) for number in numbers)
        return track(read, f"Embedding {store.slide_name}", total=store.n_blocks, start=store.n_blocks - len(numbers))

    return Source(
        name=store.slide_name,
        markers=store.markers,
        patch_px=store.patch_px,
        pixel_size_um=store.pixel_size_um,
        blocks=blocks,
        ledger=store.ledger,
        cells=cells,
        normalization=normalization,
        made_from=json.dumps(store.made_from, sort_keys=True),
    )


def from_slide(
    slide: Slide,
    mask: LazyImage,
    cells: Cells,
    *,
    patch_size_um: float,
    normalization: Normalization | None = None,
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> Source:
    """Return the cells of a slide as something to embed; patches are cut as they are needed and kept nowhere.

    ``normalization`` is the slide's own, for a run trained with one for each slide. ``workers``, ``executor`` and
    ``max_bytes`` are those of :func:`~mxsplicer.patches.extraction.stream_blocks`.
    """

    def blocks(skip: Collection[int]) -> Iterator[Block]:
        return stream_blocks(
            slide,
            mask,
            cells,
            patch_size_um=patch_size_um,
            skip=skip,
            workers=workers,
            executor=executor,
            max_bytes=max_bytes,
        )

    return Source(
        name=slide.name,
        markers=slide.markers,
        patch_px=choose_patch_px(slide, patch_size_um),
        pixel_size_um=slide.pixel_size_um,
        blocks=blocks,
        ledger=cells.ledger,
        cells=cells,
        normalization=normalization,
        made_from=f"{fingerprint(slide.path) if slide.path else ''} {cells.fingerprint()}",
    )


def embed(
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    device: str = "auto",
) -> anndata.AnnData:
    """Return the cells of one or more slides with their learned representation, one row per cell.

    All of z is held in memory; :func:`embed_to_file` is for more cells than that allows. On its way it lies in the
    folder of temporary files.

    Parameters
    ----------
    run
        The trained encoder; its z goes to ``obsm["X_splicer"]``, or ``obsm["X_joint"]`` where that was its objective.
    sources
        Patch stores, or slides by :func:`from_slide`. Channels are matched to the run's markers by name.
    baselines
        Further encoders of the same input, by the key of ``obsm`` that they fill.

    Returns
    -------
    ``X`` mean raw intensity (N, markers); ``obsm["spatial"]`` (x, y) in µm; ``obs`` as docs/reference.md lists it.

    Raises
    ------
    InputError
        If a slide lacks a marker of the run, or differs from it in patch or pixel size.
    """
    with TemporaryDirectory(prefix="mxsplicer-") as folder:
        path = Path(folder) / "cells.h5ad"
        embed_to_file(path, run, sources, baselines=baselines, device=device, compression=None)
        return anndata.read_h5ad(path)


def embed_to_file(
    path: str | Path,
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    device: str = "auto",
    compression: str | None = "gzip",
) -> Path:
    """Write the AnnData of :func:`embed` to an h5ad file; memory holds a block of cells at a time, and their table.

    Until the file is whole, what is done lies in ``<path>.blocks``, and the same call goes on there. Read it with
    ``anndata.read_h5ad``, or with :func:`open_cells` where z does not fit into memory.

    Parameters
    ----------
    path
        The file to write; one that is there is replaced.
    run, sources, baselines, device
        As for :func:`embed`.
    compression
        ``"gzip"``, ``"lzf"`` or None.

    Raises
    ------
    InputError
        As :func:`embed`.
    """
    embed_blocks(path, run, sources, baselines=baselines, device=device)
    return join_blocks(path, compression=compression)


def embed_blocks(
    path: str | Path,
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    device: str = "auto",
    fill_missing: bool = False,
    when_failing: Callable[[str, Exception], None] | None = None,
) -> None:
    """Do the first half of :func:`embed_to_file`: embed the blocks that ``<path>.blocks`` lacks.

    After it neither the slides nor the tables of their cells are needed, and their memory can be given back.

    With ``fill_missing`` the encoder sees a marker that a slide lacks at its mean over the training cells; the cells
    have its name in ``obs["missing_markers"]``, and 0 in X. ``when_failing`` is called with the name of a slide that
    could not be read to its end, and the error; unless it raises, the others go on, and :func:`join_blocks` has to be
    told which they are.
    """
    if isinstance(sources, Source | PatchStore):
        sources = [sources]
    several = [from_store(one) if isinstance(one, PatchStore) else one for one in sources]
    if has_own_scales(run):
        bare = next((one.name for one in several if one.normalization is None), None)
        if bare is not None:
            msg = (
                f"the model wants slides normalised each by its own numbers, and for {bare!r} none are given: measure "
                "them by measure_normalization on a sample of its patches, or use embed_slides."
            )
            raise InputError(msg)
    names = [source.name for source in several]
    if len(set(names)) < len(names):
        msg = f"two slides are called {next(n for n in names if names.count(n) > 1)!r}. Give them different file names."
        raise InputError(msg)
    runs = {f"X_{run.method}": run, **(baselines or {})}
    channels = {
        s.name: check_panel(run, s.name, s.markers, s.patch_px, s.pixel_size_um, fill_missing=fill_missing)
        for s in several
    }
    for name, places in channels.items():
        missing = [marker for marker, place in zip(run.markers, places, strict=True) if place < 0]
        if missing:
            logger.warning(
                "slide %s lacks %s: its cells are embedded as if each had the mean of the training cells there, and "
                "are marked in obs['missing_markers']",
                name,
                ", ".join(missing),
            )
    where = find_device(device)
    work = _begin(_blocks_of(path), runs, several, where)
    for source in several:
        try:
            _embed_blocks(source, channels[source.name], runs, where, work[source.name])
        except Exception as error:
            if when_failing is None:
                raise
            when_failing(source.name, error)


def join_blocks(path: str | Path, *, slides: Sequence[str] | None = None, compression: str | None = "gzip") -> Path:
    """Do the second half of :func:`embed_to_file`: write the blocks as one AnnData file, and remove them.

    Where ``slides`` are named, the file holds those alone.
    """
    path, work = Path(path), _blocks_of(path)
    about = json.loads((work / "embedding.json").read_text(encoding="utf-8"))
    numbered = [(i, one) for i, one in enumerate(about["slides"]) if slides is None or one["name"] in slides]
    files = {slide["name"]: sorted((work / str(i)).glob("*.npz")) for i, slide in numbered}
    ledgers = {
        key: {slide["name"]: slide[key] for _, slide in numbered if slide[key]}
        for key in ("ledger", "nuclei_ledger")
        if any(slide[key] for _, slide in numbered)
    }
    missing = {slide["name"]: slide.get("missing", []) for _, slide in numbered}
    scales = {slide["name"]: slide["normalization"] for _, slide in numbered if slide.get("normalization")}
    of_slides = {**ledgers, **({"normalization": scales} if scales else {})}
    with atomic_write(path) as temporary:
        _write(temporary, files, about["markers"], of_slides, missing, compression)
    shutil.rmtree(work)
    return path


@contextmanager
def open_cells(path: str | Path) -> Iterator[anndata.AnnData]:
    """Open an AnnData file with its learned representations left on disk.

    In the ``with`` block ``obsm["X_splicer"]`` and the like are h5py datasets, of which slices are read as they are
    asked for. All else is in memory, and may be changed there; the file stays as it is.
    """
    with h5py.File(path, "r") as file:
        read = {key: anndata.io.read_elem(file[key]) for key in ("X", "obs", "var", "varm", "layers", "uns")}
        obsm = {key: one if _is_wide(one) else anndata.io.read_elem(one) for key, one in file["obsm"].items()}
        give_back()  # the table of millions of cells was there twice on its way
        yield anndata.AnnData(**read, obsm=obsm)


def save_cells(adata: anndata.AnnData, path: str | Path, *, embedded: str | Path, layers: Collection[str] = ()) -> None:
    """Write cells that :func:`open_cells` opened, with all that was added to them.

    Parameters
    ----------
    path
        The file to write; it appears when it is whole.
    embedded
        The file that they were opened from: X, layers and representations are copied as they lie there.
    layers
        Those that changed; new ones are written in any case.
    """
    path = Path(path)
    with atomic_write(path) as temporary:
        shutil.copyfile(embedded, temporary)
        with h5py.File(temporary, "r+") as file:
            for key in ("obs", "var"):
                _write_elem(file, key, getattr(adata, key))
            for key in ("varm", "uns"):
                _write_elem(file, key, dict(getattr(adata, key)))
            for key, one in adata.obsm.items():
                if not isinstance(one, h5py.Dataset):
                    _write_elem(file["obsm"], key, one)
            for key, one in adata.layers.items():
                if key in layers or key not in file["layers"]:
                    _write_elem(file["layers"], key, one)


def encode_patches(
    run: Run, patches: np.ndarray, regions: np.ndarray, *, missing: Sequence[int] = (), device: str = "auto"
) -> np.ndarray:
    """Return z (n, d) float32 of some patches, to the last digit as :func:`embed` has it on the same kind of device.

    Parameters
    ----------
    run
        The trained encoder.
    patches
        (n, C, P, P) as :func:`mxsplicer.cut_patches` returns them, the channels in the order of the run's markers.
    regions
        (n, P, P), of the same cells.
    missing
        Numbers of the run's markers that the slide lacks; what stands there in the patches is not looked at.
    device
        As for :func:`embed`.
    """
    where = find_device(device)
    encoder = _for_embedding(run.encoder, where)
    z = [
        _encode(encoder, run.normalize(some, of_some, missing=missing, device=where))[:n]
        for n, some, of_some in _groups(patches, regions, _AT_ONCE[where.type])
    ]
    return np.concatenate(z) if z else np.empty((0, run.features), np.float32)


def encode_inputs(run: Run, x: torch.Tensor, *, device: str = "auto") -> np.ndarray:
    """Return z (n, d) float32 of patches x (n, C, P, P) that the run has normalised, as :func:`embed` computes it."""
    where = find_device(device)
    encoder = _for_embedding(run.encoder, where)
    parts = x.split(_AT_ONCE[where.type])  # type: ignore[no-untyped-call]
    return np.concatenate([_encode(encoder, part.to(where, memory_format=torch.channels_last)) for part in parts])


def seconds_per_cell(encoder: torch.nn.Module, patch_shape: tuple[int, int, int], *, device: str = "auto") -> float:
    """Return how long an encoder takes for one patch (C, P, P), measured on noise."""
    where = find_device(device)
    encoder = _for_embedding(encoder, where)
    x = torch.randn(_AT_ONCE[where.type], *patch_shape, device=where).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        encoder(x)[0, 0].item()  # the first pass sets things up; reading a number waits for the device
        began = time.perf_counter()
        encoder(x)[0, 0].item()
    return (time.perf_counter() - began) / len(x)


def _blocks_of(path: str | Path) -> Path:
    path = Path(path)
    return path.with_name(path.name + ".blocks")


def _begin(work: Path, runs: Mapping[str, Run], sources: Sequence[Source], device: torch.device) -> dict[str, Path]:
    """Return the folder of each slide's blocks: new ones, or those of an interrupted call for the same thing."""
    markers = next(iter(runs.values())).markers
    meant: dict[str, Any] = {
        "version": _VERSION,
        "runs": {key: _digest(run.encoder) for key, run in runs.items()},
        "markers": list(markers),
        "slides": [
            {
                "name": source.name,
                "markers": list(source.markers),
                "patch_px": source.patch_px,
                "pixel_size_um": source.pixel_size_um,
                "ledger": dict(source.ledger),
                "nuclei_ledger": dict(source.cells.nuclei_ledger) if source.cells else {},
                "made_from": source.made_from,
                "normalization": _own_scale(next(iter(runs.values())), source),
                "missing": [marker for marker in markers if marker not in source.markers],
            }
            for source in sources
        ],
        "device": device.type,  # one kind of processor rounds otherwise than another
    }
    header = work / "embedding.json"
    begun: dict[str, Any] = json.loads(header.read_text(encoding="utf-8")) if header.is_file() else {"slides": []}
    # Some of the slides it was begun with may have failed since.
    if {**begun, "slides": [slide for slide in begun["slides"] if slide in meant["slides"]]} != meant:
        if work.exists():
            logger.info("%s is of another embedding; it is begun anew", work)
            shutil.rmtree(work)
        work.mkdir(parents=True)
        header.write_text(json.dumps(meant), encoding="utf-8")
        begun = meant
    return {slide["name"]: work / str(number) for number, slide in enumerate(begun["slides"])}


def _own_scale(run: Run, source: Source) -> dict[str, list[float]] | None:
    return source.normalization.to_dict() if has_own_scales(run) and source.normalization is not None else None


def _digest(encoder: torch.nn.Module) -> str:
    weights = encoder.state_dict().items()
    return fingerprint_arrays(one for name, tensor in weights for one in (name.encode(), tensor.cpu().numpy()))


def _embed_blocks(
    source: Source, channels: list[int], runs: Mapping[str, Run], device: torch.device, folder: Path
) -> None:
    """Embed the blocks that ``folder`` lacks."""
    folder.mkdir(exist_ok=True)
    remove_partial(folder)  # of a block whose writing was killed
    done = {int(file.stem) for file in folder.glob("*.npz")}
    encoders = {key: _for_embedding(run.encoder, device) for key, run in runs.items()}
    main = next(iter(runs.values()))  # a run and its baselines take the same input
    if has_own_scales(main) and source.normalization is not None:
        main = replace(main, normalization=in_order(source.normalization, channels))
    missing = [marker for marker, channel in enumerate(channels) if channel < 0]
    taken = slice(None) if channels == [*range(len(source.markers))] else channels  # a slice copies nothing
    for block in source.blocks(done):
        z: dict[str, list[np.ndarray]] = {key: [] for key in runs}
        for n, patches, regions in _groups(block.patches, block.regions, _AT_ONCE[device.type]):
            x = main.normalize(patches[:, taken], regions, missing=missing, device=device)
            for key in runs:
                z[key].append(_encode(encoders[key], x)[:n])
        arrays: dict[str, Any] = {f"cells/{column}": block.cells[column].to_numpy() for column in block.cells}
        arrays["X"] = block.intensities[:, channels].astype(np.float32)
        arrays["X"][:, missing] = 0
        arrays |= {f"obsm/{key}": np.concatenate(parts) for key, parts in z.items()}
        measures = source.measures_of(block.cells["cell_id"].to_numpy())
        arrays |= {f"layers/{name}": values[:, channels] for name, values in measures.items()}
        with atomic_write(folder / f"{block.number:07d}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)


def _groups(patches: np.ndarray, regions: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield a number of cells, their patches and their regions, the arrays filled up to the fixed number."""
    n = len(patches)
    for start in range(0, n, size):
        rows: slice | np.ndarray = slice(start, start + size)  # a view; only the last group is copied
        if start + size > n:
            rows = np.arange(start, start + size)
            rows[rows >= n] = start
        yield min(size, n - start), patches[rows], regions[rows]


def _for_embedding(encoder: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return folded(encoder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def _encode(encoder: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    z: Any = encoder(x).float().cpu().numpy()
    return np.asarray(z, dtype=np.float32)


def _write(
    path: Path,
    blocks: Mapping[str, Sequence[Path]],
    markers: Sequence[str],
    of_slides: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, Sequence[str]],
    compression: str | None,
) -> None:
    """Write the blocks of all slides as one AnnData file."""
    files = [file for several in blocks.values() for file in several]
    # Column by column, and no AnnData object on the way: of millions of cells each copy is hundreds of megabytes.
    lengths = [sum(len(one) for one in _parts(several, "cells/cell_id")) for several in blocks.values()]
    slides, codes = list(blocks), np.repeat(np.arange(len(blocks)), lengths)
    obs: dict[str, Any] = {"cell_id": np.concatenate(list(_parts(files, "cells/cell_id")))}
    obs["slide"] = pd.Categorical.from_codes(codes, pd.Index(slides))
    with np.load(files[0]) as first:
        present = [column for column in _OBS if f"cells/{column}" in first.files]
        wide = [name for name in first.files if name.startswith(("X", "layers/", "obsm/"))]
    for column in present:
        obs[column] = np.concatenate(list(_parts(files, f"cells/{column}")))
    lacking = {name: list(markers_of) for name, markers_of in missing.items() if markers_of}
    if lacking:
        said = [", ".join(lacking.get(name, [])) for name in slides]
        obs["missing_markers"] = pd.Categorical(np.array(said, dtype=object)[codes])
    about: dict[str, Any] = {**of_slides, **({"missing_markers": lacking} if lacking else {})}
    names = pd.Index([f"{slides[code]}_{cell}" for code, cell in zip(codes, obs["cell_id"], strict=True)])
    spatial = np.stack([np.concatenate(list(_parts(files, f"cells/{axis}"))) for axis in "xy"], axis=1)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        elements = {
            "obs": pd.DataFrame(obs, index=names, copy=False),
            "var": pd.DataFrame(index=pd.Index(markers)),
            "obsm": {"spatial": spatial},
            "uns": {"mxsplicer": about} if about else {},
            **{key: {} for key in ("varm", "layers", "obsp", "varp")},
        }
        for key, element in elements.items():
            _write_elem(file, key, element, compression)
        for name in wide:
            for start, rows in track(_long_rows(_parts(files, name)), "Writing", total=-(-len(names) // _ROWS)):
                if start == 0:
                    shape = (len(names), rows.shape[1])
                    chunks = (min(_ROWS, shape[0]), min(_FEATURES, shape[1]))
                    array = file.create_dataset(name, shape, np.float32, chunks=chunks, compression=compression)
                    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                file[name][start : start + len(rows)] = rows


def _parts(files: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """Yield an array of each block."""
    for path in files:
        with np.load(path) as block:
            yield block[name]


def _long_rows(parts: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield where rows begin and the rows themselves, as many at a time as a piece of the file holds."""
    held: list[np.ndarray] = []
    start = 0
    for part in parts:
        held.append(part)
        while sum(map(len, held)) >= _ROWS:
            rows = np.concatenate(held)
            yield start, rows[:_ROWS]
            start, held = start + _ROWS, [rows[_ROWS:]]
    rows = np.concatenate(held)
    if len(rows):
        yield start, rows


def _write_elem(group: h5py.Group, key: str, value: Any, compression: str | None = "gzip") -> None:
    anndata.io.write_elem(group, key, value, dataset_kwargs={"compression": compression})


def _is_wide(element: h5py.Group | h5py.Dataset) -> bool:
    # Places in the tissue and on maps are as good as nothing beside features, and wanted whole.
    return isinstance(element, h5py.Dataset) and element.ndim == 2 and element.shape[1] > 3
