"""The stages up to the embedding: masks, the training sample, the models, and z of every cell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxsplicer.embedding.embed import embed_blocks
from mxsplicer.embedding.sources import Source, from_slide, from_store
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.result.cohort import (
    share_out,
)
from mxsplicer.result.measuring import measure
from mxsplicer.result.work import Entry, Work, cells_of, mask_of
from mxsplicer.segmentation.segment import segment
from mxsplicer.splicer.batches import Normalization, measure_normalization
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run, untrained
from mxsplicer.splicer.scales import has_own_scales

_CELLS_OF_SCALE = 2_000  # to measure a slide's own normalisation on


def make_masks(work: Work) -> None:
    """Take the masks, and make those that were not given, with their nuclei where the segmenter knows them."""
    options = work.options

    def find(entry: Entry) -> None:
        slide, entry.mask = entry.slide, entry.given_mask
        if entry.mask is not None:
            return
        path, nuclei = (work.result.of_slide(slide.name, file) for file in ("mask.zarr", "nuclei.zarr"))
        if not path.exists():
            with work.timed("segmentation"):
                path.parent.mkdir(parents=True, exist_ok=True)
                segment(
                    slide,
                    path,
                    nuclear_marker=options.nuclear_marker,
                    nucleus_diameter_um=options.nucleus_diameter_um,
                    expansion_um=options.expansion_um,
                    membrane_marker=options.membrane_marker,
                    segmenter=options.segmenter,
                    nuclei_path=nuclei if options.finds_nuclei else None,
                    workers=work.running.workers,
                    executor=work.running.executor,
                    max_bytes=work.running.max_bytes,
                    overwrite=True,  # nuclei of a call that was killed between the two
                )
        entry.mask = open_mask(path, slide=slide)
        entry.nuclei = open_nuclei(nuclei, slide) if nuclei.exists() else None

    work.of_each("segmentation", find)


def embed(work: Work) -> None:
    """Train or take a model, and embed every cell."""
    if any(entry.cells is None for entry in work.entries):
        with work.timed("cells"):
            measure(work)
    running = work.running
    stores = {} if work.model and not work.options.keep_patches else _stores(work)
    run = work.model or _train(work, list(stores.values()), work.result.run, work.options.recipe)
    baselines = _baselines(work, list(stores.values()), run)

    def source(entry: Entry) -> Source:
        store, cells = stores.get(entry.slide.name), cells_of(entry)
        own = _own_scale(work, entry, store) if has_own_scales(run) else None
        if store is not None and store.n_cells == len(cells):
            return from_store(store, cells=cells, normalization=own)
        return from_slide(
            entry.slide,
            mask_of(entry),
            cells,
            patch_size_um=work.patch_size_um,
            normalization=own,
            workers=running.workers,
            executor=running.executor,
            max_bytes=running.max_bytes,
        )

    with work.timed("embedding"):
        sources = work.of_each("embedding", source)
        entries = {entry.slide.name: entry for entry in work.entries}
        embed_blocks(
            work.result.embedded,
            run,
            sources,
            baselines=baselines,
            device=running.device,
            fill_missing=work.options.fill_missing or run.fills_missing,
            on_failure=lambda name, error: work.leave_out(entries[name], "embedding", error),
        )


def _own_scale(work: Work, entry: Entry, store: PatchStore | None) -> Normalization:
    """Measure a slide's own normalisation, on its training sample or on another one of some cells."""
    path = work.result.of_slide(entry.slide.name, "sample.zarr")
    if store is None and not path.exists():
        store = _cut(work, entry, path, min(_CELLS_OF_SCALE, len(cells_of(entry))))
    return measure_normalization([store or PatchStore.open(path)], seed=work.options.seed)[0]


def _stores(work: Work) -> dict[str, PatchStore]:
    """Cut the training sample of every slide, as many cells of each as far as it has them, or all where they are kept.

    So no slide is heard above the others because it is large.
    """
    options = work.options
    n_cells = {entry.slide.name: len(cells_of(entry)) for entry in work.entries}
    shares = n_cells if options.keep_patches else share_out(options.training_cells, n_cells)

    def store(entry: Entry) -> tuple[str, PatchStore]:
        name = entry.slide.name
        path = work.result.of_slide(name, "patches.zarr")
        if path.exists():
            return name, PatchStore.open(path)
        with work.timed("patches"):
            return name, _cut(work, entry, path, shares[name])

    return dict(work.of_each("patches", store))


def _cut(work: Work, entry: Entry, path: Path, n_cells: int) -> PatchStore:
    path.parent.mkdir(parents=True, exist_ok=True)
    return extract_patches(
        entry.slide,
        mask_of(entry),
        path,
        patch_size_um=work.patch_size_um,
        nuclei=entry.nuclei if work.options.shows_nuclei else None,
        cells=cells_of(entry),
        max_cells=n_cells,
        seed=work.options.seed,
        workers=work.running.workers,
        executor=work.running.executor,
        max_bytes=work.running.max_bytes,
    )


def _train(work: Work, stores: Sequence[PatchStore], path: Path, recipe: Recipe) -> Run:
    if path.exists():
        return load_run(path, encoder=recipe.encoder)
    from mxsplicer.splicer.training import train  # with Lightning a second to load, which --model has no use for

    with work.timed("training" if path == work.result.run else f"training the baseline ({recipe.method})"):
        return train(
            stores,
            path,
            recipe=recipe,
            panel=work.options.panel,
            device=work.running.device,
            max_bytes=work.running.max_bytes,
        )


def _baselines(work: Work, stores: Sequence[PatchStore], run: Run) -> dict[str, Run]:
    """Return what the embedding is scored beside, where there are labels to score it with."""
    if not work.has_labels or not work.options.baselines:
        return {}
    baselines = {"X_untrained": untrained(run, seed=work.options.seed)}
    if stores and run.method != "joint":
        baselines["X_joint"] = _train(work, stores, work.result.joint, replace(work.options.recipe, method="joint"))
    return baselines
