"""From slides to a result folder: the composition of all stages, each of which is a public function of its own.

Every stage writes under a temporary name and renames when it
is done, and ``settings.json`` remembers what the folder was begun with; so the same call goes on where it stopped, a
finished one does nothing, and another one is refused.
"""

import gc
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.cellfiles import split_cells
from mxsplicer.cohort import (
    FILES,
    Sample,
    join_labels_of_slides,
    read_cohort,
    said_panels,
    share_out,
    shared_markers,
)
from mxsplicer.embedding import (
    Source,
    embed_blocks,
    from_slide,
    from_store,
    join_blocks,
    open_cells,
    save_cells,
    seconds_per_cell,
)
from mxsplicer.errors import InputError
from mxsplicer.locks import held
from mxsplicer.memory import said_bytes
from mxsplicer.outcomes import is_of_slide, note, reason_of
from mxsplicer.patches.blocks import choose_patch_px
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.planning import plan_extraction, said_seconds
from mxsplicer.patches.store import PatchStore
from mxsplicer.report import write_report
from mxsplicer.result import Result, differences, failures, logged, open_images, write_features, write_index, write_json
from mxsplicer.slides.cells import Cells, measure_cells
from mxsplicer.slides.estimate import estimate_cells
from mxsplicer.slides.location import Location, absolute, locate
from mxsplicer.slides.masks import open_mask, open_nuclei
from mxsplicer.slides.panel import find_nuclear_marker, parse_renames
from mxsplicer.slides.readers import open_slide, slide_name
from mxsplicer.slides.segmentation import knows_nuclei, segment
from mxsplicer.slides.selection import keep_inside
from mxsplicer.slides.slide import LazyImage, Slide, check_mask, fingerprint, select_channels
from mxsplicer.splicer.batches import Normalization, measure_normalization
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, check_panel, load_run, untrained
from mxsplicer.splicer.scales import has_own_scales
from mxsplicer.splicer.training import train
from mxsplicer.tl.harmony import harmonize
from mxsplicer.tl.labels import (
    check_labels,
    check_samples,
    join_labels,
    join_samples,
    obs_name,
    read_table,
    regions_of_slides,
)
from mxsplicer.tl.regions import cells_inside
from mxsplicer.tl.representations import LEARNED, MEAN_INTENSITY

logger = logging.getLogger(__name__)
T = TypeVar("T")

PANELS = ("same", "shared")

_CELLS_OF_SCALE = 2_000  # to measure a slide's own normalisation on
_PATCH_SIZE_UM = 32.0  # a cell of 10 to 15 µm and its neighbours
# What the stages after the encoder take, as tests/benchmarks/bench_embedding.py measures it on one core.
_SECONDS_TO_CLUSTER, _SECONDS_TO_PLACE = 60.0, 2.5e-4  # the sample, and a cell beyond it
_WRITING_SPEED = 30e6  # bytes of z per second, compressed by gzip and written in two orders
_BYTES_TO_CLUSTER, _BYTES_PER_CELL = 1_150_000_000, 300  # with all libraries; of the tables, the markers' intensities
_PACKAGES = ("mxsplicer", "torch", "numpy", "zarr", "tifffile", "scikit-image", "scikit-learn", "anndata", "scanpy")


@dataclass(frozen=True)
class Options:
    """What can be chosen beyond the slides; see the stages for what each one means."""

    masks: tuple[Location, ...] = ()
    mask_page: int | None = None
    nuclei: tuple[Location, ...] = ()
    markers: Path | None = None
    rename: tuple[str, ...] = ()  # OLD=NEW
    drop: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    nuclear_marker: str | None = None
    nucleus_diameter_um: float = 7.0
    expansion_um: float = 3.0
    membrane_marker: str | None = None
    segmenter: str | None = None  # a name, or module:function; by default the one built in
    min_area_um2: float = 5.0
    measure: tuple[str, ...] = ()  # of each cell and marker beside the mean; each becomes a layer
    patch_size_um: float | None = None  # 32, or what the model takes
    training_cells: int = 200_000
    keep_patches: bool = False  # of every cell, not of the training sample alone
    model: Path | None = None
    recipe: Recipe = field(default_factory=Recipe)
    labels: Path | None = None
    label: tuple[str, ...] = ()
    only_cells: bool = False  # no clusters, scores and report; for a slide that is merged with others
    samples: Path | None = None
    harmony: str | None = None  # column of obs whose batches Harmony brings together before cells are clustered
    per_slide: bool = True  # of several slides, an AnnData of each too
    cohort: Path | None = None  # table of the slides; see mxsplicer.cohort
    fill_missing: bool = False  # markers of the model that a slide lacks are shown at their mean
    panel: str = "same"  # or "shared": train on the markers that all slides have
    roi: Path | None = None  # outlines (GeoJSON): only cells in them; of several slides a folder of files
    groups: str | None = None
    baselines: bool = True

    @property
    def seed(self) -> int:
        """Of all that is drawn at random; that of the training."""
        return self.recipe.seed

    def __post_init__(self) -> None:
        """Raise where one option needs another."""
        parse_renames(self.rename)
        if self.label and self.labels is None and self.cohort is None:
            msg = f"--label {self.label[0]} names a column, but of no table: give the table by --labels."
            raise InputError(msg)
        if self.panel not in PANELS:
            msg = f"there is no panel {self.panel!r}; there are {', '.join(PANELS)}."
            raise InputError(msg)
        if self.cohort is not None and (self.masks or self.nuclei or self.samples):
            given = "--mask" if self.masks else "--nuclei" if self.nuclei else "--samples"
            msg = f"the table of the cohort tells of each slide what {given} does: leave {given} out."
            raise InputError(msg)
        if self.labels is not None and not self.masks and self.cohort is None:
            msg = "labels are matched by the ids of cells: give the masks that have these ids by --mask."
            raise InputError(msg)
        if self.nuclei and not self.masks:
            msg = "a mask of nuclei carries the numbers of the cells of another mask: give that one by --mask."
            raise InputError(msg)
        if "nucleus" in self.measure and not self._has_nuclei:
            msg = "the mean of the nucleus needs a mask of nuclei: give it by --nuclei, or leave out --measure nucleus."
            raise InputError(msg)
        if self.shows_nuclei and not self.model and not self._has_nuclei:
            msg = "--deconstruct nucleus needs a mask of nuclei: give it by --nuclei."
            raise InputError(msg)
        if self.groups not in (None, "slide") and self.about_slides is None:
            msg = f"--groups {self.groups} names a column, but of no table: give the table by --samples."
            raise InputError(msg)

    @property
    def about_slides(self) -> Path | None:
        """The table with one row per slide: patient, batch, ..."""
        return self.samples or self.cohort

    @property
    def _has_nuclei(self) -> bool:
        return bool(self.nuclei or self.cohort or (not self.masks and self.finds_nuclei))

    @property
    def shows_nuclei(self) -> bool:
        """Whether a component is the nucleus, which only a mask of nuclei tells."""
        return "nucleus" in self.recipe.deconstruction.split("+")

    @property
    def finds_nuclei(self) -> bool:
        """Whether a mask that is made here comes with one of the nuclei."""
        return knows_nuclei(self.segmenter, self.membrane_marker)


