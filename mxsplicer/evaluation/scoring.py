"""Scores of a result or an AnnData file on labels: every measure of :mod:`mxsplicer.tl`, as tables and a verdict."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.embedding.h5ad import open_cells, read_uns, write_uns
from mxsplicer.errors import InputError
from mxsplicer.evaluation.patches import SamplePatches, open_patches
from mxsplicer.evaluation.scored_cells import (
    check_names,
    draw_reference,
    draw_sample,
    find_cells,
    join_labels_of,
    names_to_score,
    rows_with,
)
from mxsplicer.result.slides import image_files, read_records
from mxsplicer.tl.defaults import MAX_IMAGE_CELLS, MAX_IMPORTANCE_CELLS, MAX_SCORED_CELLS
from mxsplicer.tl.drawn_outlines import rows_inside
from mxsplicer.tl.efficiency import probe_few_labels
from mxsplicer.tl.importance import permutation_importance
from mxsplicer.tl.mixing import measure_mixing
from mxsplicer.tl.probing import remember, score
from mxsplicer.tl.representations import (
    CONCATENATED,
    MEAN_INTENSITY,
    available,
    closed_form_keys,
    is_baseline,
    key_of,
    learned_key,
    representation,
    trained,
    warn_of_several_models,
)
from mxsplicer.tl.sample_tables import join_samples
from mxsplicer.tl.structure import measure_structure
from mxsplicer.tl.tasks import Task, set_task
from mxsplicer.tl.verdicts import verdict

_MIXING_CELLS = 20_000
_REFERENCE_CELLS = 10_000  # by which intensities are scaled before neighbours are searched
_REFERENCE_PATCHES = 2_000  # of them, whose patches are read where statistics of compartments are not stored
_MEAN_INTENSITY_CELLS = 2_000  # for its permutation importance, at least: these cells need not be embedded

# Keys of the tables in ``uns["mxsplicer_evaluation"]`` and in the JSON of the command line, by attribute. Files of
# version 0.1 call permutation importance "reliance".
_TABLE_KEYS = {"efficiency": "efficiency", "spectrum": "spectrum", "mixing": "mixing", "importance": "reliance"}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one or more labels.

    Attributes
    ----------
    scores
        One row per label and representation; docs/evaluation-measures.md explains its columns.
    efficiency, spectrum, mixing, importance
        Label-efficiency curves, singular values, mixing of slides, permutation importance of markers. A table is empty
        where nothing was measured.
    verdicts
        Two lines per label: the best description of its cells, and whether training was needed.
    notes
        What was not measured, or only on some of the cells, and why.
    """

    scores: pd.DataFrame
    efficiency: pd.DataFrame
    spectrum: pd.DataFrame
    mixing: pd.DataFrame
    importance: pd.DataFrame
    verdicts: list[str]
    notes: list[str]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables other than the scores that are not empty, by the key under which they are stored."""
        return {key: table for name, key in _TABLE_KEYS.items() if len(table := getattr(self, name))}


def evaluate(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    label: Sequence[str] = (),
    samples: str | Path | None = None,
    groups: str | None = None,
    guard_um: float | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    compare: Sequence[str | Path] = (),
    use_rep: Sequence[str] = (),
    roi: str | Path | None = None,
    unsafe_random_split: bool = False,
    max_cells: int = MAX_SCORED_CELLS,
    images: bool = True,
    image_cells: int = MAX_IMAGE_CELLS,
    importance_cells: int = MAX_IMPORTANCE_CELLS,
    seed: int = 0,
    encoder: str = "",
    device: str = "auto",
) -> Evaluation:
    """Score the cells of a result or of an AnnData file on labels, and compare them with the baselines.

    Nothing is written; :func:`write_scores` does that.

    Parameters
    ----------
    path
        A result folder, or an h5ad file with intensities in ``X``, centroids in ``obsm["spatial"]`` and a
        representation in ``obsm``.
    labels
        Table of cells (CSV), outlines with classes (GeoJSON; for several slides a folder of files), or None where the
        labels are columns of ``obs``.
    label
        Columns to score; by default every text column of the table. For outlines, the name of the label.
    samples
        Table with one row per slide: patient, batch, ...
    groups, guard_um, train_on, test_on, unsafe_random_split, max_cells, seed
        As for :func:`mxsplicer.tl.probe`.
    compare
        Other AnnData files or results of the same cells, whose learned representations are scored too. Cells are
        matched by ``obs_names``; cells that are missing from one of the files are not scored.
    use_rep
        Further keys of ``obsm`` to score, in ``path`` and in ``compare``.
    roi
        Outlines (GeoJSON; for several slides a folder of files). Only cells inside are scored and used to measure the
        mixing of slides. See :func:`mxsplicer.tl.rows_inside`.
    images
        Read patches, or cut them again from the slide, for the untrained encoder, the PCA of pixels, and the
        permutation importance of each marker.
    image_cells
        Largest number of scored cells, drawn at random, whose patches are read for the baselines.
    importance_cells
        Largest number of test cells for the permutation importance; each is embedded once per marker.
    encoder
        As for :func:`mxsplicer.load_run`.
    device
        Where patches are embedded.

    Raises
    ------
    InputError
        If an argument cannot be used, or no label can be scored.
    """
    cells, result = find_cells(path)
    settings = _Settings(
        groups=groups,
        guard_um=guard_um,
        train_on=tuple(train_on),
        test_on=tuple(test_on),
        unsafe_random_split=unsafe_random_split,
        image_cells=image_cells,
        importance_cells=importance_cells,
        seed=seed,
        encoder=encoder,
        device=device,
    )
    found: list[_Measured] = []
    with warnings.catch_warnings(), open_cells(cells) as adata:
        warnings.filterwarnings("ignore", message=r".*names are not unique")  # check_names reports it once
        found.append(_Measured(notes=check_names(adata)))
        if (key := learned_key(adata)) in adata.obsm:
            representation(adata, key)  # raises if several models computed it
            warn_of_several_models(adata, key)
        if samples is not None:
            images_of_slides = image_files(read_records(result)) if result else None
            join_samples(adata, samples, images=images_of_slides)
        names = join_labels_of(adata, labels, label, result)
        inside = np.arange(adata.n_obs) if roi is None else rows_inside(adata, roi)
        if roi is not None:
            note = f"Only the {len(inside):,} cells in the outlines of {Path(roi).name} are used."
            found.append(_Measured(notes=[note]))
        reference = _open_reference(adata, result if images else None, settings)
        for name in names:
            labelled = np.intersect1d(rows_with(adata, name), inside, assume_unique=True)
            sample, n_labelled = draw_sample(adata, labelled, compare, use_rep, max_cells, seed)
            try:
                measured = _score_label(sample, name, result if images else None, reference, settings)
                measured.scores["n_labelled"] = n_labelled
                found.append(measured)
            except InputError as error:
                if len(names) == 1:
                    raise
                found.append(_Measured(notes=[f"{name} is not scored: {error}"]))
        if not any(len(one.scores) for one in found):
            raise InputError(" ".join(note for one in found for note in one.notes))
        found.append(_score_mixing(adata, inside, compare, use_rep, settings))
        found.append(_Measured(notes=_advise_transfer(adata, inside, settings)))
    return _joined(found)


def write_scores(evaluation: Evaluation, path: str | Path) -> Path:
    """Write scores into ``uns`` of the AnnData file that was scored, and return its path.

    ``uns["mxsplicer_probe"]`` receives the scores, which replace earlier scores of the same labels;
    ``uns["mxsplicer_evaluation"]`` receives everything else. Nothing else in the file changes, and the file is replaced
    only when the new one is complete.
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
    train_on: tuple[str, ...]
    test_on: tuple[str, ...]
    unsafe_random_split: bool
    image_cells: int
    importance_cells: int
    seed: int
    encoder: str
    device: str


