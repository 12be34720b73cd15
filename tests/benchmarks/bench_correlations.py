"""Time the correlation of markers with features for a million cells, and count false positives of the null.

    python tests/benchmarks/bench_correlations.py --cells 1000000 --features 512 --markers 60
    python tests/benchmarks/bench_correlations.py --false-positives 40

The first needs about 5 bytes of disk per cell and feature. OMP_NUM_THREADS sets the number of threads.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from mxsplicer import tl
from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.system.memory import measured_peak
from mxsplicer.testing import lone_tissue
from mxsplicer.tl import significance

RANGES_UM = ((0, 0), (15, 15), (40, 40), (40, 120), (80, 80), (120, 120), (200, 200))  # of a tissue of 1 mm


def write_cells(path: Path, n: int, d: int, m: int, chunks: tuple[int, int] | None, compression: str | None) -> None:
    """Write cells of twelve types along a curve that fills the slide, as embed does, 4,000 to the mm²."""
    rng = np.random.default_rng(0)
    side = 1000 * np.sqrt(n / 4000)
    strip = 200.0
    x = rng.uniform(0, side, n)
    y = rng.uniform(0, side, n)
    order = np.lexsort((y, x // strip))
    points = np.stack([x[order], y[order]], axis=1)
    kind = ((points // 150).sum(axis=1).astype(int) + rng.integers(0, 3, n)) % 12
    types = rng.gamma(1, 200, (12, m)).astype(np.float32)
    intensities = types[kind] * rng.gamma(5, 0.2, (n, m)).astype(np.float32)
    obs = pd.DataFrame({"slide": pd.Categorical(["S01"] * n)}, index=[str(i) for i in range(n)])
    adata = anndata.AnnData(intensities, obs=obs, var=pd.DataFrame(index=[f"marker {i}" for i in range(m)]))
    adata.var_names = ["DAPI", "AF1", *adata.var_names[2:]]
    adata.obsm["spatial"] = points
    adata.write_h5ad(path)
    weights = rng.normal(size=(m, d)).astype(np.float32) / np.sqrt(m)
    with h5py.File(path, "r+") as file:
        z = file["obsm"].create_dataset("X_splicer", (n, d), np.float32, chunks=chunks, compression=compression)
        z.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for start in range(0, n, 4096):
            rows = np.log1p(intensities[start : start + 4096]) @ weights
            z[start : start + 4096] = rows + 0.5 * rng.normal(size=rows.shape).astype(np.float32)


def measure(arguments: argparse.Namespace) -> None:
    """Time the maps, and the map of one marker in the tissue."""
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    path = folder / "cells.h5ad"
    chunks = (min(4096, arguments.cells), min(16, arguments.features))
    try:
        write_cells(path, arguments.cells, arguments.features, arguments.markers, chunks, arguments.compression)
        with open_cells(path) as adata:
            show("opened", time.perf_counter(), time.process_time())
            for name, call in {
                "maps": lambda: tl.correlate(adata),
                "local, neighbourhood": lambda: tl.local_correlation(adata, "marker 5", 3),
                "local, region": lambda: tl.local_correlation(adata, "marker 5", 3, scale="region"),
                "local, 30 nearest": lambda: tl.local_correlation(adata, "marker 5", 3, n_neighbours=30),
            }.items():
                began = time.perf_counter(), time.process_time()
                call()
                show(name, *began)
    finally:
        shutil.rmtree(folder)


def show(what: str, began: float, cpu: float) -> None:
    """Print what something took."""
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what:<22} {seconds:7.1f} s  {cpu_seconds:7.1f} s of one core  peak {measured_peak() / 1e9:5.2f} GB")  # noqa: T201


def count_false_positives(n_tissues: int, *, strip: bool) -> None:
    """Print how many of unrelated pairs of fields are called significant, in a disc or in a strip of it."""
    n_cells = 9000 if strip else 4000
    print("range (µm)   effective cells   at 5 %         at 1 %   cells taken for independent, at 5 %")  # noqa: T201
    for range_a, range_b in RANGES_UM:
        found, naive, effective = [], [], []
        for seed in range(n_tissues):
            points, a = lone_tissue(n_cells, range_um=range_a, n_fields=10, seed=seed)
            _, b = lone_tissue(n_cells, range_um=range_b, n_fields=30, seed=seed)
            b = lone_tissue(n_cells, range_um=range_b, n_fields=40, seed=seed)[1][:, 10:] if range_a == range_b else b
            if strip:
                kept = np.abs(points[:, 1] - 500) < 175
                points, a, b = points[kept], a[kept], b[kept]
            a, b = ((one - one.mean(axis=0)) / one.std(axis=0) for one in (a, b))
            pairs = significance.classify_pairs(points, seed=seed)
            n = pairs.effective_cells(pairs.autocovariance(a), pairs.autocovariance(b))
            r = a.T @ b / len(a)
            found.append(significance.p_values(r, n))
            naive.append(significance.p_values(r, np.full(r.shape, float(len(a)))))
            effective.append(np.median(n))
        p, unaware = np.array(found), np.array(naive)
        at_5 = (p < 0.05).mean(axis=(1, 2))
        error = at_5.std(ddof=1) / np.sqrt(n_tissues)
        print(  # noqa: T201
            f"{range_a:4} {range_b:4}   {np.median(effective):12.0f}     {at_5.mean():6.2%} ± {error:.2%} "
            f"  {(p < 0.01).mean():6.2%}   {(unaware < 0.05).mean():6.1%}",
            flush=True,
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--markers", type=int, default=60)
    parser.add_argument("--compression", default=None, help="of z in the file: gzip, as embed writes it, or none")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--false-positives", type=int, metavar="TISSUES", default=0)
    parser.add_argument("--strip", action="store_true", help="of a tissue of 350 µm by 1 mm")
    arguments = parser.parse_args()
    if arguments.false_positives:
        count_false_positives(arguments.false_positives, strip=arguments.strip)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