@dataclass(frozen=True)
class Running:
    """Where and in how much memory: what does not change the outcome.

    Attributes
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    workers, executor
        How many, and what they are; see :func:`~mxsplicer.patches.extraction.extract_patches`.
    max_bytes
        What the whole process may hold.
    """

    device: str = "auto"
    workers: int | None = None
    executor: str = "threads"
    max_bytes: int | None = None


@dataclass(frozen=True)
class EmbeddingPlan:
    """What an embedding will do and cost; all figures are estimates."""

    n_cells: int
    n_features: int
    disk_bytes: int  # at most at a time, in the result folder, beside the mask and the training sample
    memory_bytes: int  # at most
    seconds: dict[str, float]  # by stage
    dominated_by: str  # the stage that takes longest
    not_counted: tuple[str, ...]  # stages that are not in ``seconds``

    def __str__(self) -> str:
        """Return the plan as people read it."""
        return "\n".join(
            [
                f"cells   about {self.n_cells:,}, {self.n_features} features each",
                f"disk    at most {said_bytes(self.disk_bytes)}",
                f"memory  at most {said_bytes(self.memory_bytes)}",
                *said_seconds(self.seconds, self.dominated_by),
                *[f"  {stage:<22}on top" for stage in self.not_counted],
            ]
        )


@dataclass(eq=False)
class _Entry:
    """One slide of a call, and what was made of it so far."""

    sample: Sample
    slide: Slide
    given_mask: LazyImage | None
    nuclei: LazyImage | None
    channels: list[int] | None = None  # those that are taken, where they are not all
    mask: LazyImage | None = None  # given or made
    cells: Cells | None = None  # measured, and not yet embedded


