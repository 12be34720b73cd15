"""Evaluation: finished cells and labels become scores beside baselines, and a verdict.

The composition of :mod:`mxsplicer.tl`'s measures for a file or a result folder. Where the run and the patches (or the
slide) are at hand, the baselines that need pixels are made for a sample of the cells.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.decomposition import PCA

from mxsplicer.embedding import encode_inputs, open_cells
from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.progress import track
from mxsplicer.result import open_images, open_result
from mxsplicer.slides.cells import Cells
from mxsplicer.slides.polygons import is_geojson
from mxsplicer.splicer.run import Run, check_panel, load_run, untrained
from mxsplicer.splicer.scales import of_store
from mxsplicer.tl.labels import join_labels, join_regions, join_samples
from mxsplicer.tl.mixing import measure_mixing
from mxsplicer.tl.probing import MAX_CELLS, probe_few_labels, remember, score, set_task, verdict
from mxsplicer.tl.regions import rows_inside
from mxsplicer.tl.reliance import measure_reliance
from mxsplicer.tl.representations import LEARNED, MEAN_INTENSITY, PIXEL_PCA, available, key_of, trained
from mxsplicer.tl.rows import take
from mxsplicer.tl.structure import measure_structure

logger = logging.getLogger(__name__)

_UNTRAINED = "untrained encoder"
_CELLS_OF_MIXING = 20_000
_COMPONENTS = 64  # of pixels
_BYTES_TO_FIT = 256 << 20  # of the patches that the components of pixels are found on
_MOST_TO_FIT = 2_000  # cells
_SAME_PLACE_UM, _MOST_MOVED = 1.0, 0.01  # of cells in two files
_AT_ONCE = 256  # patches in memory


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one or more labels.

    Attributes
    ----------
    scores
        One row per label and representation; see docs/evaluation.md for its columns.
    efficiency, spectrum, mixing, reliance
        Label-efficiency curves, singular values, mixing of slides, reliance on markers; empty where not measured.
    verdicts
        One sentence per label.
    notes
        What was not measured, or on fewer cells, and why.
    """

    scores: pd.DataFrame
    efficiency: pd.DataFrame
    spectrum: pd.DataFrame
    mixing: pd.DataFrame
    reliance: pd.DataFrame
    verdicts: list[str]
    notes: list[str]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables beside the scores that are not empty."""
        all_tables = {name: getattr(self, name) for name in ("efficiency", "spectrum", "mixing", "reliance")}
        return {name: table for name, table in all_tables.items() if len(table)}


def evaluate(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    label: Sequence[str] = (),
    samples: str | Path | None = None,
    groups: str | None = None,
    guard_um: float | None = None,
    compare: Sequence[str | Path] = (),
    use_rep: Sequence[str] = (),
    roi: str | Path | None = None,
    unsafe_random_split: bool = False,
    max_cells: int = MAX_CELLS,
    images: bool = True,
    image_cells: int = 10_000,
    reliance_cells: int = 1_000,
    seed: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Score the cells of a result or of any AnnData file on labels, beside every baseline that can be had.

    Nothing is written; :func:`write_scores` does that.

    Parameters
    ----------
    path
        A result folder, or an h5ad file with intensities in ``X``, places in ``obsm["spatial"]`` and a representation.
    labels
        Table of cells (CSV), outlines with classes (GeoJSON; of several slides a folder of them), or None where the
        labels are columns of ``obs``.
    label
        Columns to score; every column of words of a table where empty. Of outlines, what to call the label.
    samples
        Table with one row per slide: patient, batch, ...
    groups, guard_um, unsafe_random_split, max_cells, seed
        As for :func:`mxsplicer.tl.probe`.
    compare
        Other AnnData files or results of the same cells, whose learned representations stand beside. Cells are matched
        by ``obs_names``; those that are not in all files are not scored.
    use_rep
        Further keys of ``obsm`` to score, in ``path`` and in ``compare``.
    roi
        Outlines (GeoJSON): only cells in them are scored, and looked at for the mixing of slides; of several slides a
        folder of files. See :func:`mxsplicer.tl.rows_inside`.
    images
        Whether patches are read, or cut from the slide: for the encoder, untrained, for the principal components of
        pixels, and for the reliance on each marker.
    image_cells
        Cells whose patches are read for the baselines, at most; drawn at random from those scored.
    reliance_cells
        Cells that test the reliance on each marker, at most; each is embedded once per marker.
    device
        Where patches are embedded.

    Raises
    ------
    InputError
        If something given does not fit, or no label can be scored.
    """
    cells, result = _find(path)
    settings = _Settings(groups, guard_um, unsafe_random_split, image_cells, reliance_cells, seed, device)
    parts: list[_Part] = []
    with open_cells(cells) as adata:
        if samples is not None:
            join_samples(adata, samples)
        names = _join(adata, labels, label)
        inside = np.arange(adata.n_obs) if roi is None else rows_inside(adata, roi)
        if roi is not None:
            parts.append(_Part(notes=[f"Only the {len(inside):,} cells in the outlines of {Path(roi).name} count."]))
        for name in names:
            labelled = np.intersect1d(_labelled(adata, name), inside, assume_unique=True)
            sample, n_labelled = _sampled(adata, labelled, compare, use_rep, max_cells, seed)
            try:
                part = _score_label(sample, name, result if images else None, settings)
                part.scores["n_labelled"] = n_labelled
                parts.append(part)
            except InputError as error:
                if len(names) == 1:
                    raise
                parts.append(_Part(notes=[f"{name} is not scored: {error}"]))
        if not any(len(part.scores) for part in parts):
            raise InputError(" ".join(note for part in parts for note in part.notes))
        parts.append(_mix(adata, inside, compare, use_rep, settings))
    scores = pd.concat([part.scores for part in parts if len(part.scores)])
    return Evaluation(
        scores=scores,
        efficiency=_joined(part.efficiency for part in parts),
        spectrum=_joined(part.spectrum for part in parts),
        mixing=_joined(part.mixing for part in parts),
        reliance=_joined(part.reliance for part in parts),
        verdicts=verdict(scores),
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def write_scores(evaluation: Evaluation, path: str | Path) -> Path:
    """Write scores into ``uns`` of the AnnData file that was scored; the file is replaced when the new one is whole.

    ``uns["mxsplicer_probe"]`` takes the scores in place of earlier ones of the same labels, and
    ``uns["mxsplicer_evaluation"]`` all else. Nothing else in the file changes.
    """
    cells, _ = _find(path)
    with h5py.File(cells, "r") as file:
        uns = anndata.io.read_elem(file["uns"]) if "uns" in file else {}
    holder = AnnData(uns={key: pd.DataFrame(uns[key]) for key in ("mxsplicer_probe",) if key in uns})
    remember(holder, evaluation.scores)
    content: dict[str, Any] = {
        name: table.set_axis(table.index.astype(str)) for name, table in evaluation.tables.items()
    }
    content |= {name: np.array(getattr(evaluation, name), dtype=object) for name in ("verdicts", "notes")}
    temporary = cells.with_name(cells.name + ".partial")
    try:
        shutil.copyfile(cells, temporary)
        with h5py.File(temporary, "r+") as file:
            for key, value in (("mxsplicer_probe", holder.uns["mxsplicer_probe"]), ("mxsplicer_evaluation", content)):
                anndata.io.write_elem(file, f"uns/{key}", value)
        temporary.replace(cells)
    finally:
        temporary.unlink(missing_ok=True)
    return cells


@dataclass(frozen=True)
class _Settings:
    groups: str | None
    guard_um: float | None
    unsafe_random_split: bool
    image_cells: int
    reliance_cells: int
    seed: int
    device: str


@dataclass(eq=False)
class _Part:
    """What one label, or the mixing of slides, adds to an evaluation."""

    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    efficiency: pd.DataFrame = field(default_factory=pd.DataFrame)
    spectrum: pd.DataFrame = field(default_factory=pd.DataFrame)
    mixing: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliance: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)


