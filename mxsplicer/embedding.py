"""Embedding: a trained encoder and the cells of slides become an AnnData.

z of a cell depends on its patch and on the weights alone: patches pass the encoder in groups of one fixed size, filled
up at the end, in float32, so neither the block nor the number of workers nor what else is embedded moves a digit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import choose_patch_px, stream_blocks
from mxsplicer.patches.store import Block, PatchStore
from mxsplicer.progress import track
from mxsplicer.slides.cells import Cells
from mxsplicer.slides.slide import LazyImage, Slide
from mxsplicer.splicer.run import Run, check_panel

_AT_ONCE = 256  # patches in one pass; fixed, because another number may round differently

_OBS = (
    "x_px",
    "y_px",
    "area_um2",
    "eccentricity",
    "major_axis_um",
    "minor_axis_um",
    "at_border",
    "patch_valid_fraction",
)


@dataclass(frozen=True, eq=False)
class Source:
    """Cells to embed: the blocks of a store, or of a slide as they are cut."""

    name: str
    markers: tuple[str, ...]
    patch_px: int
    pixel_size_um: float
    blocks: Callable[[], Iterator[Block]]


def from_store(store: PatchStore) -> Source:
    """Return the cells of a patch store as something to embed."""

    def blocks() -> Iterator[Block]:
        return (store.read_block(number) for number in track(range(store.n_blocks), f"Embedding {store.slide_name}"))

    return Source(store.slide_name, store.markers, store.patch_px, store.pixel_size_um, blocks)


def from_slide(
    slide: Slide, mask: LazyImage, cells: Cells, *, patch_size_um: float, workers: int | None = None
) -> Source:
    """Return the cells of a slide as something to embed; patches are cut as they are needed and kept nowhere."""

    def blocks() -> Iterator[Block]:
        return stream_blocks(slide, mask, cells, patch_size_um=patch_size_um, workers=workers)

    return Source(slide.name, slide.markers, choose_patch_px(slide, patch_size_um), slide.pixel_size_um, blocks)


def embed(
    run: Run,
    sources: Source | PatchStore | Sequence[Source | PatchStore],
    *,
    baselines: Mapping[str, Run] | None = None,
    device: str = "auto",
) -> anndata.AnnData:
    """Return the cells of one or more slides with their learned representation, one row per cell.

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
    if isinstance(sources, Source | PatchStore):
        sources = [sources]
    several = [from_store(one) if isinstance(one, PatchStore) else one for one in sources]
    names = [source.name for source in several]
    if len(set(names)) < len(names):
        msg = f"two slides are called {next(n for n in names if names.count(n) > 1)!r}. Give them different file names."
        raise InputError(msg)
    runs = {f"X_{run.method}": run, **(baselines or {})}
    channels = {s.name: check_panel(run, s.name, s.markers, s.patch_px, s.pixel_size_um) for s in several}
    where = _device(device)
    for one in runs.values():
        one.encoder.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts = [_embed_slide(source, channels[source.name], runs, where) for source in several]
    adata = anndata.concat(parts, merge="same") if len(parts) > 1 else parts[0]
    adata.obs["slide"] = pd.Categorical(adata.obs["slide"], categories=names)
    return adata


def _embed_slide(source: Source, channels: list[int], runs: Mapping[str, Run], device: torch.device) -> anndata.AnnData:
    cells, intensities = [], []
    z: dict[str, list[np.ndarray]] = {key: [] for key in runs}
    main = next(iter(runs.values()))  # a run and its baselines take the same input
    for block in source.blocks():
        cells.append(block.cells)
        intensities.append(block.intensities[:, channels])
        for n, patches, regions in _groups(block):
            x = main.normalize(patches[:, channels], regions, device=device)
            for key, run in runs.items():
                z[key].append(_encode(run, x)[:n])
    table = pd.concat(cells, ignore_index=True)
    obs = pd.DataFrame({"cell_id": table["cell_id"].to_numpy(), "slide": source.name})
    obs = pd.concat([obs, table[[column for column in _OBS if column in table]]], axis=1)
    obs.index = pd.Index([f"{source.name}_{cell_id}" for cell_id in obs["cell_id"]])
    return anndata.AnnData(
        X=np.concatenate(intensities).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(main.markers)),
        obsm={"spatial": table[["x", "y"]].to_numpy()} | {key: np.concatenate(parts) for key, parts in z.items()},
    )


def _groups(block: Block) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield a number of cells, their patches and their regions, the arrays filled up to the fixed number."""
    n = len(block.rows)
    for start in range(0, n, _AT_ONCE):
        rows = np.arange(start, start + _AT_ONCE)
        rows[rows >= n] = start
        yield min(_AT_ONCE, n - start), block.patches[rows], block.regions[rows]


@torch.inference_mode()
def _encode(run: Run, x: torch.Tensor) -> np.ndarray:
    z: Any = run.encoder(x).float().cpu().numpy()
    return np.asarray(z, dtype=np.float32)


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
