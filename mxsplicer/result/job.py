"""A call: its slides and options, where it writes, and what was made so far."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide, select_channels
from mxsplicer.images.units import same_scale
from mxsplicer.masks.doctor import warn_of_faults
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.geometry import PatchGeometry, in_pixels
from mxsplicer.result.cohort import find_slides
from mxsplicer.result.folder import Result
from mxsplicer.result.options import Options, Running, options_as_json
from mxsplicer.result.outcomes import check_any_left, concerns_one_slide, describe_failure
from mxsplicer.result.slides import SlideRecord
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.normalization import SAMPLE_CELLS
from mxsplicer.splicer.panels import describe_panels, every_marker, shared_markers
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, channels_of_run, load_run
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.tables import read_header
from mxsplicer.tl.drawn_outlines import find_roi_files
from mxsplicer.tl.sample_tables import check_samples

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TRIAL_PX = 32  # of a patch, on which a user's encoder is tried before the cells are known


@dataclass(eq=False)
class JobSlide:
    """A slide of a call, opened, and what was made from it so far."""

    record: SlideRecord
    slide: Slide
    mask: LazyImage | None  # given, or made by make_masks
    nuclei: LazyImage | None
    cells: Cells | None = None  # from measure to embed_cells

    @property
    def name(self) -> str:
        """The name of the slide."""
        return self.record.name

    @property
    def made_mask(self) -> LazyImage:
        """The mask, after make_masks."""
        assert self.mask is not None, "make_masks comes first"
        return self.mask

    @property
    def measured_cells(self) -> Cells:
        """The cells, after measure."""
        assert self.cells is not None, "measure comes first"
        return self.cells


@dataclass(eq=False)
class Job:
    """One call: its slides and options, where it writes, and how long each stage took."""

    options: Options
    result: Result
    slides: list[JobSlide]  # without those that failed
    model: Run | None
    running: Running
    failed: dict[str, str] = field(default_factory=dict)  # slides that are left out, and why
    chosen: dict[str, Any] = field(default_factory=dict)  # patch_size.py and planning.py choose it
    seconds: dict[str, float] = field(default_factory=dict)
    is_begun: bool = False

    @property
    def images(self) -> list[Slide]:
        """The slides as images with their markers."""
        return [one.slide for one in self.slides]

    @property
    def records(self) -> list[SlideRecord]:
        """The records of the slides."""
        return [one.record for one in self.slides]

    @property
    def has_labels(self) -> bool:
        """Whether labels of cells were given, with which an embedding can be scored."""
        return self.options.labels is not None or any(one.record.labels for one in self.slides)

    @property
    def patch_size_um(self) -> float:
        """Side of a patch: given, that of the model, or what fits the cells once they are measured."""
        size = self.options.patch_size_um or self.chosen.get("patch_size_um")
        assert size is not None, "fit_patches comes first"
        return float(size)

    @property
    def patch_px(self) -> int:
        """Side of a patch in pixels, the same on all slides: that of the model, or ``patch_size_um`` on the first."""
        if self.model is not None:
            return self.model.patch_px
        chosen = self.chosen.get("patch_px")
        return int(chosen) if chosen else in_pixels(self.patch_size_um, self.images[0].pixel_size_um)

    def patch_size_on(self, slide: Slide) -> float:
        """Return the side of a patch on a slide, in micrometres: pixel sizes differ by some per cent between slides."""
        return self.patch_px * slide.pixel_size_um

    @property
    def sees_cells_only(self) -> bool:
        """Whether neither the encoder nor a component sees anything but the cell."""
        if self.model is not None:
            return self.model.hides_surroundings
        recipe = self.recipe
        return recipe.surroundings == "hide" and recipe.component_area == "cell"

    @property
    def trains(self) -> bool:
        """Whether a model is trained."""
        return self.model is None and self.recipe.trains

    @property
    def scores_untrained(self) -> bool:
        """Whether an untrained encoder is scored too."""
        trained = self.recipe.trains if self.model is None else self.model.is_trained
        return self.has_labels and self.options.baselines and trained

    @property
    def trains_joint(self) -> bool:
        """Whether joint embedding is trained and scored too."""
        trains = self.model is None or self.options.keep_patches
        method = self.model.method if self.model is not None else self.recipe.method
        return self.scores_untrained and trains and method != "joint"

    @property
    def n_encoders(self) -> int:
        """How many encoders embed the cells: the model, and the baselines that it is compared with."""
        return 1 + self.scores_untrained + self.trains_joint

    @property
    def recipe(self) -> Recipe:
        """How to train: as given, in as many steps as the budget allows; or what the built-in model measures."""
        if self.options.is_builtin:
            return self.options.builtin_recipe
        recipe = self.options.recipe
        return replace(recipe, max_steps=self.chosen["max_steps"]) if "max_steps" in self.chosen else recipe

    @property
    def training_cells(self) -> int:
        """How many cells are cut for the training, or to measure the scales of the built-in model."""
        most = self.options.training_cells
        return most if self.recipe.trains else min(most, SAMPLE_CELLS)

    @cached_property
    def inputs(self) -> dict[str, dict[str, str]]:
        """Fingerprints of the files of each slide; read once."""
        return {one.name: one.record.read_fingerprints() for one in self.slides}

    @cached_property
    def files(self) -> dict[str, str]:
        """Fingerprints of the tables and the model; read once."""
        tables = {name: getattr(self.options, name) for name in ("markers", "labels", "samples", "cohort", "roi")}
        files = {name: fingerprint(path) for name, path in tables.items() if path}
        return files | ({"model": self.model.fingerprint()} if self.model is not None else {})

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on, and what happened so far, as ``settings.json`` holds it."""
        return {
            "options": options_as_json(self.options),
            "inputs": self.inputs,
            "files": self.files,
            "slides": list(self.result.slide_names),
            "failed": self.failed,
            "chosen": self.chosen,
            "seconds": self.seconds,
        }

    def save_settings(self) -> None:
        """Write ``settings.json``."""
        write_json(self.result.settings, self.settings())

    def for_each_slide(self, stage: str, do: Callable[[JobSlide], T]) -> list[T]:
        """Return ``do(slide)`` of every slide; a slide that fails is left out of all later stages."""
        made = []
        for one in list(self.slides):
            try:
                made.append(do(one))
            except Exception as error:
                self.leave_out(one, stage, error)
        return made

    def leave_out(self, one: JobSlide, stage: str, error: Exception) -> None:
        """Continue without a slide and record why; raise if the other slides would fail too, or none is left."""
        # Before anything is written a user can correct the call; hours later the other slides are worth more.
        tolerant = self.options.cohort is not None or (self.is_begun and len(self.result.slide_names) > 1)
        if not tolerant or not concerns_one_slide(error):
            raise error
        self.slides.remove(one)
        self.failed[one.name] = f"{stage}: {describe_failure(error)}"
        expected = isinstance(error, InputError)
        logger.error("slide %s is left out (%s)", one.name, self.failed[one.name], exc_info=not expected)
        check_any_left(self.slides, self.failed)
        if self.is_begun:
            self.save_settings()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Log that a stage begins, and record how long it took when it is done."""
        began = time.monotonic()
        logger.info("%s", stage)
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
        self.save_settings()


def open_job(
    slides: str | Path | Sequence[str | Path | SlideRecord],
    out: str | Path | None,
    options: Options,
    running: Running,
    *,
    overwrite: bool = False,
) -> Job:
    """Open a job: check everything that was given, without writing anything.

    Parameters
    ----------
    slides, out, options, overwrite
        As for :func:`~mxsplicer.embed_slides`.
    running
        Where the call runs, and in how much memory.
    """
    records = find_slides(slides, options)
    names = [record.name for record in records]
    _check_names(names, out)
    result = Result(Path(out) if out is not None else Path(f"{names[0]}.mxs"), tuple(names))
    path = None if options.is_builtin else options.model
    model = load_run(path, encoder=options.recipe.encoder) if path else None
    job = Job(options, result, [], model, running, failed={} if overwrite else result.failed)
    if options.patch_size_um is None and (model is not None or not job.sees_cells_only):
        size = model.settings["patch_size_um"] if model is not None else PATCH_SIZE_UM
        job.options = options = replace(options, patch_size_um=size)
    for record in records:
        if record.name in job.failed:
            continue
        try:
            job.slides.append(_open_slide(job, record))
        except Exception as error:
            if options.cohort is None or not concerns_one_slide(error):
                raise
            job.failed[record.name] = f"opening: {describe_failure(error)}"
            logger.error("slide %s is left out (%s)", record.name, job.failed[record.name])
    check_any_left(job.slides, job.failed)
    if model is None:
        _agree_on_markers(job)
    _check_tables(options, job.images)
    find_device(running.device)
    if model is None:
        markers = every_marker([slide.markers for slide in job.images])
        options.recipe.components(markers)  # raises if a name is not one of them
        if options.patch_size_um is not None:
            job.chosen["patch_px"] = job.patch_px
        options.recipe.check_own_code(len(markers), job.chosen.get("patch_px", _TRIAL_PX))
    for one in job.slides:  # last, so that a refused call prints its one sentence alone
        if one.mask is not None:
            warn_of_faults(one.slide, one.mask, nuclear_marker=options.nuclear_marker)
    return job


def _check_names(names: Sequence[str], out: str | Path | None) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"two slides are called {twice.pop()!r}, as their files are."
        raise InputError(msg, "Name them in a table with the columns slide and path, and pass it as `cohort`.")
    if out is None and len(names) > 1:
        msg = f"{len(names)} slides were given, and no folder for their common result."
        raise InputError(msg, "Pass `out`.")


def _open_slide(job: Job, record: SlideRecord) -> JobSlide:
    """Open a slide of a job and its masks, and compare them with each other and with the model."""
    options, model = job.options, job.model
    slide = record.open_image()
    mask = record.open_mask(slide)
    nuclei = record.open_nuclei(slide, mask)
    if mask is None:
        _check_can_segment(slide, options)
    if model is None:
        _check_scale(job, slide)
    else:
        channels_of_run(
            model,
            slide.name,
            slide.markers,
            model.patch_px,
            slide.pixel_size_um,
            in_file=slide.markers_in_file,
            fill_missing=options.fill_missing or model.fills_missing,
        )
        _check_patch_size(options.patch_size_um, model)
    _check_patch_fits(job, slide)
    if record.labels is not None:
        if record.mask is None:
            msg = f"labels of slide {record.name!r} are matched by the ids of cells, and its mask was not given."
            raise InputError(msg, "Name the mask in the table of the cohort.")
        read_header(record.labels)
    return JobSlide(record.as_opened(slide), slide, mask, nuclei)


def _check_scale(job: Job, slide: Slide) -> None:
    """Raise if a slide of a job has not the pixel size of the first one."""
    first = job.images[0] if job.slides else slide
    if not same_scale(slide.pixel_size_um, first.pixel_size_um):
        msg = (
            f"slides {first.name!r} and {slide.name!r} differ in scale: their pixels are {first.pixel_size_um:g} and "
            f"{slide.pixel_size_um:g} µm, and one model needs pixel sizes that differ by at most 5 %."
        )
        raise InputError(msg, "Correct `pixel_size_um`, or embed them separately.")


def _check_patch_fits(job: Job, slide: Slide) -> None:
    """Raise if a slide of a job is smaller than a patch, where its width does not follow from the cells."""
    if job.options.patch_size_um is not None:
        first = job.images[0] if job.slides else slide
        patch_px = job.model.patch_px if job.model else in_pixels(job.options.patch_size_um, first.pixel_size_um)
        PatchGeometry.of(slide, patch_px * slide.pixel_size_um)


def _check_patch_size(patch_size_um: float | None, model: Run) -> None:
    patch_px = model.patch_px if patch_size_um is None else in_pixels(patch_size_um, model.pixel_size_um)
    if patch_px != model.patch_px:
        msg = f"patches of {patch_size_um:g} µm are {patch_px} px wide, and the model takes {model.patch_px} px."
        of_model = f"`patch_size_um={model.settings['patch_size_um']:g}`"
        raise InputError(msg, f"Leave out `patch_size_um`, or pass {of_model}.")


def _check_can_segment(slide: Slide, options: Options) -> None:
    if options.nuclear_marker is not None:
        slide.channels_of([options.nuclear_marker])
    elif ":" in (options.segmenter or ""):
        pass  # a user's own function is called with all markers
    elif find_nuclear_marker(slide.markers) is None:
        msg = (
            f"slide {slide.name!r} has no mask and no marker known to stain nuclei; its markers: "
            f"{', '.join(slide.markers)}."
        )
        raise InputError(msg, "Pass a mask as `masks`, or the marker as `nuclear_marker`.")


def _agree_on_markers(job: Job) -> None:
    """Give all slides of a job the same markers if ``options.panel`` says so; raise if they differ otherwise."""
    first, names = job.images[0], [one.name for one in job.slides]
    panels = [slide.markers for slide in job.images]
    other = next((slide for slide in job.images if slide.markers != first.markers), None)
    if other is None:
        return
    shared = shared_markers(panels)
    if job.options.panel == "same":
        differ = sorted(set(other.markers) ^ set(first.markers)) or ["the order"]
        msg = f"slides {first.name!r} and {other.name!r} differ in their markers: {', '.join(differ)}."
        if not shared:
            raise InputError(msg)
        msg += f" Of {len(names)} slides, {describe_panels(panels)}."
        raise InputError(msg, 'Pass `panel="shared"` to train on the markers of all slides, or `panel="union"`.')
    if not shared:
        msg = f"no marker is on all {len(names)} slides: {', '.join(names[:5])}."
        raise InputError(msg, "Rename markers that are the same.")
    logger.warning(
        "the panels of %d slides differ: %s. The model sees the markers of %s.",
        len(names),
        describe_panels(panels),
        "all slides" if job.options.panel == "shared" else "any slide",
    )
    if job.options.panel == "shared":
        for one in job.slides:
            one.slide = select_channels(one.slide, one.slide.channels_of(shared))
            one.record = replace(one.record, markers=one.slide.markers, selected=True)


def _check_tables(options: Options, slides: Sequence[Slide]) -> None:
    names = [slide.name for slide in slides]
    if options.roi is not None:
        find_roi_files(options.roi, names)
    if options.about_slides is not None:
        images = {slide.name: slide.path for slide in slides if slide.path is not None}
        check_samples(options.about_slides, names, None if options.groups == "slide" else options.groups, images)
