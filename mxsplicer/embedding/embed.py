"""Embed slides: a trained encoder and the cells of slides become an AnnData.

z of all cells of a slide can be larger than memory. So there is one way for slides of any size: each block of cells is
embedded and written to a journal (:mod:`mxsplicer.embedding.journal`); at the end the blocks become one AnnData file, a
few thousand rows at a time. After an interruption the same call embeds the blocks that are missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata
import numpy as np
import torch

from mxsplicer.embedding.encode import PatchEncoders
from mxsplicer.embedding.h5ad import write_blocks
from mxsplicer.embedding.journal import BlockJournal, SlideBlocks
from mxsplicer.embedding.sources import Source, from_store
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.closed_form import describe_in_closed_form
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.run import Run, channels_of_run, weights_digest
from mxsplicer.splicer.slide_normalization import corrects_gains, run_at_gain

logger = logging.getLogger(__name__)

_VERSION = 1  # of the journal
_CLOSED_FORM_VERSION = 1  # of the descriptions in closed form


def embed(
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    closed_form: bool = False,
    device: str = "auto",
) -> anndata.AnnData:
    """Return the cells of one or more slides with their representation, one row per cell.

    z of all cells is held in memory; use :func:`embed_to_file` for more cells than that allows. While it is computed it
    lies in the system's folder of temporary files.

    Parameters
    ----------
    run
        The trained encoder; its z goes to ``obsm["X_splicer"]``, or to ``obsm["X_joint"]`` if that was its objective.
    sources
        Patch stores, or slides by :func:`~mxsplicer.from_slide`. Channels are matched to the run's markers by name.
    baselines
        Further encoders of the same input, by the key of ``obsm`` that they fill.
    closed_form
        Also compute the baselines without any training: ``obsm["X_compartments"]``, means and standard deviations of
        log intensities in the rim and the interior of the cell, and ``obsm["X_blurred"]``, the mean of the image after
        a blur of one pixel.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns
    -------
    ``X`` mean raw intensity (N, markers); ``obsm["spatial"]`` (x, y) in µm; ``obs`` as docs/anndata.md lists it.

    Raises
    ------
    InputError
        If a slide lacks a marker of the run, or differs from it in patch or pixel size.
    """
    with TemporaryDirectory(prefix="mxsplicer-") as folder:
        path = Path(folder) / "adata.h5ad"
        embed_to_file(path, run, sources, baselines=baselines, closed_form=closed_form, device=device, compression=None)
        return anndata.read_h5ad(path)


def embed_to_file(
    path: str | Path,
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    closed_form: bool = False,
    device: str = "auto",
    compression: str | None = "gzip",
) -> Path:
    """Embed slides into an h5ad file, as :func:`embed` does in memory, which holds a block at a time and the table.

    Until the file is complete, finished blocks lie in ``<path>.blocks``, and the same call continues there. Read the
    file with ``anndata.read_h5ad``, or with :func:`~mxsplicer.open_cells` if z does not fit into memory.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    run, sources, baselines, closed_form, device
        As for :func:`embed`.
    compression
        ``"gzip"``, ``"lzf"`` or None.

    Raises
    ------
    InputError
        As :func:`embed`.
    """
    embed_blocks(path, run, sources, baselines=baselines, closed_form=closed_form, device=device)
    join_blocks(path, compression=compression)
    BlockJournal.of(path).remove()
    return Path(path)


def embed_blocks(
    path: str | Path,
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    closed_form: bool = False,
    device: str = "auto",
    fill_missing: bool = False,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> None:
    """Embed the blocks that the journal of ``path`` lacks: the first half of :func:`embed_to_file`.

    After it neither the slides nor the tables of their cells are needed, and their memory can be released.

    Parameters
    ----------
    path, run, sources, baselines, closed_form, device
        As for :func:`embed_to_file`.
    fill_missing
        Show the encoder a marker that a slide lacks at its mean over the training cells. These cells have its name in
        ``obs["missing_markers"]``, and 0 in X.
    on_failure
        Called with the name of a slide that could not be read to its end, and the error. Unless it raises, the other
        slides continue; name those to :func:`join_blocks`.
    """
    if isinstance(sources, Source | PatchStore):
        sources = [sources]
    several = [from_store(one) if isinstance(one, PatchStore) else one for one in sources]
    _check_sources(several)
    channels = {
        s.name: channels_of_run(run, s.name, s.markers, s.patch_px, s.pixel_size_um, fill_missing=fill_missing)
        for s in several
    }
    _warn_of_missing(run, channels)
    runs = {f"X_{run.method}": run, **(baselines or {})}
    where = find_device(device)
    journal = BlockJournal.of(path)
    journal.begin(
        {
            "version": _VERSION,
            "runs": {key: weights_digest(one.encoder) for key, one in runs.items()},
            "markers": list(run.markers),
            "slides": [source.describe(run.markers, with_spread=corrects_gains(run)) for source in several],
            "device": where.type,  # one kind of processor rounds differently from another
            **({"closed_form": _CLOSED_FORM_VERSION} if closed_form else {}),
        }
    )
    for source in several:
        try:
            _embed_source(
                source, channels[source.name], runs, where, journal.of_slide(source.name), closed_form=closed_form
            )
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(source.name, error)


def join_blocks(path: str | Path, *, slides: Sequence[str] | None = None, compression: str | None = "gzip") -> None:
    """Complete an embedding: join the blocks of its journal as one h5ad file, the rest of :func:`embed_to_file`.

    The journal stays, for a caller that changes the file in place; remove it by ``BlockJournal.of(path).remove()``.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    slides
        Names of the slides that it holds; by default all.
    compression
        ``"gzip"``, ``"lzf"`` or None.
    """
    journal = BlockJournal.of(path)
    header = journal.header
    chosen = [one for one in header["slides"] if slides is None or one["name"] in slides]
    by_slide = {
        key: {one["name"]: one[key] for one in chosen if one.get(key)} for key in ("ledger", "nuclei_ledger", "spread")
    }
    write_blocks(
        Path(path),
        {one["name"]: journal.of_slide(one["name"]).files() for one in chosen},
        markers=header["markers"],
        missing={one["name"]: one.get("missing", []) for one in chosen},
        uns={key: values for key, values in by_slide.items() if values},
        compression=compression,
    )


def _check_sources(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        msg = f"two slides are called {next(n for n in names if names.count(n) > 1)!r}."
        raise InputError(msg, "Give them different file names.")


def _warn_of_missing(run: Run, channels: Mapping[str, Sequence[int]]) -> None:
    for name, of_slide in channels.items():
        missing = [marker for marker, channel in zip(run.markers, of_slide, strict=True) if channel < 0]
        if missing:
            logger.warning(
                "slide %s lacks %s: its cells are embedded as if each had the mean of the training cells there, and "
                "are marked in obs['missing_markers']",
                name,
                ", ".join(missing),
            )


def _embed_source(
    source: Source,
    channels: list[int],
    runs: Mapping[str, Run],
    device: torch.device,
    blocks: SlideBlocks,
    *,
    closed_form: bool,
) -> None:
    """Embed the blocks of a slide that the journal lacks."""
    main = next(iter(runs.values()))  # a run and its baselines take the same input
    main = main if source.spread is None else run_at_gain(main, source.spread, channels)
    encoders = PatchEncoders(main, {key: run.encoder for key, run in runs.items()}, device)
    missing = [marker for marker, channel in enumerate(channels) if channel < 0]
    in_order_of_run = channels == [*range(len(source.markers))]
    for block in source.blocks(blocks.finished()):
        z = encoders.encode(
            block.patches, block.regions, channels=None if in_order_of_run else channels, missing=missing
        )
        if closed_form:
            bright = next(iter(runs.values())).normalization.high.cpu().numpy()
            z |= describe_in_closed_form(block.patches, block.regions, channels, bright=bright)
        blocks.write(block.number, _arrays_of(block, source, channels) | {f"obsm/{key}": one for key, one in z.items()})


def _arrays_of(block: Block, source: Source, channels: list[int]) -> dict[str, Any]:
    """Return what is embedded next to z: the table, the mean intensities and the layers of the cells of a block."""
    arrays: dict[str, Any] = {f"cells/{column}": block.cells[column].to_numpy() for column in block.cells}
    object_ids = source.object_ids_of(block.cells["cell_id"].to_numpy())
    if object_ids is not None:
        arrays["cells/object_id"] = object_ids
    arrays["X"] = block.intensities[:, channels].astype(np.float32)
    arrays["X"][:, [marker for marker, channel in enumerate(channels) if channel < 0]] = 0
    measures = source.measures_of(block.cells["cell_id"].to_numpy())
    return arrays | {f"layers/{name}": values[:, channels] for name, values in measures.items()}