@dataclass(eq=False)
class _Measured:
    """What one label, or the mixing of slides, adds to the scores of an evaluation."""

    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    efficiency: pd.DataFrame = field(default_factory=pd.DataFrame)
    spectrum: pd.DataFrame = field(default_factory=pd.DataFrame)
    mixing: pd.DataFrame = field(default_factory=pd.DataFrame)
    importance: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)


def _joined(found: Sequence[_Measured]) -> Evaluation:
    scores = pd.concat([one.scores for one in found if len(one.scores)])
    return Evaluation(
        scores=scores,
        efficiency=_concatenated(one.efficiency for one in found),
        spectrum=_concatenated(one.spectrum for one in found),
        mixing=_concatenated(one.mixing for one in found),
        importance=_concatenated(one.importance for one in found),
        verdicts=verdict(scores),
        notes=list(dict.fromkeys(note for one in found for note in one.notes)),
    )


def _concatenated(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def _open_reference(adata: AnnData, result: Path | None, settings: _Settings) -> AnnData:
    """Open the reference of an evaluation: cells by which intensities are scaled, with statistics if possible."""
    reference = draw_reference(adata, _REFERENCE_CELLS, settings.seed)
    if result is None or closed_form_keys(reference):
        return reference
    with open_patches(
        reference,
        result,
        [],
        n_cells=_REFERENCE_PATCHES,
        seed=settings.seed,
        encoder=settings.encoder,
        device=settings.device,
    ) as patches:
        if patches is None:
            return reference
        some = reference[patches.rows].copy()
        some.obsm.update(patches.describe_in_closed_form(patches.rows))
        return some


def _score_label(
    sample: AnnData, label: str, result: Path | None, reference: AnnData, settings: _Settings
) -> _Measured:
    measured = _Measured()
    seed = settings.seed
    folding = {
        "label": label,
        "groups": settings.groups,
        "guard_um": settings.guard_um,
        "train_on": settings.train_on,
        "test_on": settings.test_on,
        "seed": seed,
    }
    task = set_task(sample, max_cells=sample.n_obs, **folding)  # type: ignore[arg-type]
    split = {"unsafe_random_split": settings.unsafe_random_split, "reference": reference, "seed": seed}
    with open_patches(
        sample,
        result,
        measured.notes,
        n_cells=settings.image_cells,
        seed=seed,
        encoder=settings.encoder,
        device=settings.device,
    ) as patches:
        baselines = {} if patches is None else patches.compute_baselines(sample, seed=seed)
        of_all_cells = patches is not None and len(patches.rows) == sample.n_obs
        if of_all_cells:
            sample.obsm.update(baselines)
        names = names_to_score(sample)
        own = trained(names)
        # Does the embedding add to mean intensity?
        both = [] if is_baseline(own) else [f"{own}{CONCATENATED}{MEAN_INTENSITY}"]
        scores = score(sample, task, representations=[*names, *both], **split)
        if patches is not None and not of_all_cells:
            some = _score_some(sample, patches.rows, baselines, own, folding, split, measured.notes)
            scores = pd.concat([scores, some])
        measured.efficiency = probe_few_labels(sample, task, representations=names, scores=scores, seed=seed)
        structure, measured.spectrum = measure_structure(sample, task, representations=names, seed=seed)
        measured.importance = _measure_importance(sample, task, own, patches, settings)
    measured.scores = _with_columns(scores, structure, measured.efficiency)
    return measured


def _measure_importance(
    sample: AnnData, task: Task, own: str, patches: SamplePatches | None, settings: _Settings
) -> pd.DataFrame:
    """Return the part of an evaluation on permutation importance, for mean intensity and, with patches, for ``own``."""
    n_cells, seed = settings.importance_cells, settings.seed
    of_means = permutation_importance(sample, task, max_cells=max(_MEAN_INTENSITY_CELLS, n_cells), seed=seed)
    if patches is None or key_of(own) != f"X_{patches.run.method}":
        return of_means
    of_run = permutation_importance(
        sample,
        task,
        representation=own,
        permuted_features=patches.embed_permuted,
        markers=patches.run.markers,
        candidates=patches.rows,
        max_cells=n_cells,
        seed=seed,
    )
    return pd.concat([of_run, of_means], ignore_index=True)


def _with_columns(scores: pd.DataFrame, structure: pd.DataFrame, efficiency: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of an evaluation with further columns: structure and label efficiency."""
    more = structure.drop(columns="label").set_index("representation")
    if len(efficiency):
        for size, at in efficiency.groupby("labels_per_class"):
            by_name = at.set_index("representation")
            more[f"at_{size}"], more[f"at_{size}_sd"] = by_name["balanced_accuracy"], by_name["balanced_accuracy_sd"]
    return scores.join(more, on="representation")


def _score_some(
    sample: AnnData,
    rows: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    own: str,
    folding: Mapping[str, Any],
    split: Mapping[str, Any],
    notes: list[str],
) -> pd.DataFrame:
    """Return the scores of baselines that were computed for some cells; differences are those on these cells."""
    keys = [*baselines, *([] if is_baseline(own) else [key_of(own)])]
    some = AnnData(
        X=sample.X[rows],
        obs=sample.obs.iloc[rows].copy(),
        var=sample.var.copy(),
        obsm={key: sample.obsm[key][rows] for key in ("spatial", *keys) if key in sample.obsm} | dict(baselines),
        uns=dict(sample.uns),
    )
    reference = [MEAN_INTENSITY] if is_baseline(own) else [own, MEAN_INTENSITY]
    names = [name for name in available(some) if key_of(name) in baselines]
    try:
        task = set_task(some, max_cells=some.n_obs, **folding)
    except InputError as error:
        notes.append(f"{', '.join(names)}: not scored, because patches of only {len(rows):,} cells were read: {error}")
        return pd.DataFrame()
    notes.append(
        f"{', '.join(names)}: scored on the {len(task.rows):,} cells whose patches were read, and compared with the "
        "trained encoder and mean intensity on the same cells. Read more patches with `image_cells`."
    )
    scores = score(some, task, representations=[*reference, *names], **split)
    return scores[~scores["representation"].isin(reference)]


def _advise_transfer(adata: AnnData, rows: np.ndarray, settings: _Settings) -> list[str]:
    """Return a note of an evaluation whose scores train and test on the same two slides, with what shows a transfer."""
    names = sorted(set(adata.obs["slide"].iloc[rows].astype(str))) if "slide" in adata.obs else []
    if len(names) != 2 or settings.train_on or settings.test_on:
        return []
    return [
        "Cells of both slides trained and tested the probe, which overestimates how well it works on another slide. "
        f"Pass `train_on={names[:1]}` and `test_on={names[1:]}` to train on one and test on the other."
    ]


def _score_mixing(
    adata: AnnData, rows: np.ndarray, compare: Sequence[str | Path], use_rep: Sequence[str], settings: _Settings
) -> _Measured:
    """Score in an evaluation how well slides can be distinguished, on a sample of these cells, labelled or not."""
    if "slide" not in adata.obs or adata.obs["slide"].iloc[rows].nunique() < 2:
        return _Measured(notes=["All cells are from one slide, so the mixing of slides was not measured."])
    sample, _ = draw_sample(adata, rows, compare, use_rep, _MIXING_CELLS, settings.seed)
    try:
        mixing = measure_mixing(
            sample, representations=names_to_score(sample), guard_um=settings.guard_um, seed=settings.seed
        )
    except InputError as error:
        return _Measured(notes=[f"The mixing of slides was not measured: {error}"])
    return _Measured(mixing=mixing)
