"""The composition: labels, cells and patches go through every measure, and come out as tables and a verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.embedding.h5ad import open_cells, read_uns, write_uns
from mxsplicer.errors import InputError
from mxsplicer.evaluation.pictures import open_pictures
from mxsplicer.evaluation.sampling import draw_sample, find_cells, join_labels_of, names_to_score, rows_with
from mxsplicer.tl.labels import join_samples
from mxsplicer.tl.mixing import measure_mixing
from mxsplicer.tl.probing import MAX_CELLS, probe_few_labels, remember, score, set_task, verdict
from mxsplicer.tl.regions import rows_inside
from mxsplicer.tl.reliance import measure_reliance
from mxsplicer.tl.representations import BESIDE, MEAN_INTENSITY, is_baseline, key_of, trained
from mxsplicer.tl.structure import measure_structure

_CELLS_OF_MIXING = 20_000


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
    encoder: str = "",
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
    encoder
        As for :func:`mxsplicer.load_run`.
    device
        Where patches are embedded.

    Raises
    ------
    InputError
        If something given does not fit, or no label can be scored.
    """
    cells, result = find_cells(path)
    settings = _Settings(groups, guard_um, unsafe_random_split, image_cells, reliance_cells, seed, encoder, device)
    parts: list[_Part] = []
    with open_cells(cells) as adata:
        if samples is not None:
            join_samples(adata, samples)
        names = join_labels_of(adata, labels, label)
        inside = np.arange(adata.n_obs) if roi is None else rows_inside(adata, roi)
        if roi is not None:
            parts.append(_Part(notes=[f"Only the {len(inside):,} cells in the outlines of {Path(roi).name} count."]))
        for name in names:
            labelled = np.intersect1d(rows_with(adata, name), inside, assume_unique=True)
            sample, n_labelled = draw_sample(adata, labelled, compare, use_rep, max_cells, seed)
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
    cells, _ = find_cells(path)
    uns = read_uns(cells)
    holder = AnnData(uns={key: pd.DataFrame(uns[key]) for key in ("mxsplicer_probe",) if key in uns})
    remember(holder, evaluation.scores)
    content: dict[str, Any] = {
        name: table.set_axis(table.index.astype(str)) for name, table in evaluation.tables.items()
    }
    content |= {name: np.array(getattr(evaluation, name), dtype=object) for name in ("verdicts", "notes")}
    write_uns(cells, {"mxsplicer_probe": holder.uns["mxsplicer_probe"], "mxsplicer_evaluation": content})
    return cells


@dataclass(frozen=True)
class _Settings:
    groups: str | None
    guard_um: float | None
    unsafe_random_split: bool
    image_cells: int
    reliance_cells: int
    seed: int
    encoder: str
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


def _score_label(sample: AnnData, label: str, result: Path | None, settings: _Settings) -> _Part:
    part = _Part()
    seed = settings.seed
    how = {"label": label, "groups": settings.groups, "guard_um": settings.guard_um, "seed": seed}
    task = set_task(sample, max_cells=sample.n_obs, **how)  # type: ignore[arg-type]
    split = {"unsafe_random_split": settings.unsafe_random_split, "seed": seed}
    with open_pictures(
        sample,
        result,
        part.notes,
        n_cells=settings.image_cells,
        seed=seed,
        encoder=settings.encoder,
        device=settings.device,
    ) as pictures:
        beside = [] if pictures is None else pictures.make_baselines(sample, seed=seed)
        everywhere = pictures is not None and len(pictures.rows) == sample.n_obs
        if beside and everywhere:
            for name, z in beside:
                sample.obsm[key_of(name)] = z
        names = names_to_score(sample)
        own = trained(names)
        together = [] if is_baseline(own) else [f"{own}{BESIDE}{MEAN_INTENSITY}"]  # does it add to what is there anyway
        scores = score(sample, task, representations=[*names, *together], **split)  # type: ignore[arg-type]
        if beside and not everywhere:
            assert pictures is not None
            scores = pd.concat([scores, _score_some(sample, pictures.rows, beside, how, split, part.notes)])
        part.efficiency = probe_few_labels(sample, task, representations=names, scores=scores, seed=seed)
        structure, part.spectrum = measure_structure(sample, task, representations=names, seed=seed)
        part.reliance = measure_reliance(sample, task, max_cells=max(2_000, settings.reliance_cells), seed=seed)
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
        f"{' and '.join(names)}: scored on {len(task.rows):,} cells whose patches were read, the gain over mean "
        "intensity of the same cells (--image-cells)."
    )
    scores = score(some, task, representations=names, **split)
    return scores[scores["representation"] != MEAN_INTENSITY]


def _mix(
    adata: AnnData, rows: np.ndarray, compare: Sequence[str | Path], use_rep: Sequence[str], settings: _Settings
) -> _Part:
    """Measure whether slides can be told apart, on a sample of these cells, labelled or not."""
    if "slide" not in adata.obs or adata.obs["slide"].iloc[rows].nunique() < 2:
        return _Part(notes=["The cells are of one slide, so whether slides are mixed is not known."])
    sample, _ = draw_sample(adata, rows, compare, use_rep, _CELLS_OF_MIXING, settings.seed)
    try:
        mixing = measure_mixing(
            sample, representations=names_to_score(sample), guard_um=settings.guard_um, seed=settings.seed
        )
    except InputError as error:
        return _Part(notes=[f"Whether slides are mixed is not known: {error}"])
    return _Part(mixing=mixing)
