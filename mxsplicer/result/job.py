"""A call: its slides and options, where it writes, and what was made so far."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.result.folder import Result
from mxsplicer.result.options import Options, Running, options_as_json
from mxsplicer.result.outcomes import concerns_one_slide, describe_failure
from mxsplicer.result.slides import SlideRecord
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint

logger = logging.getLogger(__name__)
T = TypeVar("T")


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
    chosen: dict[str, Any] = field(default_factory=dict)  # what follows from the cells and the machine: choices.py
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
    def sees_cells_only(self) -> bool:
        """Whether neither the encoder nor a component sees anything but the cell."""
        if self.model is not None:
            return self.model.hides_surroundings
        recipe = self.options.recipe
        return recipe.surroundings == "hide" and recipe.component_area == "cell"

    @property
    def scores_untrained(self) -> bool:
        """Whether an untrained encoder is scored too."""
        return self.has_labels and self.options.baselines

    @property
    def trains_joint(self) -> bool:
        """Whether joint embedding is trained and scored too."""
        trains = self.model is None or self.options.keep_patches
        method = self.model.method if self.model is not None else self.options.recipe.method
        return self.scores_untrained and trains and method != "joint"

    @property
    def recipe(self) -> Recipe:
        """How to train: as given, in as many steps as the budget allows."""
        recipe = self.options.recipe
        return replace(recipe, max_steps=self.chosen["max_steps"]) if "max_steps" in self.chosen else recipe

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


def check_any_left(slides: Sequence[object], failed: dict[str, str]) -> None:
    """Raise if no slide is left."""
    if not slides:
        name, reason = next(iter(failed.items()))
        msg = f"none of the {len(failed)} slides can be used. The first, {name}: {reason}"
        raise InputError(msg)