@dataclass(eq=False)
class _Work:
    """One call: what it was given, where it writes, how long each stage took."""

    options: Options
    result: Result
    entries: list[_Entry]
    model: Run | None
    running: Running
    failed: dict[str, str] = field(default_factory=dict)  # slides that are left out, and why
    seconds: dict[str, float] = field(default_factory=dict)
    is_begun: bool = False

    @property
    def slides(self) -> list[Slide]:
        return [entry.slide for entry in self.entries]

    @property
    def given_masks(self) -> list[LazyImage | None]:
        return [entry.given_mask for entry in self.entries]

    @property
    def has_labels(self) -> bool:
        return self.options.labels is not None or any(entry.sample.labels for entry in self.entries)

    def of_each(self, stage: str, do: Callable[[_Entry], T]) -> list[T]:
        """Return what ``do`` makes of every slide; one that fails is left out of all that follows."""
        made = []
        for entry in list(self.entries):
            try:
                made.append(do(entry))
            except Exception as error:
                self.leave_out(entry, stage, error)
        return made

    def leave_out(self, entry: _Entry, stage: str, error: Exception) -> None:
        """Go on without a slide, and note why; raise where all others would have the same trouble, or none is left."""
        # Before anything is written, what was typed can be mended; hours later the other slides are worth more.
        tolerant = self.options.cohort is not None or (self.is_begun and len(self.result.slide_names) > 1)
        if not tolerant or not is_of_slide(error):
            raise error
        name = entry.slide.name
        self.entries.remove(entry)
        self.failed[name] = f"{stage}: {reason_of(error)}"
        logger.error("slide %s is left out (%s)", name, self.failed[name], exc_info=not isinstance(error, InputError))
        _check_any(self.entries, self.failed)
        if self.is_begun:
            write_json(self.result.settings, _record(self))

    @property
    def patch_size_um(self) -> float:
        assert self.options.patch_size_um is not None, "_prepared resolves it"
        return self.options.patch_size_um

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Of the slides and masks, and of the tables and model; read once, for every stage asks for them."""
        inputs = {
            entry.slide.name: {
                "image": fingerprint(entry.slide.path) if entry.slide.path else "",
                "mask": fingerprint(entry.sample.mask) if entry.sample.mask else "",
                **({"nuclei": fingerprint(entry.sample.nuclei)} if entry.sample.nuclei else {}),
            }
            for entry in self.entries
        }
        tables = {
            "markers": self.options.markers,
            "labels": self.options.labels,
            "samples": self.options.samples,
            "cohort": self.options.cohort,
            "roi": self.options.roi,
        }
        files = {option: fingerprint(path) for option, path in tables.items() if path}
        if self.model is not None:
            files["model"] = self.model.fingerprint()
        return {"inputs": inputs, "files": files}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        logger.info("%s", stage)
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
        write_json(self.result.settings, _record(self))


def embed_slides(
    slides: str | Path | Sequence[str | Path | Sample] = (),
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> Result:
    """Turn slides into an AnnData of their cells with a learned embedding, and a report.

    Parameters
    ----------
    slides
        Image files of one panel, or samples with their masks and tables; none where ``options.cohort`` names a table of
        them. One model is trained over all, on as many cells of each slide, as far as it has them.
    out
        Result folder; ``SLIDE.mxs`` by default for a single slide.
    options
        All that changes the outcome.
    device, workers, executor, max_bytes
        Where, on how many workers of which kind, and in how much memory; the outcome is the same.
    overwrite
        Replace a result that was made from other slides or with other options.

    Raises
    ------
    InputError
        If anything given does not fit; nothing is written then. Or if another command works on the same folder.

    Notes
    -----
    A slide that fails while the others go on is left out, with its reason in ``Result.failed``: of a cohort's table
    from the start, of slides that were named once the result is begun. The same call leaves it out again.
    """
    paths = [slides] if isinstance(slides, str | Path) else list(slides)
    work = _prepared(
        paths, out, options or Options(), Running(device, workers, executor, max_bytes), overwrite=overwrite
    )
    _check_memory(work)
    with held(work.result.path):
        if not _is_begun(work):
            _measure_before_writing(work)
            _check_memory(work)
        _begin(work, overwrite=overwrite)
        if work.result.index.is_file():
            logger.info("%s is complete", work.result.path)
        else:
            with logged(work.result):
                _make(work)
    note(work.result.path)
    return work.result


def _make(work: _Work) -> None:
    """Go through the stages that are not done."""
    for name, reason in work.failed.items():
        logger.warning("without slide %s: %s", name, reason)
    _masks(work)
    if not work.result.cells.is_file():
        if not work.result.embedded.is_file():
            _embed(work)
            for entry in work.entries:
                entry.cells = None  # of millions of cells they are hundreds of megabytes
            with work.timed("embedding"):
                join_blocks(work.result.embedded, slides=[slide.name for slide in work.slides])
        _analyse(work)
        gc.collect()  # an AnnData refers to itself
    split_result(work.result, [slide.name for slide in work.slides], wanted=work.options.per_slide)
    work.result.embedded.unlink(missing_ok=True)
    if not (work.result.report.is_file() or work.options.only_cells):
        with work.timed("report"):
            masks = [_mask_of(entry) for entry in work.entries]
            write_result_report(work.result.path, slides=work.slides, masks=masks)
    _finish(work)


def plan_slides(
    slides: str | Path | Sequence[str | Path | Sample] = (),
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> EmbeddingPlan:
    """Return what :func:`embed_slides` would do and cost, writing nothing.

    A few tiles of each slide are decoded and cut, and a few patches of noise pass the encoder, so that it takes
    seconds. The arguments are those of ``embed_slides``.
    """
    paths = [slides] if isinstance(slides, str | Path) else list(slides)
    work = _prepared(paths, out, options or Options(), Running(device, workers, executor, max_bytes))
    seconds: dict[str, float] = {}
    n_cells, memory_bytes = 0, 0
    for slide, mask in zip(work.slides, work.given_masks, strict=True):
        if mask is None:
            n_cells += estimate_cells(slide, nuclear_marker=work.options.nuclear_marker).n_cells
            continue
        plan = plan_extraction(
            slide,
            mask,
            patch_size_um=work.patch_size_um,
            min_area_um2=work.options.min_area_um2,
            workers=workers,
            max_bytes=max_bytes,
            executor=executor,
        )
        n_cells += plan.n_cells_of_slide
        memory_bytes = max(memory_bytes, plan.memory_bytes)
        for stage in ("measuring cells", "decoding tiles", "cutting patches"):
            seconds[stage] = seconds.get(stage, 0.0) + plan.seconds[stage]
    n_markers, patch_px = len(work.slides[0].markers), choose_patch_px(work.slides[0], work.patch_size_um)
    recipe = work.options.recipe
    encoder = (
        work.model.encoder
        if work.model
        else make_encoder(recipe.encoder, n_markers, patch_px, width=recipe.encoder_width)
    )
    n_inputs = len(work.model.markers) if work.model else n_markers
    per_cell = seconds_per_cell(encoder, (n_inputs, patch_px, patch_px), device=device)
    n_features = int(encoder.out_features)  # type: ignore[arg-type]
    z_bytes = 4 * n_cells * n_features
    seconds["encoder"] = per_cell * n_cells
    seconds["clusters"] = _SECONDS_TO_CLUSTER + n_cells * _SECONDS_TO_PLACE
    seconds["writing z"] = z_bytes / _WRITING_SPEED
    not_counted = ["segmentation and cells"] if None in work.given_masks else []
    return EmbeddingPlan(
        n_cells=n_cells,
        n_features=n_features,
        disk_bytes=3 * z_bytes,
        memory_bytes=max(memory_bytes, _bytes_to_cluster(n_cells)),
        seconds={stage: float(f"{value:.3g}") for stage, value in seconds.items()},
        dominated_by=max(seconds, key=lambda stage: seconds[stage]),
        not_counted=(*not_counted, *([] if work.model else ["training"])),
    )


def write_result_report(
    path: str | Path,
    *,
    slides: Sequence[Slide] | None = None,
    masks: Sequence[LazyImage] | None = None,
    out: str | Path | None = None,
    roi: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of a result folder from what lies in it.

    Parameters
    ----------
    path
        The result folder.
    slides, masks
        Of the result, where they are open already; otherwise they are opened where the result says they are, and a
        slide that was moved is left out of the pictures.
    out
        The page; ``report.html`` in the folder by default, and ``report_<name of the outlines>.html`` of outlines.
    roi
        Outlines (GeoJSON): the page is about the cells in them alone; of several slides a folder of files. Correlations
        and scores stay those of the cells that they were made of.
    """
    path = Path(path)
    if not (path / "cells.h5ad").is_file():
        msg = f"{path} holds no cells.h5ad: it is no finished result. Run `mxsplicer embed` first."
        raise InputError(msg)
    if slides is None or masks is None:
        slides, masks = open_images(path)
    log = path / "run" / "log.jsonl"
    page = path / ("report.html" if roi is None else f"report_{Path(roi).name.partition('.')[0]}.html")
    with open_cells(path / "cells.h5ad") as adata:
        return write_report(
            cells_inside(adata, roi),
            page if out is None else out,
            slides=slides,
            masks=masks,
            log=log if log.is_file() else None,
            scores=pd.DataFrame(adata.uns["mxsplicer_probe"]) if "mxsplicer_probe" in adata.uns else None,
            failed=failures(path / "settings.json"),
            overwrite=overwrite,
        )


