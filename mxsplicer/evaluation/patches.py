"""Patches of scored cells, for the baselines that need pixels: stored patches, or patches cut again from the slides."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.decomposition import PCA

from mxsplicer.cells.measure import Cells
from mxsplicer.embedding.encode import encode_inputs
from mxsplicer.errors import InputError
from mxsplicer.patches.closed_form import describe_in_closed_form
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.result.folder import open_result
from mxsplicer.result.slides import open_images
from mxsplicer.splicer.run import Run, channels_of_run, load_run, untrained
from mxsplicer.splicer.slide_normalization import run_at_gain
from mxsplicer.system.progress import track
from mxsplicer.tl.representations import PIXEL_PCA, UNTRAINED, key_of

_N_COMPONENTS = 64  # of the PCA of pixels
_FIT_BYTES = 256 << 20  # of patches in memory while the PCA is fitted
_MAX_FIT_CELLS = 2_000
_MIN_FIT_CELLS = 200
_BATCH = 256  # patches in memory at once
_MIN_CELLS = 100  # with fewer patches no baseline is computed
_CONSEQUENCE = (
    "so baselines that need pixels have no scores unless they are stored with the cells (the untrained encoder, "
    "compartment statistics, the mean of the blurred image), and the permutation importance is that of mean intensity "
    "only"
)


@dataclass(eq=False)
class SamplePatches:
    """Patches of some cells that are scored, and the run that embeds them."""

    run: Run
    rows: np.ndarray  # cells of the sample that have a patch, ascending
    stores: list[PatchStore]
    channels: list[list[int]]  # of each store, in the order of the run's markers
    store_of: np.ndarray  # index of the store of each cell of the sample, -1 where it has no patch
    row_of: np.ndarray  # row of each cell in its store
    device: str
    _cache: tuple[np.ndarray, torch.Tensor] | None = None

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """Return the normalised patches (n, C, P, P) of cells of the sample."""
        out = torch.empty(len(rows), len(self.run.markers), self.run.patch_px, self.run.patch_px)
        for number, store in enumerate(self.stores):
            here = np.flatnonzero(self.store_of[rows] == number)
            if len(here):
                patches, regions = store.read_rows(self.row_of[rows[here]])
                run = run_at_gain(self.run, store.spread, self.channels[number])
                out[here] = run.normalize(patches[:, self.channels[number]], regions)
        return out

    def describe_in_closed_form(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the baselines without training by their key of ``obsm``, each (n, columns)."""
        out: dict[str, np.ndarray] = {}
        bright = self.run.normalization.high.cpu().numpy()
        for number, store in enumerate(self.stores):
            here = np.flatnonzero(self.store_of[rows] == number)
            if len(here):
                patches, regions = store.read_rows(self.row_of[rows[here]])
                described = describe_in_closed_form(patches, regions, self.channels[number], bright=bright)
                for key, values in described.items():
                    out.setdefault(key, np.empty((len(rows), values.shape[1]), np.float32))[here] = values
        return out

    def compute_baselines(self, sample: AnnData, *, seed: int) -> dict[str, np.ndarray]:
        """Return by key of ``obsm`` the PCA of pixels and, where the sample lacks them, the other baselines."""
        shape = (len(self.run.markers), self.run.patch_px, self.run.patch_px)
        n_in_memory = max(_MIN_FIT_CELLS, _FIT_BYTES // (4 * int(np.prod(shape))))
        n_fit = min(_MAX_FIT_CELLS, n_in_memory, len(self.rows))
        chosen = np.sort(np.random.default_rng(seed).choice(self.rows, n_fit, replace=False))
        pca = PCA(min(_N_COMPONENTS, n_fit - 1), svd_solver="randomized", random_state=seed)
        pca.fit(self.read(chosen).reshape(n_fit, -1).numpy())
        is_known = key_of(UNTRAINED) in sample.obsm or not self.run.is_trained
        encoder = None if is_known else untrained(self.run, seed=seed)
        found: dict[str, list[np.ndarray]] = {}
        for start in track(range(0, len(self.rows), _BATCH), "Reading patches for the baselines"):
            rows = self.rows[start : start + _BATCH]
            x = self.read(rows)
            of_batch = {} if encoder is None else {key_of(UNTRAINED): encode_inputs(encoder, x, device=self.device)}
            if not {"X_compartments", "X_blurred"} <= set(sample.obsm):
                of_batch |= self.describe_in_closed_form(rows)
            of_batch[key_of(PIXEL_PCA)] = pca.transform(x.reshape(len(x), -1).numpy()).astype(np.float32)
            for key, values in of_batch.items():
                found.setdefault(key, []).append(values)
        return {key: np.concatenate(batches) for key, batches in found.items()}

    def embed_permuted(self, rows: np.ndarray, donors: np.ndarray, marker: int | None) -> np.ndarray:
        """Return z (n, d) of cells whose signal in one marker comes from ``donors``, a permutation of ``rows``."""
        if self._cache is None or not np.array_equal(self._cache[0], rows):
            self._cache = rows.copy(), self.read(rows)
        x = self._cache[1]
        if marker is not None:
            x = x.clone()
            x[:, marker] = self._cache[1][np.searchsorted(rows, donors), marker]
        return encode_inputs(self.run, x, device=self.device)


@contextmanager
def open_patches(
    sample: AnnData, result: Path | None, notes: list[str], *, n_cells: int, seed: int, encoder: str, device: str
) -> Iterator[SamplePatches | None]:
    """Open the patches of some cells to score: stored patches, or patches cut again from the slides.

    Where no patches can be read, None is yielded and the reason is appended to ``notes``.
    """
    if result is None:
        notes.append(f"No patches were read (no result folder, or images are switched off), {_CONSEQUENCE}.")
        yield None
        return
    with TemporaryDirectory(prefix="mxsplicer-") as folder:
        try:
            patches = _find_patches(sample, result, n_cells, seed, encoder, device, Path(folder))
        except InputError as error:
            notes.append(f"No patches were read, {_CONSEQUENCE}: {error}")
            yield None
            return
        if len(patches.rows) < min(n_cells, sample.n_obs, _MIN_CELLS):
            notes.append(f"Neither the patches of the scored cells nor their slides were found, {_CONSEQUENCE}.")
            yield None
            return
        yield patches


def _find_patches(
    sample: AnnData, result: Path, n_cells: int, seed: int, encoder: str, device: str, folder: Path
) -> SamplePatches:
    """Return the patches of at most ``n_cells`` cells to score; those cut again are written into ``folder``."""
    index = open_result(result)
    rows = np.sort(np.random.default_rng(seed).permutation(sample.n_obs)[:n_cells])
    run = load_run(result / index["files"]["run"], encoder=encoder)
    stores = _stored_patches(result, index)
    store_of, row_of = _locate(sample, stores)
    if (store_of[rows] < 0).any():  # a large slide stores only its training cells, or no patches at all
        cut = _cut_patches(sample, result, rows, run, folder)
        if cut:
            stores = cut
            store_of, row_of = _locate(sample, cut)
    rows = rows[store_of[rows] >= 0]
    channels = [channels_of_run(run, s.slide_name, s.markers, s.patch_px, s.pixel_size_um) for s in stores]
    return SamplePatches(run, rows, stores, channels, store_of, row_of, device)


def _stored_patches(result: Path, index: Mapping[str, Any]) -> list[PatchStore]:
    paths = [result / one["patches"] for one in index["slides"] if one["patches"]]
    return [PatchStore.open(path) for path in paths if path.exists()]


def _locate(sample: AnnData, stores: Sequence[PatchStore]) -> tuple[np.ndarray, np.ndarray]:
    """Return the store that holds the patch of each scored cell, -1 where none does, and the row of the cell in it."""
    slides, ids = sample.obs["slide"].astype(str).to_numpy(), sample.obs["cell_id"].to_numpy()
    store_of, row_of = np.full(sample.n_obs, -1), np.zeros(sample.n_obs, dtype=np.int64)
    for number, store in enumerate(stores):
        here = np.flatnonzero(slides == store.slide_name)
        found = pd.Index(store.cells["cell_id"]).get_indexer(pd.Index(ids[here]))
        row_of[here] = np.maximum(found, 0)
        store_of[here[found >= 0]] = number
    return store_of, row_of


def _cut_patches(sample: AnnData, result: Path, rows: np.ndarray, run: Run, folder: Path) -> list[PatchStore]:
    """Cut patches of some cells to score from those slides that can still be opened."""
    stores = []
    names = sample.obs["slide"].astype(str).to_numpy()
    for number, (slide, mask) in enumerate(zip(*open_images(result), strict=True)):
        here = rows[names[rows] == slide.name]
        if not len(here):
            continue
        table = sample.obs.iloc[here][["cell_id", "x_px", "y_px"]].reset_index(drop=True)
        table[["x", "y"]] = sample.obsm["spatial"][here]
        # Cutting reads ids and centroids only, so the intensities of these cells stay 0.
        cells = Cells(
            table,
            np.zeros((len(here), len(slide.markers)), dtype=np.float32),
            {"in mask": len(here), "kept": len(here)},
            slide.markers,
        )
        size_um = run.patch_px * slide.pixel_size_um
        stores.append(extract_patches(slide, mask, folder / f"{number}.zarr", patch_size_um=size_um, cells=cells))
    return stores
