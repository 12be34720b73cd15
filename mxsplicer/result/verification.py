"""Verify a result: compare fingerprints with its inputs, and compute some cells again."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from anndata import AnnData

from mxsplicer.embedding.encode import encode_patches
from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide, drop_markers
from mxsplicer.patches.cutting import cut_patches
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.result.features import open_features
from mxsplicer.result.folder import Result, find_cells, open_result
from mxsplicer.result.slides import SlideRecord, open_recorded, read_records
from mxsplicer.splicer.run import Run, channels_of_run, load_run
from mxsplicer.splicer.slide_normalization import run_at_gain
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import learned_key

logger = logging.getLogger(__name__)

# Another kind of processor rounds differently; a changed pixel or weight moves z by far more than this.
_TOLERANCE = 1e-3  # of the spread of a feature
_INTENSITY_TOLERANCE = 1e-4  # relative
_MOST_SIDE_PX = 512


@dataclass(frozen=True)
class Check:
    """One comparison of a verification, with what was found in ``detail``."""

    name: str
    agrees: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found."""

    checks: tuple[Check, ...]

    @property
    def agrees(self) -> bool:
        """Whether everything agrees."""
        return all(check.agrees for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the checks as JSON has them."""
        return {"agrees": self.agrees, "checks": [asdict(check) for check in self.checks]}


def verify(
    path: str | Path, *, n_cells: int = 64, seed: int = 0, encoder: str = "", device: str = "auto"
) -> Verification:
    """Check that image, mask, markers and weights still give the same result.

    The fingerprints of image, mask and weights are compared with those in the AnnData, the markers with those of the
    slide. Then some random cells are cut from the slide again, and their mean intensities and features are
    recomputed and compared. On the kind of device that made the result the features agree to the last digit; on
    another they may differ by rounding, which is reported and passes.

    Parameters
    ----------
    path
        A result folder, or the ``cells.h5ad`` in one.
    n_cells
        How many cells are recomputed, in all; 0 for none.
    seed
        For the choice of cells.
    encoder
        As for :func:`mxsplicer.load_run`.
    device
        As for :func:`mxsplicer.embed`.

    Raises
    ------
    InputError
        If ``path`` is not a finished result. An input that is missing or has changed is not an error but a check that
        does not agree.
    """
    cells = find_cells(path)
    folder = cells.parent
    run = folder / open_result(folder)["files"]["run"]  # an absolute path stays as it is
    records = read_records(folder)
    with open_cells(cells) as adata:
        about = adata.uns.get("mxsplicer")
        if about is None:
            msg = f"{cells} lacks uns['mxsplicer'], which says how it was made; mxsplicer did not write it."
            raise InputError(msg)
        rows = _choose_rows(adata, n_cells, seed)
        return Verification(tuple(_checks(adata, about, folder, records, run, rows, encoder, device)))


def _checks(
    adata: AnnData,
    about: Mapping[str, Any],
    folder: Path,
    records: Sequence[SlideRecord],
    run_path: Path,
    chosen: np.ndarray,
    encoder: str,
    device: str,
) -> Iterator[Check]:
    prints = about["fingerprints"]
    yield from _compare_features(adata, folder, chosen)
    yield _compare_fingerprint("weights", run_path / "model.safetensors", str(prints["weights"]))
    run = load_run(run_path, encoder=encoder) if (run_path / "model.safetensors").is_file() else None
    for record in records:
        name = record.name
        for kind, place in (("image", record.image), ("mask", record.mask)):
            assert place is not None, "a finished result has a mask of each slide"
            yield _compare_fingerprint(f"{kind} of {name}", place, str(prints["slides"][name][kind]))
        opened = open_recorded(record, folder)
        if opened is None:
            continue
        slide, mask = opened
        yield _compare_markers(adata, slide, record)
        rows = chosen[(adata.obs["slide"].astype(str).to_numpy()[chosen] == name)] if len(chosen) else chosen
        if run is not None and len(rows):
            yield from _compare_cells(adata, about, run, slide, mask, rows, device)


def _compare_fingerprint(what: str, place: Path | str, expected: str) -> Check:
    if isinstance(place, Path) and not place.exists():
        return Check(what, agrees=False, detail=f"{place} is missing")
    found = fingerprint(place)
    if found == expected:
        return Check(what, agrees=True, detail=f"unchanged ({found})")
    return Check(what, agrees=False, detail=f"{place} has changed: its fingerprint was {expected} and is {found}")


def _compare_features(adata: AnnData, folder: Path, rows: np.ndarray) -> Iterator[Check]:
    """Verify the feature-major copy of z, if there is one, by comparing it with the AnnData."""
    path = Result(folder).features
    if not path.exists():
        return
    z, copy = adata.obsm[learned_key(adata)], zarr.open_array(path, mode="r")
    since = "Viewers read cells.h5ad instead; `mxsplicer cluster` writes it again"
    if copy.shape != z.shape[::-1]:
        detail = f"it holds {copy.shape[1]:,} cells, cells.h5ad {len(z):,}: cells were added or left out since. {since}"
        yield Check(path.name, agrees=False, detail=detail)
    elif open_features(folder, adata.obs_names) is None and "cells" in copy.attrs:
        detail = f"its cells are in another order than in cells.h5ad, or other cells: it was changed since. {since}"
        yield Check(path.name, agrees=False, detail=detail)
    elif not np.array_equal(copy.oindex[:, rows].T, read_rows(z, rows)):
        yield Check(path.name, agrees=False, detail="its numbers differ from those in cells.h5ad")
    else:
        yield Check(path.name, agrees=True, detail="the same cells as in cells.h5ad, in the same order")


def _compare_markers(adata: AnnData, slide: Slide, record: SlideRecord) -> Check:
    what = f"markers of {slide.name}"
    filled = adata.uns["mxsplicer"].get("missing_markers", {}).get(slide.name, [])
    missing = [str(name) for name in adata.var_names if name not in slide.markers and name not in filled]
    if missing:
        return Check(what, agrees=False, detail=f"the slide lacks {', '.join(missing)}")
    if list(slide.markers) != list(record.markers):
        return Check(what, agrees=False, detail=f"they were {', '.join(record.markers)}; the list differs now")
    return Check(what, agrees=True, detail=f"the same {len(slide.markers)}")


def _choose_rows(adata: AnnData, n_cells: int, seed: int) -> np.ndarray:
    if n_cells < 0:
        msg = f"`n_cells` is {n_cells}; it has to be 0 or more."
        raise InputError(msg)
    return np.sort(np.random.default_rng(seed).choice(adata.n_obs, min(n_cells, adata.n_obs), replace=False))


def _compare_cells(
    adata: AnnData,
    about: Mapping[str, Any],
    run: Run,
    slide: Slide,
    mask: LazyImage,
    rows: np.ndarray,
    device: str,
) -> Iterator[Check]:
    obs, key = adata.obs.iloc[rows], f"X_{about['method']}"
    channels = channels_of_run(run, slide.name, slide.markers, run.patch_px, slide.pixel_size_um, fill_missing=True)
    missing = [marker for marker, channel in enumerate(channels) if channel < 0]
    spread = about.get("spread", {}).get(slide.name)
    if spread is not None:
        run = run_at_gain(run, np.asarray(spread), range(len(run.markers)))
    places = [obs[column].to_numpy() for column in ("x_px", "y_px", "cell_id")]
    patches, regions = cut_patches(slide, mask, *places, patch_px=run.patch_px)
    z, stored = (
        encode_patches(run, patches[:, channels], regions, missing=missing, device=device),
        read_rows(adata.obsm[key], rows),
    )
    what = f"features of {len(rows)} cells of {slide.name}"
    spread = stored.std(axis=0)
    off = np.abs(z - stored) / np.where(spread > 0, spread, 1)
    wrong = int((off.max(axis=1) > _TOLERANCE).sum())
    if wrong:
        yield Check(what, agrees=False, detail=f"{wrong} differ, by up to {off.max():.2g} of a feature's spread")
    elif (z == stored).all():
        yield Check(what, agrees=True, detail="the same to the last digit")
    else:
        yield Check(
            what, agrees=True, detail=f"the same except for rounding, up to {off.max():.1g} of a feature's spread"
        )
    yield _compare_intensities(adata, slide, mask, rows)


def _compare_intensities(adata: AnnData, slide: Slide, mask: LazyImage, rows: np.ndarray) -> Check:
    obs = adata.obs.iloc[rows]
    wanted = [str(name) for name in adata.var_names if name in slide.markers]
    own = drop_markers(slide, [marker for marker in slide.markers if marker not in wanted])
    # A window that covers the whole cell: its long axis on either side of the centroid, up to a limit.
    longest = float(obs["major_axis_um"].max()) / slide.pixel_size_um if "major_axis_um" in obs else 64.0
    side = int(min(2 * np.ceil(longest + 2), _MOST_SIDE_PX, min(slide.shape_px) // 2 * 2))
    places = [obs[column].to_numpy() for column in ("x_px", "y_px", "cell_id")]
    patches, regions = cut_patches(own, mask, *places, patch_px=side)
    inside = regions == THIS_CELL  # (n, P, P)
    n_px = inside.sum(axis=(1, 2))
    whole = np.isclose(n_px * slide.pixel_size_um**2, obs["area_um2"].to_numpy(), rtol=1e-6)
    sums = np.einsum("ncyx,nyx->nc", patches.astype(np.float64), inside.astype(np.float64))
    means = (sums / np.maximum(n_px, 1)[:, None])[:, own.channels_of(wanted)]
    stored = np.asarray(adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows])
    stored = stored[:, [name in wanted for name in adata.var_names]]
    same = np.isclose(means, stored, rtol=_INTENSITY_TOLERANCE, atol=1e-6).all(axis=1) & whole
    what = f"intensities of {len(rows)} cells of {slide.name}"
    if same.all():
        return Check(what, agrees=True, detail="the same")
    return Check(what, agrees=False, detail=f"{int((~same).sum())} differ, in their area or in a marker's mean")