def _prepared(
    paths: Sequence[str | Path | Sample],
    out: str | Path | None,
    options: Options,
    running: Running,
    *,
    overwrite: bool = False,
) -> _Work:
    """Open and check all that is given, without writing anything."""
    samples = samples_of(paths, options)
    names = [sample.name or slide_name(sample.path) for sample in samples]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"two slides are called {twice.pop()!r}. Give them different file names."
        raise InputError(msg)
    if out is None and len(names) > 1:
        msg = f"{len(names)} slides were given; say where their common result goes by --out."
        raise InputError(msg)
    result = Result(Path(out) if out is not None else Path(f"{names[0]}.mxs"), tuple(names))
    model = load_run(options.model, encoder=options.recipe.encoder) if options.model else None
    size = options.patch_size_um
    if size is None:
        size = model.settings["patch_size_um"] if model else _PATCH_SIZE_UM
    options = replace(options, patch_size_um=size)
    failed = {} if overwrite else failures(result.settings)
    work = _Work(options, result, [], model, running, failed=failed)
    for name, sample in zip(names, samples, strict=True):
        if name in work.failed:
            continue
        try:
            work.entries.append(_opened(work, name, sample))
        except Exception as error:
            if options.cohort is None or not is_of_slide(error):
                raise
            work.failed[name] = f"opening: {reason_of(error)}"
            logger.error("slide %s is left out (%s)", name, work.failed[name])
    _check_any(work.entries, work.failed)
    if model is None:
        _agree(work)
    _check_tables(options, work.slides)
    find_device(running.device)
    if model is None:
        options.recipe.components(work.slides[0].markers)  # raises where one of its names is none of theirs
    return work


def samples_of(paths: Sequence[str | Path | Sample], options: Options) -> list[Sample]:
    """Return the slides of a cohort's table, or those that were named."""
    if options.cohort is not None:
        if paths:
            msg = f"{len(paths)} slides were named beside the table of the cohort, {options.cohort}. Give one of both."
            raise InputError(msg)
        return read_cohort(options.cohort)
    if not paths:
        msg = "no SLIDE was given: name image files, or a table of them by --cohort."
        raise InputError(msg)
    places = [locate(path) for path in paths if not isinstance(path, Sample)]
    if len(places) < len(paths):
        return [path if isinstance(path, Sample) else Sample(None, locate(path)) for path in paths]
    names = [slide_name(place) for place in places]
    masks, nuclei = _mask_paths(options.masks, names), _mask_paths(options.nuclei, names)
    return [Sample(None, place, mask, own) for place, mask, own in zip(places, masks, nuclei, strict=True)]


