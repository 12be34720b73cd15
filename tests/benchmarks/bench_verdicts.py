"""Judge the verdicts on clusters by the truth of simulated tissue, clean and with technical artefacts.

Run ``python tests/benchmarks/bench_verdicts.py FOLDER [--size-px N] [--seed N] [--resolutions R ...]``. A slide is
simulated, and copied with a blurred corner, with a seam (all markers, or four of them, brighter on the right), and with
illumination that falls to 35 % from left to right. Each is embedded by the built-in model;
what FOLDER has already is not made again. Cells are clustered on the features and on log intensities.

A cluster is an *artefact* if the marker raised most against its sibling (d of 0.8 or more) is not expressed by its
majority, which has the lineage of its sibling's; it is *technical* if 80 % of its cells are changed, but no more than
60 % of its lineage, or are unchanged: the other half of a split kind of cell (at most 20 %, of a lineage with 40 %).
All others are real.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from mxsplicer import open_slide, tl
from mxsplicer.simulation import simulate_slide
from mxsplicer.simulation.settings import LINEAGES, PANEL
from mxsplicer.tl.explanation import REAL, TECHNICAL
from mxsplicer.tl.marker_words import LARGE_EFFECT
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of

DARK, GAIN, BLUR_PX, DIMMEST = 100.0, 1.6, 4.0, 0.35
SOME = ("CD4", "CD45RO", "PD-L1", "CD3e")
UNSTAINED = ("AF1", "Argo550")
KINDS = ("clean", "blur", "seam", "seamsome", "shading")
BY_SUBTYPE = ("CD4", "CD8a", "FOXP3")  # expressed by some T cells
OUTCOMES = ("artefact", "technical", "other half", "real")


def make_slides(folder: Path, size_px: int, seed: int) -> None:
    """Simulate the clean slide and write its changed copies."""
    clean = folder / "clean.ome.tiff"
    if not clean.exists():
        simulate_slide(clean, size_px=size_px, seed=seed)
    missing = [kind for kind in KINDS if not (folder / f"{kind}.ome.tiff").exists()]
    if not missing:
        return
    slide = open_slide(clean)
    image = np.asarray(slide.image[:]).astype(np.float32)
    for kind in missing:
        tifffile.imwrite(
            folder / f"{kind}.ome.tiff",
            np.clip(changed(image, slide.markers, kind), 0, 65535).astype(np.uint16),
            photometric="minisblack",
            tile=(256, 256),
            compression="zlib",
            metadata={
                "axes": "CYX",
                "Channel": {"Name": list(slide.markers)},
                "PhysicalSizeX": slide.pixel_size_um,
                "PhysicalSizeY": slide.pixel_size_um,
            },
        )


def changed(image: np.ndarray, markers: tuple[str, ...], kind: str) -> np.ndarray:
    """Return an image (C, Y, X) with one technical artefact."""
    half, out = image.shape[-1] // 2, image.copy()
    if kind == "blur":
        for channel in range(len(image)):
            out[channel, :half, :half] = ndimage.gaussian_filter(image[channel], BLUR_PX)[:half, :half]
    elif kind == "shading":
        out = DARK + (image - DARK) * np.linspace(1, DIMMEST, image.shape[-1], dtype=np.float32)
    else:
        rows = list(range(len(markers))) if kind == "seam" else [markers.index(name) for name in SOME]
        out[rows, :, half:] = DARK + (image[rows, :, half:] - DARK) * GAIN
    return out


def is_changed(obs: pd.DataFrame, kind: str, size_px: int) -> np.ndarray:
    """Return which cells (N,) an artefact changes."""
    left, top = obs["x_px"].to_numpy() < size_px / 2, obs["y_px"].to_numpy() < size_px / 2
    return {"clean": left & ~left, "blur": left & top}.get(kind, ~left)


def embed(folder: Path, kind: str) -> anndata.AnnData:
    """Return the embedded cells of a slide."""
    result = folder / f"{kind}.mxs"
    if not (result / "cells.h5ad").exists():
        options = [option for marker in UNSTAINED for option in ("--drop", marker)]
        command = [sys.executable, "-m", "mxsplicer", "embed", folder / f"{kind}.ome.tiff", "--out", result]
        subprocess.run([*command, "--mask", folder / "clean_mask.ome.tiff", *options, "--only-cells"], check=True)
    return anndata.read_h5ad(result / "cells.h5ad")


def clusterings(adata: anndata.AnnData, resolutions: list[float]) -> Iterator[str]:
    """Cluster cells on the features and on log intensities, in place."""
    adata.obsm["X_log"] = features_of(adata, MEAN_INTENSITY, np.arange(adata.n_obs))
    for use_rep, name in (("X_splicer", "features"), ("X_log", "log intensities")):
        for resolution in resolutions:
            tl.cluster(adata, use_rep=use_rep, resolution=resolution)
            yield name


def expresses(lineage: str, marker: str) -> bool:
    """Return whether cells of a lineage may express a marker."""
    (settings,) = [one for one in PANEL if one.name == marker]
    by = {LINEAGES[code] for code, _ in settings.expressed_by}
    return marker == "Ki-67" or lineage in by or (marker in BY_SUBTYPE and lineage == "T cell")


def truth_of(table: pd.DataFrame, obs: pd.DataFrame) -> list[str]:
    """Return what each cluster is, one of OUTCOMES."""
    lineage = obs.groupby("leiden", observed=True)["lineage"].agg(lambda names: names.value_counts().index[0])
    share = obs.groupby("leiden", observed=True)["changed"].mean()
    of_lineage = obs.groupby("lineage")["changed"].mean()
    out = []
    for cluster, row in table.iterrows():
        own, there = share[cluster], of_lineage[lineage[cluster]]
        if own >= 0.8 and there <= 0.6:
            out.append("technical")
        elif row["effect"] >= LARGE_EFFECT and lineage[cluster] == lineage[row["sibling"]]:
            out.append("real" if expresses(lineage[cluster], row["marker"]) else "artefact")
        else:
            out.append("real")
        if out[-1] == "real" and own <= 0.2 and there >= 0.4:
            out[-1] = "other half"
    return out


def main() -> None:
    """Print how many clusters of each outcome are flagged, and the clusters that are judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size-px", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--resolutions", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    make_slides(arguments.folder, arguments.size_px, arguments.seed)
    truth = pd.read_csv(arguments.folder / "clean_truth.csv").set_index("cell_id")
    found = []
    for kind in KINDS:
        adata = embed(arguments.folder, kind)
        adata.obs["lineage"] = truth["lineage"].reindex(adata.obs["cell_id"].to_numpy()).to_numpy()
        adata.obs["changed"] = is_changed(adata.obs, kind, arguments.size_px)
        for name in clusterings(adata, arguments.resolutions):
            table = tl.explain_clusters(adata)
            is_technical = table["verdict"] == TECHNICAL
            rows = table.assign(slide=kind, on=name, truth=truth_of(table, adata.obs), technical_verdict=is_technical)
            found.append(rows.reset_index().assign(flagged=rows["verdict"].to_numpy() != REAL))
    every = pd.concat(found, ignore_index=True)
    every.to_csv(arguments.folder / "verdicts.csv", index=False)
    summary = every.groupby(["slide", "on", "truth"])[["flagged", "technical_verdict"]].agg(["sum", "size"])
    print(summary.droplevel(1, axis=1).iloc[:, [0, 1, 2]].set_axis(["flagged", "of", "technical"], axis=1).to_string())  # noqa: T201
    totals = every.groupby("truth")["flagged"].agg(["sum", "size"]).reindex(OUTCOMES).dropna()
    print(totals.to_string())  # noqa: T201
    wrong = every[every["flagged"] != every["truth"].isin(["artefact", "technical"])]
    print(wrong[wrong["truth"] != "other half"][["slide", "on", "leiden", "truth", "name", "reason"]].to_string())  # noqa: T201


if __name__ == "__main__":
    main()