def _joined(tables: Iterator[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def _find(path: str | Path) -> tuple[Path, Path | None]:
    """Return the AnnData file, and the result folder that it lies in."""
    given = Path(path)
    result = given if given.is_dir() else given.parent
    cells = given / open_result(given)["files"]["cells"] if given.is_dir() else given
    if not cells.is_file():
        msg = f"there is no file {cells}."
        raise InputError(msg)
    if not h5py.is_hdf5(cells):
        msg = f"{cells} is not an AnnData file (h5ad)."
        raise InputError(msg)
    with h5py.File(cells, "r") as file:
        missing = [key for key in ("X", "obs", "var", "obsm", "varm", "layers", "uns") if key not in file]
    if missing:
        msg = f"{cells} is not an AnnData file of version 0.8 or newer: it lacks {', '.join(missing)}."
        raise InputError(msg)
    own = (result / "mxsplicer.json").is_file() and open_result(result)["files"]["cells"] == cells.name
    return cells, result if own else None


def _join(adata: AnnData, labels: str | Path | None, label: Sequence[str]) -> list[str]:
    """Return the columns of ``obs`` that are scored, brought there from a file where one is given."""
    if labels is not None and not Path(labels).exists() and str(labels) in adata.obs:
        labels, label = None, [*label, str(labels)]
    if labels is None:
        if not label:
            words = [str(column) for column in adata.obs.select_dtypes(exclude="number")]
            msg = f"no label was named. Give --labels, or name a column of obs by --label: {', '.join(words)}."
            raise InputError(msg)
        return list(label)
    path = Path(labels)
    if path.is_dir() or is_geojson(path):
        if len(label) > 1:
            msg = f"{path.name} holds outlines, which make one label; --label names {len(label)}."
            raise InputError(msg)
        return [join_regions(adata, path, label[0] if label else "annotation")]
    return join_labels(adata, path, label)


def _labelled(adata: AnnData, name: str) -> np.ndarray:
    if name not in adata.obs:
        msg = f"the cells have no label {name!r}; obs holds: {', '.join(adata.obs.columns)}."
        raise InputError(msg)
    values = adata.obs[name].astype(object)
    return np.flatnonzero((values.notna() & (values.astype(str) != "")).to_numpy())


def _sampled(
    adata: AnnData, rows: np.ndarray, compare: Sequence[str | Path], use_rep: Sequence[str], n: int, seed: int
) -> tuple[AnnData, int]:
    """Return at most ``n`` of some cells in memory, with their representations and those of others.

    They are drawn at random from those that all files hold; how many these are is returned too.
    """
    others = {_short_name(other): _find(other)[0] for other in compare}
    if len(others) < len(compare):
        msg = f"two of the files to compare with are called {next(iter(others))!r}: give them different names."
        raise InputError(msg)
    names_of = {name: pd.Index(_obs_names(path)) for name, path in others.items()}
    for name, names in names_of.items():
        rows = rows[np.isin(adata.obs_names[rows], names)]
        if not len(rows):
            msg = (
                f"no scored cell is in {others[name]}: cells are matched by obs_names, such as {adata.obs_names[0]!r}."
            )
            raise InputError(msg)
    n_candidates = len(rows)
    if n_candidates > n:
        rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
        logger.info("%d of %d cells are taken, at random", n, n_candidates)
    keys = [*(key for key in LEARNED.values() if key in adata.obsm), *use_rep]
    for key in use_rep:
        _check_key(adata, key)
    obsm = {key: take(adata.obsm[key], rows) for key in dict.fromkeys(keys)}
    if "spatial" in adata.obsm:
        obsm["spatial"] = np.asarray(adata.obsm["spatial"])[rows]
    sample = AnnData(
        X=adata.X[rows], obs=adata.obs.iloc[rows].copy(), var=adata.var[[]].copy(), obsm=obsm, uns=_about(adata)
    )
    for name, path in others.items():
        with open_cells(path) as other:
            found = [(title, key) for title, key in LEARNED.items() if key in other.obsm and title != _UNTRAINED]
            found += [(key, key) for key in use_rep if key in other.obsm]
            if not found:
                msg = f"{path} has no learned representation; obsm holds: {', '.join(other.obsm)}."
                raise InputError(msg)
            places = names_of[name].get_indexer(pd.Index(sample.obs_names))
            _check_places(sample, other, places, path)
            order = np.argsort(places)
            for title, key in found:
                z = take(other.obsm[key], places[order])
                sample.obsm[f"{title} ({name})"] = z[np.argsort(order)]
    return sample, n_candidates


def _check_places(sample: AnnData, other: AnnData, places: np.ndarray, path: Path) -> None:
    """Raise if cells of the same names lie elsewhere: another mask numbers other cells alike."""
    if "spatial" not in sample.obsm or "spatial" not in other.obsm:
        return
    apart = np.abs(np.asarray(sample.obsm["spatial"]) - np.asarray(other.obsm["spatial"])[places]).max(axis=1)
    moved = (apart > _SAME_PLACE_UM).mean()
    if moved > _MOST_MOVED:
        msg = (
            f"{moved:.0%} of cells of {path} have names of scored cells but lie elsewhere ({np.median(apart):.3g} µm "
            "in the middle): it was made with another mask. Embed the same cells to compare."
        )
        raise InputError(msg)


def _check_key(adata: AnnData, key: str) -> None:
    if key not in adata.obsm:
        msg = f"the cells have no representation {key!r}; obsm holds: {', '.join(adata.obsm) or 'nothing'}."
        raise InputError(msg)


def _about(adata: AnnData) -> dict[str, Any]:
    about = adata.uns.get("mxsplicer", {})
    return {"mxsplicer": {key: about[key] for key in ("patch_size_um", "pixel_size_um") if key in about}}


def _obs_names(path: Path) -> Any:
    with h5py.File(path, "r") as file:
        obs = file["obs"]
        return anndata.io.read_elem(obs[obs.attrs["_index"]])


def _short_name(path: str | Path) -> str:
    path = Path(path)
    return path.parent.name if path.name == "cells.h5ad" and path.parent.name else path.stem


def _names_of(sample: AnnData, use_rep: Sequence[str] = ()) -> list[str]:
    """Return what is scored of a sample: the trained ones, those of other files, the baselines."""
    names = available(sample)
    known = {"spatial", *(key_of(name) for name in names)}
    return list(dict.fromkeys([*(key for key in sample.obsm if key not in known), *use_rep, *names]))


def _score_label(sample: AnnData, label: str, result: Path | None, settings: _Settings) -> _Part:
    part = _Part()
    seed = settings.seed
    how = {"label": label, "groups": settings.groups, "guard_um": settings.guard_um, "seed": seed}
    task = set_task(sample, max_cells=sample.n_obs, **how)  # type: ignore[arg-type]
    split = {"unsafe_random_split": settings.unsafe_random_split, "seed": seed}
    with _pictures(sample, result, settings, part.notes) as pictures:
        beside = [] if pictures is None else pictures.add_baselines(sample, settings)
        everywhere = pictures is not None and len(pictures.rows) == sample.n_obs
        if beside and everywhere:
            for name, z in beside:
                sample.obsm[key_of(name)] = z
        names = _names_of(sample)
        scores = score(sample, task, representations=names, **split)  # type: ignore[arg-type]
        if beside and not everywhere:
            assert pictures is not None
            scores = pd.concat([scores, _score_some(sample, pictures.rows, beside, how, split, part.notes)])
        part.efficiency = probe_few_labels(sample, task, representations=names, scores=scores, seed=seed)
        structure, part.spectrum = measure_structure(sample, task, representations=names, seed=seed)
        part.reliance = measure_reliance(sample, task, max_cells=max(2_000, settings.reliance_cells), seed=seed)
        own = trained(names)
        if pictures is not None and key_of(own) == f"X_{pictures.run.method}":
            of_run = measure_reliance(
                sample,
                task,
                representation=own,
                exchange=pictures.exchanged,
                markers=pictures.run.markers,
                candidates=pictures.rows,
                max_cells=settings.reliance_cells,
                seed=seed,
            )
            part.reliance = pd.concat([of_run, part.reliance], ignore_index=True)
    part.scores = _beside(scores, structure, part.efficiency)
    return part


def _beside(scores: pd.DataFrame, structure: pd.DataFrame, efficiency: pd.DataFrame) -> pd.DataFrame:
    """Return the scores with what else is known of each representation in further columns."""
    more = structure.drop(columns="label").set_index("representation")
    if len(efficiency):
        for size, at in efficiency.groupby("labels_per_class"):
            by_name = at.set_index("representation")
            more[f"at_{size}"], more[f"at_{size}_sd"] = by_name["balanced_accuracy"], by_name["balanced_accuracy_sd"]
    return scores.join(more, on="representation")


def _score_some(
    sample: AnnData,
    rows: np.ndarray,
    beside: Sequence[tuple[str, np.ndarray]],
    how: Mapping[str, Any],
    split: Mapping[str, Any],
    notes: list[str],
) -> pd.DataFrame:
    """Return the scores of representations that are known of some cells; gains are over mean intensity of these."""
    some = AnnData(
        X=sample.X[rows],
        obs=sample.obs.iloc[rows].copy(),
        var=sample.var.copy(),
        obsm={"spatial": sample.obsm["spatial"][rows]} if "spatial" in sample.obsm else {},
        uns=dict(sample.uns),
    )
    for name, z in beside:
        some.obsm[key_of(name)] = z
    names = [name for name, _ in beside]
    try:
        task = set_task(some, max_cells=some.n_obs, **how)
    except InputError as error:
        notes.append(f"{', '.join(names)}: not scored, their patches are of {len(rows):,} cells only: {error}")
        return pd.DataFrame()
    notes.append(
        f"{' and '.join(names)} are scored on {len(task.rows):,} cells whose patches were read, and their gain is over "
        "mean intensity of the same cells (--image-cells)."
    )
    scores = score(some, task, representations=names, **split)
    return scores[scores["representation"] != MEAN_INTENSITY]


def _mix(
    adata: AnnData, rows: np.ndarray, compare: Sequence[str | Path], use_rep: Sequence[str], settings: _Settings
) -> _Part:
    """Measure whether slides can be told apart, on a sample of these cells, labelled or not."""
    if "slide" not in adata.obs or adata.obs["slide"].iloc[rows].nunique() < 2:
        return _Part(notes=["The cells are of one slide, so whether slides are mixed is not known."])
    sample, _ = _sampled(adata, rows, compare, use_rep, _CELLS_OF_MIXING, settings.seed)
    try:
        mixing = measure_mixing(
            sample, representations=_names_of(sample), guard_um=settings.guard_um, seed=settings.seed
        )
    except InputError as error:
        return _Part(notes=[f"Whether slides are mixed is not known: {error}"])
    return _Part(mixing=mixing)


@dataclass(eq=False)
class _Pictures:
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

    def add_baselines(self, sample: AnnData, settings: _Settings) -> list[tuple[str, np.ndarray]]:
        """Return z of the encoder, untrained, where the cells lack it, and the principal components of pixels."""
        shape = (len(self.run.markers), self.run.patch_px, self.run.patch_px)
        n_fit = min(_MOST_TO_FIT, max(200, _BYTES_TO_FIT // (4 * int(np.prod(shape)))), len(self.rows))
        chosen = np.sort(np.random.default_rng(settings.seed).choice(self.rows, n_fit, replace=False))
        pca = PCA(min(_COMPONENTS, n_fit - 1), svd_solver="randomized", random_state=settings.seed)
        pca.fit(self.read(chosen).reshape(n_fit, -1).numpy())
        fresh = None if "X_untrained" in sample.obsm else untrained(self.run, seed=settings.seed)
        pixels, z = [], []
        for start in track(range(0, len(self.rows), _AT_ONCE), "Reading patches for the baselines"):
            x = self.read(self.rows[start : start + _AT_ONCE])
            pixels.append(pca.transform(x.reshape(len(x), -1).numpy()).astype(np.float32))
            if fresh is not None:
                z.append(encode_inputs(fresh, x, device=self.device))
        found = [(PIXEL_PCA, np.concatenate(pixels))]
        return [(_UNTRAINED, np.concatenate(z)), *found] if z else found

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
def _pictures(
    sample: AnnData, result: Path | None, settings: _Settings, notes: list[str]
) -> Iterator[_Pictures | None]:
    """Open the patches of a random part of a sample: those that were kept, or new ones cut from the slides."""
    missing = (
        "so there are no scores of the encoder, untrained, or of pixels, and the reliance is that of mean intensity"
    )
    if result is None:
        notes.append(f"No patches were read (no result folder, or --no-images), {missing}.")
        yield None
        return
    index = open_result(result)
    n = min(settings.image_cells, sample.n_obs)
    rows = np.sort(np.random.default_rng(settings.seed).permutation(sample.n_obs)[:n])
    with TemporaryDirectory(prefix="mxsplicer-") as folder:
        try:
            run = load_run(result / index["files"]["run"])
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
        yield _Pictures(run, rows, kept, channels, *places, settings.device)


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