def _opened(work: _Work, name: str, sample: Sample) -> _Entry:
    """Open and check a slide and its mask."""
    options, model = work.options, work.model
    assert options.patch_size_um is not None, "_prepared resolves it"
    slide = open_slide(
        sample.path,
        markers=sample.markers or options.markers,
        rename=parse_renames(options.rename),
        drop=options.drop,
        pixel_size_um=options.pixel_size_um,
        name=name,
    )
    mask = None if sample.mask is None else open_mask(sample.mask, page=options.mask_page, slide=slide)
    nuclei = None if sample.nuclei is None else open_nuclei(sample.nuclei, slide)
    if mask is not None:
        check_mask(mask, slide)
    elif options.nuclear_marker is not None:
        slide.channels_of([options.nuclear_marker])
    elif ":" in (options.segmenter or ""):
        pass  # a function of the user's own sees all markers
    elif find_nuclear_marker(slide.markers) is None:
        msg = (
            f"slide {slide.name!r} has no mask and no marker known to stain nuclei ({', '.join(slide.markers)}). "
            "Give a mask by --mask, or the nuclear marker by --nuclear-marker."
        )
        raise InputError(msg)
    patch_px = choose_patch_px(slide, options.patch_size_um)
    if model is not None:
        check_panel(
            model,
            slide.name,
            slide.markers,
            patch_px,
            slide.pixel_size_um,
            in_file=slide.markers_in_file,
            fill_missing=options.fill_missing,
        )
    if sample.labels is not None:
        if sample.mask is None:
            msg = f"labels of slide {name!r} are matched by the ids of cells: name its mask in the table of the cohort."
            raise InputError(msg)
        read_table(sample.labels)
    return _Entry(sample, slide, mask, nuclei)


def _agree(work: _Work) -> None:
    """Give all slides one panel, or raise where they differ."""
    first, names = work.slides[0], [slide.name for slide in work.slides]
    panels = [slide.markers for slide in work.slides]
    other = next((slide for slide in work.slides if slide.markers != first.markers), None)
    if other is None:
        return
    shared = shared_markers(panels)
    if work.options.panel == "same":
        differ = sorted(set(other.markers) ^ set(first.markers)) or ["the order"]
        msg = f"slides {first.name!r} and {other.name!r} differ in their markers: {', '.join(differ)}."
        if shared:
            msg += f" Of {len(names)} slides, {said_panels(panels)}. To train on those of all, give --panel shared."
        raise InputError(msg)
    if not shared:
        msg = f"no marker is on all {len(names)} slides: {', '.join(names[:5])}. Rename those that are the same."
        raise InputError(msg)
    logger.warning("the panels of %d slides differ: %s. The model sees those of all.", len(names), said_panels(panels))
    for entry in work.entries:
        entry.channels = entry.slide.channels_of(shared)
        entry.slide = select_channels(entry.slide, entry.channels)


def _check_any(entries: Sequence[_Entry], failed: dict[str, str]) -> None:
    if not entries:
        name, reason = next(iter(failed.items()))
        msg = f"none of the {len(failed)} slides can be used. The first, {name}: {reason}"
        raise InputError(msg)


def _check_tables(options: Options, slides: Sequence[Slide]) -> None:
    if options.roi is not None:
        _roi_files(options.roi, slides)
    if options.about_slides is not None:
        groups = None if options.groups == "slide" else options.groups
        check_samples(options.about_slides, [slide.name for slide in slides], groups)


def _mask_paths(given: Sequence[Location], names: Sequence[str]) -> list[Location | None]:
    """Return the mask of each slide: in their order, or found in a folder by the slide's name."""
    if not given:
        return [None] * len(names)
    given = [locate(path) for path in given]
    folder = given[0]
    if len(given) == 1 and isinstance(folder, Path) and folder.is_dir() and not _is_zarr(folder):
        return [_mask_in(folder, name) for name in names]
    if len(given) != len(names):
        msg = (
            f"{len(names)} slides and {len(given)} masks were given. Give a mask for each, or the folder of the masks."
        )
        raise InputError(msg)
    return list(given)


def _is_zarr(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("zarr.json", ".zarray", ".zgroup"))


def _mask_in(folder: Path, name: str) -> Path:
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.startswith(name) and not path.name[len(name) : len(name) + 1].isalnum()
    ]
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        msg = f"folder {folder} holds {len(found)} masks whose name begins with {name!r} ({listed}); one is needed."
        raise InputError(msg)
    return found[0]


def _check_memory(work: _Work) -> None:
    """Raise where the limit is below what comes after the encoder takes, which would show after hours.

    Cells that were not measured yet are estimated where there is no mask, and not counted where there is one.
    """
    limit, marker = work.running.max_bytes, work.options.nuclear_marker
    if limit is None:
        return
    counted = [len(entry.cells) for entry in work.entries if entry.cells is not None]
    unmasked = [entry.slide for entry in work.entries if entry.given_mask is None]
    n_cells = sum(counted or (estimate_cells(slide, nuclear_marker=marker).n_cells for slide in unmasked))
    needed = _bytes_to_cluster(n_cells)
    if needed > limit:
        of_cells = f" and of {n_cells:,} cells" if n_cells else ""
        msg = (
            f"--max-memory {said_bytes(limit)} is too little: clusters and their map take {said_bytes(needed)}, of all "
            f"libraries{of_cells}. Give at least that."
        )
        raise InputError(msg)


