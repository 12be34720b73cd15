"""The patches of scored cells, for the baselines that need pixels: kept ones, or new ones cut from the slides."""

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
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.result.folder import open_images, open_result
from mxsplicer.splicer.run import Run, check_panel, load_run, untrained
from mxsplicer.splicer.scales import of_store
from mxsplicer.system.progress import track
from mxsplicer.tl.representations import PIXEL_PCA, UNTRAINED

_COMPONENTS = 64  # of pixels
_BYTES_TO_FIT = 256 << 20  # of the patches that the components of pixels are found on
_MOST_TO_FIT = 2_000  # cells
_AT_ONCE = 256  # patches in memory


@dataclass(eq=False)
class Pictures:
    """Patches of some cells of a sample, and the run that embeds them."""

    run: Run
    rows: np.ndarray  # of the sample, ascending
    stores: list[PatchStore]
    channels: list[list[int]]  # of each store, in the order of the run's markers
    store_of: np.ndarray  # of each cell of the sample, -1 where it has no patch
    row_of: np.ndarray  # in that store
    device: str
    _held: tuple[np.ndarray, torch.Tensor] | None = None

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """Return the normalised patches (n, C, P, P) of cells of the sample."""
        out = torch.empty(len(rows), len(self.run.markers), self.run.patch_px, self.run.patch_px)
        for number, store in enumerate(self.stores):
            here = np.flatnonzero(self.store_of[rows] == number)
            if len(here):
                patches, regions = store.read_rows(self.row_of[rows[here]])
                run = of_store(self.run, store, self.channels[number])
                out[here] = run.normalize(patches[:, self.channels[number]], regions)
        return out

    def make_baselines(self, sample: AnnData, *, seed: int) -> list[tuple[str, np.ndarray]]:
        """Return z of the encoder, untrained, where the cells lack it, and the principal components of pixels."""
        shape = (len(self.run.markers), self.run.patch_px, self.run.patch_px)
        n_fit = min(_MOST_TO_FIT, max(200, _BYTES_TO_FIT // (4 * int(np.prod(shape)))), len(self.rows))
        chosen = np.sort(np.random.default_rng(seed).choice(self.rows, n_fit, replace=False))
        pca = PCA(min(_COMPONENTS, n_fit - 1), svd_solver="randomized", random_state=seed)
        pca.fit(self.read(chosen).reshape(n_fit, -1).numpy())
        fresh = None if "X_untrained" in sample.obsm else untrained(self.run, seed=seed)
        pixels, z = [], []
        for start in track(range(0, len(self.rows), _AT_ONCE), "Reading patches for the baselines"):
            x = self.read(self.rows[start : start + _AT_ONCE])
            pixels.append(pca.transform(x.reshape(len(x), -1).numpy()).astype(np.float32))
            if fresh is not None:
                z.append(encode_inputs(fresh, x, device=self.device))
        found = [(PIXEL_PCA, np.concatenate(pixels))]
        return [(UNTRAINED, np.concatenate(z)), *found] if z else found

    def exchanged(self, rows: np.ndarray, partners: np.ndarray, marker: int | None) -> np.ndarray:
        """Return z of cells that have one marker's signal from their partners, which are among the cells."""
        if self._held is None or not np.array_equal(self._held[0], rows):
            self._held = rows.copy(), self.read(rows)
        x = self._held[1]
        if marker is not None:
            x = x.clone()
            x[:, marker] = self._held[1][np.searchsorted(rows, partners), marker]
        return encode_inputs(self.run, x, device=self.device)


@contextmanager
def open_pictures(
    sample: AnnData, result: Path | None, notes: list[str], *, n_cells: int, seed: int, encoder: str, device: str
) -> Iterator[Pictures | None]:
    """Open the patches of a random part of a sample: those that were kept, or new ones cut from the slides.

    Where there are none, nothing is given and ``notes`` says why.
    """
    missing = (
        "so there are no scores of the encoder, untrained, or of pixels, and the reliance is that of mean intensity"
    )
    if result is None:
        notes.append(f"No patches were read (no result folder, or --no-images), {missing}.")
        yield None
        return
    index = open_result(result)
    n = min(n_cells, sample.n_obs)
    rows = np.sort(np.random.default_rng(seed).permutation(sample.n_obs)[:n])
    with TemporaryDirectory(prefix="mxsplicer-") as folder:
        try:
            run = load_run(result / index["files"]["run"], encoder=encoder)
            kept = _kept_stores(result, index)
            places = _places(sample, kept)
            if (places[0][rows] < 0).any():  # the training sample of a large slide, or none
                cut = _cut(sample, result, rows, run, Path(folder))
                if cut:
                    kept, places = cut, _places(sample, cut)
            rows = rows[places[0][rows] >= 0]
            channels = [check_panel(run, s.slide_name, s.markers, s.patch_px, s.pixel_size_um) for s in kept]
        except InputError as error:
            notes.append(f"No patches were read, {missing}: {error}")
            yield None
            return
        if len(rows) < min(n, 100):
            notes.append(f"Neither the patches of the scored cells nor their slides are where they were, {missing}.")
            yield None
            return
        yield Pictures(run, rows, kept, channels, *places, device)


def _kept_stores(result: Path, index: Mapping[str, Any]) -> list[PatchStore]:
    paths = [result / one["patches"] for one in index["slides"] if one["patches"]]
    return [PatchStore.open(path) for path in paths if path.exists()]


def _places(sample: AnnData, stores: Sequence[PatchStore]) -> tuple[np.ndarray, np.ndarray]:
    """Return the store that holds each cell, -1 where none does, and its row there."""
    slides, ids = sample.obs["slide"].astype(str).to_numpy(), sample.obs["cell_id"].to_numpy()
    store_of, row_of = np.full(sample.n_obs, -1), np.zeros(sample.n_obs, dtype=np.int64)
    for number, store in enumerate(stores):
        here = np.flatnonzero(slides == store.slide_name)
        found = pd.Index(store.cells["cell_id"]).get_indexer(pd.Index(ids[here]))
        row_of[here] = np.maximum(found, 0)
        store_of[here[found >= 0]] = number
    return store_of, row_of


def _cut(sample: AnnData, result: Path, rows: np.ndarray, run: Run, folder: Path) -> list[PatchStore]:
    """Cut patches of some cells from the slides that are still at hand."""
    stores = []
    names = sample.obs["slide"].astype(str).to_numpy()
    for number, (slide, mask) in enumerate(zip(*open_images(result), strict=True)):
        here = rows[names[rows] == slide.name]
        if not len(here):
            continue
        table = sample.obs.iloc[here][["cell_id", "x_px", "y_px"]].reset_index(drop=True)
        table[["x", "y"]] = sample.obsm["spatial"][here]
        # What is measured of cells anew is of no use here: places and ids are enough to cut.
        cells = Cells(
            table,
            np.zeros((len(here), len(slide.markers)), dtype=np.float32),
            {"in mask": len(here), "kept": len(here)},
            slide.markers,
        )
        size_um = float(run.settings["patch_size_um"])
        stores.append(extract_patches(slide, mask, folder / f"{number}.zarr", patch_size_um=size_um, cells=cells))
    return stores
