"""Time the report of a million cells and measure its memory, without training and segmentation.

Run ``python tests/benchmarks/bench_report.py FOLDER [--cells N] [--features D] [--index]``. The page is written to
FOLDER, and so is cells.h5ad as ``embed`` writes it: z gzipped in chunks of 4,096 cells and 16 features, 2 GB by
default. The slide is generated as it is read: 20 markers in tiles of 1,024 x 1,024 px, each decompressed by zlib as a
TIFF's would be. With ``--index`` the search for similar cells is timed instead, exhaustive and with an index.
"""

import argparse
import resource
import time
import zlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from mxsplicer import tl
from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.images.lazy_images import complete_key
from mxsplicer.images.slide import Slide
from mxsplicer.report import write_report

TILE, PITCH, N_MARKERS, N_CLUSTERS = 1024, 32, 20, 24


class MadeUp:
    """An image (C, Y, X) or (Y, X) whose tiles are all alike, and unpacked whenever one is read."""

    def __init__(self, shape: tuple[int, ...], dtype: type) -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)
        self.n_unpacked = 0
        pixels = np.random.default_rng(0).poisson(200, (TILE, TILE)).astype(np.uint16)
        self._packed = zlib.compress(pixels.tobytes(), 6)

    def __getitem__(self, key: object) -> np.ndarray:
        channels, rows, columns = (0, 0, *complete_key(key, self.ndim))[-3:]
        y, x = (np.arange(n)[one] for n, one in zip(self.shape[-2:], (rows, columns), strict=True))
        if self.ndim == 2:  # the mask: a square of 22 pixels in each square of 32
            inside = ((y % PITCH) < 22)[:, None] & ((x % PITCH) < 22)[None, :]
            across = self.shape[1] // PITCH
            return np.where(inside, (y // PITCH)[:, None] * across + (x // PITCH)[None, :] + 1, 0).astype(np.uint32)
        chosen = np.atleast_1d(np.arange(self.shape[0])[channels])
        out = np.empty((len(chosen), len(y), len(x)), self.dtype)
        for place in range(len(chosen)):
            for top in np.unique(y // TILE):
                for left in np.unique(x // TILE):
                    tile = np.frombuffer(zlib.decompress(self._packed), np.uint16).reshape(TILE, TILE)
                    self.n_unpacked += 1
                    down, right = np.flatnonzero(y // TILE == top), np.flatnonzero(x // TILE == left)
                    out[place, down[0] : down[-1] + 1, right[0] : right[-1] + 1] = tile[y[down] % TILE][
                        :, x[right] % TILE
                    ]
        return out if np.ndim(np.arange(self.shape[0])[channels]) else out[0]


def make_slide(n_cells: int) -> tuple[Slide, MadeUp]:
    """Return a slide with a cell in every square of 32 pixels, and its mask."""
    side = -(-int(np.ceil(np.sqrt(n_cells))) * PITCH // TILE) * TILE
    markers = ("DAPI", *(f"CD{i}" for i in range(1, N_MARKERS)))
    small = np.random.default_rng(1).poisson(200, (N_MARKERS, 1024, 1024)).astype(np.uint16)
    image = MadeUp((N_MARKERS, side, side), np.uint16)
    return Slide("S01", image, markers, 0.5, pyramid=(small,), tile_px=(TILE, TILE)), MadeUp((side, side), np.uint32)


def make_cells(path: Path, n: int, d: int, slide: Slide) -> None:
    """Write the AnnData of a clustered embedding."""
    rng = np.random.default_rng(2)
    across = slide.shape_px[1] // PITCH
    row, column = np.divmod(np.arange(n), across)
    cluster = ((row // 40) * 7 + column // 40 + rng.integers(0, 3, n)) % N_CLUSTERS
    obs = pd.DataFrame(
        {
            "cell_id": (row * across + column + 1).astype(np.uint32),
            "slide": pd.Categorical.from_codes(np.zeros(n, np.int8), pd.Index(["S01"])),
            "x_px": column * PITCH + 10.5,
            "y_px": row * PITCH + 10.5,
            "area_um2": 121.0,
            "at_border": (row == 0) | (column == 0),
            "patch_valid_fraction": 1.0,
            "leiden": pd.Categorical.from_codes(cluster, pd.Index([str(i) for i in range(N_CLUSTERS)])),
        },
        index=pd.Index([f"S01_{i}" for i in range(n)]),
    )
    x = rng.gamma(2, 90, (n, N_MARKERS)).astype(np.float32)
    x[np.arange(n), cluster % N_MARKERS] *= 6
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=list(slide.markers)))
    adata.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy() * 0.5
    adata.obsm["X_umap"] = (rng.normal(size=(n, 2)) + cluster[:, None] % [5, 7] * 4).astype(np.float32)
    adata.varm["splicer_correlation"] = rng.uniform(-1, 1, (N_MARKERS, d)).astype(np.float32)
    adata.uns["mxsplicer"] = {"method": "splicer", "patch_size_um": 32.0, "pixel_size_um": 0.5}
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        # Some packed pieces over and over: gzip would take longer than all that is measured.
        z = file.create_dataset("obsm/X_splicer", (n, d), np.float32, chunks=(4096, 16), compression="gzip")
        z.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        pieces = [zlib.compress(rng.normal(size=(4096, 16)).astype(np.float32).tobytes(), 4) for _ in range(32)]
        for number, (top, left) in enumerate((i, j) for i in range(0, n, 4096) for j in range(0, d, 16)):
            z.id.write_direct_chunk((top, left), pieces[number % len(pieces)])


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--index", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    slide, mask = make_slide(arguments.cells)
    path = arguments.folder / "cells.h5ad"
    if not path.is_file():
        make_cells(path, arguments.cells, arguments.features, slide)
    with open_cells(path) as adata:
        if arguments.index:
            timed("one cell against all", lambda: tl.similar(adata, 5))
            timed("100 cells against all", lambda: tl.similar(adata, list(range(100))))
            index = timed("making an index", lambda: tl.index_cells(adata))
            timed("100 cells by the index", lambda: tl.similar(adata, list(range(100)), index=index))
            return
        page = timed(
            "report",
            lambda: write_report(adata, arguments.folder / "report.html", slides=[slide], masks=[mask], overwrite=True),
        )
    print(f"{page.stat().st_size / 1e6:.1f} MB; {slide.image.n_unpacked:,} tiles unpacked")  # noqa: T201


def timed(what: str, work):
    """Do something, and print its elapsed and processor time and the peak of memory so far."""
    began, busy = time.perf_counter(), time.process_time()
    result = work()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    spent = f"{time.perf_counter() - began:.0f} s, {time.process_time() - busy:.0f} s of processor"
    print(f"{what}: {spent}, {most:.2f} GB at most")  # noqa: T201
    return result


if __name__ == "__main__":
    main()