def _bytes_to_cluster(n_cells: int) -> int:
    return _BYTES_TO_CLUSTER + n_cells * _BYTES_PER_CELL


def _measure_before_writing(work: _Work) -> None:
    """Measure the cells where all masks are given: a mask or labels that do not fit are found before writing."""
    if None in work.given_masks:
        return
    began = time.monotonic()
    for entry in work.entries:
        entry.mask = entry.given_mask
    _measure(work)
    work.of_each("labels", lambda entry: _check_labels_of(work, entry))
    if work.options.labels is not None:
        ids = {entry.slide.name: _cells_of(entry).table[["cell_id"]] for entry in work.entries}
        of_all = pd.concat(ids, names=["slide"]).reset_index("slide")
        check_labels(work.options.labels, work.options.label, of_all)
    work.seconds["cells"] = time.monotonic() - began


def _check_labels_of(work: _Work, entry: _Entry) -> None:
    if entry.sample.labels is not None:
        cells = _cells_of(entry).table[["cell_id"]].assign(slide=entry.slide.name)
        check_labels(entry.sample.labels, work.options.label, cells)


def _roi_files(roi: Path, slides: Sequence[Slide]) -> dict[str, Path]:
    """Return the file of outlines of each slide, or raise where one lacks it."""
    files = regions_of_slides(roi, [slide.name for slide in slides])
    missing = [slide.name for slide in slides if slide.name not in files]
    if missing:
        msg = f"folder {roi} of --roi holds no GeoJSON file for slide {missing[0]!r}; each slide needs one."
        raise InputError(msg)
    return files


def _measure(work: _Work) -> None:
    """Measure the cells of every slide."""
    options, running = work.options, work.running
    files = _roi_files(options.roi, work.slides) if options.roi is not None else {}

    def measure(entry: _Entry) -> None:
        cells = measure_cells(
            entry.slide,
            _mask_of(entry),
            nuclei=entry.nuclei,
            statistics=("mean", *options.measure),
            min_area_um2=options.min_area_um2,
            workers=running.workers,
            max_bytes=running.max_bytes,
        )
        entry.cells = keep_inside(cells, files[entry.slide.name], entry.slide) if files else cells

    work.of_each("cells", measure)


def _mask_of(entry: _Entry) -> LazyImage:
    assert entry.mask is not None, "masks come first"
    return entry.mask


def _cells_of(entry: _Entry) -> Cells:
    assert entry.cells is not None, "cells are measured before anything is made of them"
    return entry.cells


def _is_begun(work: _Work) -> bool:
    file = work.result.settings
    return file.is_file() and differences(_recorded(file), _record(work)) == []


def _begin(work: _Work, *, overwrite: bool) -> None:
    """Create the result folder, or go on with one that was begun by the same call."""
    path, file = work.result.path, work.result.settings
    if path.exists() and not file.is_file() and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path} exists and is not a result of mxsplicer. Choose another folder by --out."
        raise InputError(msg)
    if file.is_file():
        before = _recorded(file)
        differ = differences(before, _record(work))
        if not differ and not overwrite:
            work.seconds.update(before["seconds"])
            work.is_begun = True
            return
        if not overwrite:
            msg = (
                f"{path} exists and was made differently ({'; '.join(differ[:3])}). "
                "Choose another folder by --out, or --overwrite to replace it."
            )
            raise InputError(msg)
        for given in _given_paths(work):
            if given.resolve().is_relative_to(path.resolve()):
                msg = f"{given} lies in {path}, which --overwrite would delete. Choose another folder by --out."
                raise InputError(msg)
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    write_json(file, _record(work))
    work.is_begun = True


def _given_paths(work: _Work) -> list[Path]:
    options = work.options
    tables = (options.markers, options.labels, options.samples, options.cohort, options.roi)
    of_slides = [getattr(entry.sample, one) for entry in work.entries for one in FILES]
    given = (*of_slides, options.model, *tables)
    return [path for path in given if isinstance(path, Path)]


def _record(work: _Work) -> dict[str, Any]:
    """Return what the outcome depends on, as JSON has it."""
    names = list(work.result.slide_names)
    options = _options_as_json(work.options)
    return {"options": options, **work.fingerprints, "slides": names, "failed": work.failed, "seconds": work.seconds}


def _recorded(settings: Path) -> dict[str, Any]:
    """Return what a result was begun with; options that are newer than it were at their defaults."""
    record: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    return record | {"options": _options_as_json(Options()) | record["options"]}


def _options_as_json(options: Options) -> dict[str, Any]:
    """Return every option by its name, those of the recipe among the others."""
    given = {one.name: _as_json(getattr(options, one.name)) for one in fields(options) if one.name != "recipe"}
    return given | options.recipe.to_settings()


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return absolute(value)
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value


def _masks(work: _Work) -> None:
    """Take the masks, and make those that were not given, with their nuclei where the segmenter knows them."""
    options = work.options

    def find(entry: _Entry) -> None:
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
                    max_bytes=work.running.max_bytes,
                    overwrite=True,  # nuclei of a call that was killed between the two
                )
        entry.mask = open_mask(path, slide=slide)
        entry.nuclei = open_nuclei(nuclei, slide) if nuclei.exists() else None

    work.of_each("segmentation", find)


def _embed(work: _Work) -> None:
    """Train or take a model, and embed every cell."""
    if any(entry.cells is None for entry in work.entries):
        with work.timed("cells"):
            _measure(work)
    running = work.running
    stores = {} if work.model and not work.options.keep_patches else _stores(work)
    run = work.model or _train(work, list(stores.values()), work.result.run, work.options.recipe)
    baselines = _baselines(work, list(stores.values()), run)

    def source(entry: _Entry) -> Source:
        store, cells = stores.get(entry.slide.name), _cells_of(entry)
        own = _own_scale(work, entry, store) if has_own_scales(run) else None
        if store is not None and store.n_cells == len(cells):
            return from_store(store, cells=cells, normalization=own)
        return from_slide(
            entry.slide,
            _mask_of(entry),
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
            fill_missing=work.options.fill_missing,
            when_failing=lambda name, error: work.leave_out(entries[name], "embedding", error),
        )


def _own_scale(work: _Work, entry: _Entry, store: PatchStore | None) -> Normalization:
    """Measure a slide's own normalisation, on its training sample or on another one of some cells."""
    path = work.result.of_slide(entry.slide.name, "sample.zarr")
    if store is None and not path.exists():
        store = _cut(work, entry, path, min(_CELLS_OF_SCALE, len(_cells_of(entry))))
    return measure_normalization([store or PatchStore.open(path)], seed=work.options.seed)[0]


def _analyse(work: _Work) -> None:
    """Correlate, cluster and score the embedded cells, and write the AnnData."""
    options, result = work.options, work.result
    run = work.model or load_run(result.run, encoder=options.recipe.encoder)
    use_rep = f"X_{run.method}"
    with open_cells(result.embedded) as adata:
        adata.uns["spatialdata_attrs"] = {
            "region": [slide.name for slide in work.slides],
            "region_key": "slide",
            "instance_key": "cell_id",
        }
        adata.uns["mxsplicer"] = _about(work, run) | adata.uns["mxsplicer"]
        if options.about_slides is not None:
            join_samples(adata, options.about_slides, leave=FILES)
        if not options.only_cells:
            of_slides = {entry.slide.name: entry.sample.labels for entry in work.entries if entry.sample.labels}
            interpret(adata, use_rep, options, of_slides, work.timed)
            write_features(result.features, adata.obsm[use_rep])
        adata.uns["mxsplicer"]["seconds"] = work.seconds
        save_cells(adata, result.cells, embedded=result.embedded)


def split_result(result: Result, slides: Sequence[str], *, wanted: bool = True) -> None:
    """Write an AnnData of each slide beside the one of all, where there are several."""
    places = {name: result.of_slide(name, "cells.h5ad") for name in slides}
    places = {name: place for name, place in places.items() if place != result.cells and not place.exists()}
    if places and wanted:
        split_cells(result.cells, places)


def interpret(
    adata: AnnData,
    use_rep: str,
    options: Options,
    labels_of: Mapping[str, Path],
    timed: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Correlate and cluster embedded cells, and score them where there are labels.

    Parameters
    ----------
    adata
        The cells; what is known of their slides stands in ``obs`` already.
    use_rep
        Key of the representation.
    options
        Tells labels, groups and the seed.
    labels_of
        Tables of labels of single slides, by the slide's name.
    timed
        Around each stage, called with its name.
    """
    basis = use_rep
    if options.harmony is not None:
        with timed("harmony"):
            harmonize(adata, batch=obs_name(options.harmony), use_rep=use_rep, seed=options.seed)
            basis = "X_harmony"
    with timed("correlation and clusters"):
        tl.correlate(adata, use_rep=use_rep, key_added="splicer_correlation")
        tl.cluster(adata, use_rep=basis, seed=options.seed)
        tl.name_clusters(adata)
    if adata.obs["slide"].nunique() > 1:
        with timed("mixing of slides"):
            _mix(adata, use_rep, seed=options.seed)
    if options.labels is not None or labels_of:
        with timed("scores"):
            _score(adata, options, labels_of)


def _mix(adata: AnnData, use_rep: str, *, seed: int) -> None:
    """Measure whether slides and batches can be told apart, before and after: by intensities, by what was learned."""
    learned = [use_rep, *(["X_harmony"] if "X_harmony" in adata.obsm else [])]
    names = {key: name for name, key in LEARNED.items()}
    shown = [names.get(key, key) for key in learned]
    found = []
    for batch in ("slide", "batch"):
        if batch not in adata.obs or adata.obs[batch].nunique() < 2:
            continue
        try:
            found.append(tl.measure_mixing(adata, batch=batch, representations=[MEAN_INTENSITY, *shown], seed=seed))
        except InputError as error:  # slides of too few cells
            logger.warning("whether a cell's %s can be told from its features is not known: %s", batch, error)
    if found:
        mixing = pd.concat(found, ignore_index=True)
        adata.uns["mxsplicer_mixing"] = mixing.assign(learned=mixing["representation"].isin(shown))


def _score(adata: AnnData, options: Options, labels_of: Mapping[str, Path]) -> None:
    groups = options.groups and obs_name(options.groups)
    joined = (
        join_labels(adata, options.labels, options.label)
        if options.labels
        else join_labels_of_slides(adata, labels_of, options.label)
    )
    for label in joined:
        try:
            tl.probe(adata, label=label, groups=groups, seed=options.seed)
        except InputError as error:  # hours of training are worth more than one score
            logger.warning("%s is not scored: %s", label, error)


def _stores(work: _Work) -> dict[str, PatchStore]:
    """Cut the training sample of every slide, as many cells of each as far as it has them, or all where they are kept.

    So no slide is heard above the others because it is large.
    """
    options = work.options
    n_cells = {entry.slide.name: len(_cells_of(entry)) for entry in work.entries}
    shares = n_cells if options.keep_patches else share_out(options.training_cells, n_cells)

    def store(entry: _Entry) -> tuple[str, PatchStore]:
        name = entry.slide.name
        path = work.result.of_slide(name, "patches.zarr")
        if path.exists():
            return name, PatchStore.open(path)
        with work.timed("patches"):
            return name, _cut(work, entry, path, shares[name])

    return dict(work.of_each("patches", store))


def _cut(work: _Work, entry: _Entry, path: Path, n_cells: int) -> PatchStore:
    path.parent.mkdir(parents=True, exist_ok=True)
    return extract_patches(
        entry.slide,
        _mask_of(entry),
        path,
        patch_size_um=work.patch_size_um,
        nuclei=entry.nuclei if work.options.shows_nuclei else None,
        cells=_cells_of(entry),
        max_cells=n_cells,
        seed=work.options.seed,
        workers=work.running.workers,
        executor=work.running.executor,
        max_bytes=work.running.max_bytes,
    )


def _train(work: _Work, stores: Sequence[PatchStore], path: Path, recipe: Recipe) -> Run:
    if path.exists():
        return load_run(path, encoder=recipe.encoder)
    with work.timed("training" if path == work.result.run else f"training the baseline ({recipe.method})"):
        return train(stores, path, recipe=recipe, device=work.running.device, max_bytes=work.running.max_bytes)


def _baselines(work: _Work, stores: Sequence[PatchStore], run: Run) -> dict[str, Run]:
    """Return what the embedding is scored beside, where there are labels to score it with."""
    if not work.has_labels or not work.options.baselines:
        return {}
    baselines = {"X_untrained": untrained(run, seed=work.options.seed)}
    if stores and run.method != "joint":
        baselines["X_joint"] = _train(work, stores, work.result.joint, replace(work.options.recipe, method="joint"))
    return baselines


def _about(work: _Work, run: Run) -> dict[str, Any]:
    """Return what ``uns["mxsplicer"]`` says of how the AnnData was made."""
    record = _record(work)
    settings = record["options"]
    if work.model is not None:  # the run was trained with its own
        settings |= {key: run.settings[key] for key in settings.keys() & run.settings.keys() - {"patch_size_um"}}
    settings = {
        key: json.dumps(value) if isinstance(value, dict) else value  # a marker's name may be no key of an HDF5 file
        for key, value in settings.items()
        if value not in (None, [], {})
    }
    names = run.settings["components"]
    widths = np.array(run.settings.get("chunk_widths", [run.settings["chunk_width"]] * len(names)))
    if run.method != "splicer":  # the others hold the whole embedding to something
        widths, names = widths.sum(keepdims=True), ["whole"]
    ends = widths.cumsum()
    masks = {
        entry.slide.name: entry.sample.mask or work.result.of_slide(entry.slide.name, "mask.zarr")
        for entry in work.entries
    }
    return {
        "version": version("mxsplicer"),
        "versions": {package: version(package) for package in _PACKAGES},
        "method": run.method,
        "settings": {**settings, "training": json.dumps(run.settings)},
        "fingerprints": {
            "weights": run.fingerprint(),
            "slides": {
                name: {"image": record["inputs"][name]["image"], "mask": fingerprint(mask)}
                for name, mask in masks.items()
            },
        },
        # Two arrays, because a marker such as HLA-DR/DP is no key of an HDF5 file.
        "chunks": {"component": np.array(names), "span": np.stack([ends - widths, ends], axis=1)},
        "patch_size_um": work.patch_size_um,
        "pixel_size_um": run.pixel_size_um,
    }


def _finish(work: _Work) -> None:
    result, root, inputs = work.result, work.result.path, _record(work)["inputs"]
    slides = []
    for entry in work.entries:
        slide, mask = entry.slide, entry.sample.mask
        table = entry.sample.markers or work.options.markers
        made_mask, patches = (result.of_slide(slide.name, file) for file in ("mask.zarr", "patches.zarr"))
        slides.append(
            {
                "name": slide.name,
                "image": absolute(slide.path) if slide.path else "",
                "mask": absolute(mask) if mask else str(made_mask.relative_to(root)),
                "mask_page": work.options.mask_page if mask else None,
                "markers": list(slide.markers),
                "selected": entry.channels is not None,
                "markers_table": str(table.resolve()) if table else None,
                "rename": list(work.options.rename),
                "drop": list(work.options.drop),
                "pixel_size_um": slide.pixel_size_um,
                "shape_px": list(slide.shape_px),
                "patches": str(patches.relative_to(root)) if patches.exists() else None,
                "fingerprints": inputs[slide.name],
            }
        )
    run = work.model.path.resolve() if work.model and work.model.path else result.run.relative_to(root)
    write_index(result, slides, run=str(run))
