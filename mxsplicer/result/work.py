"""One call and its slides: what was given, what was made so far, and which slides are left out."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide
from mxsplicer.result.cohort import (
    Sample,
)
from mxsplicer.result.folder import Result
from mxsplicer.result.options import Options, Running, options_as_json
from mxsplicer.result.outcomes import is_of_slide, reason_of
from mxsplicer.splicer.run import Run
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class Entry:
    """One slide of a call, and what was made of it so far."""

    sample: Sample
    slide: Slide
    given_mask: LazyImage | None
    nuclei: LazyImage | None
    channels: list[int] | None = None  # those that are taken, where they are not all
    mask: LazyImage | None = None  # given or made
    cells: Cells | None = None  # measured, and not yet embedded


@dataclass(eq=False)
class Work:
    """One call: what it was given, where it writes, how long each stage took."""

    options: Options
    result: Result
    entries: list[Entry]
    model: Run | None
    running: Running
    failed: dict[str, str] = field(default_factory=dict)  # slides that are left out, and why
    seconds: dict[str, float] = field(default_factory=dict)
    is_begun: bool = False

    @property
    def slides(self) -> list[Slide]:
        """Those that are not left out."""
        return [entry.slide for entry in self.entries]

    @property
    def given_masks(self) -> list[LazyImage | None]:
        """One per slide; None where it is made here."""
        return [entry.given_mask for entry in self.entries]

    @property
    def has_labels(self) -> bool:
        """Whether anything is known of the cells to score an embedding with."""
        return self.options.labels is not None or any(entry.sample.labels for entry in self.entries)

    def of_each(self, stage: str, do: Callable[[Entry], T]) -> list[T]:
        """Return what ``do`` makes of every slide; one that fails is left out of all that follows."""
        made = []
        for entry in list(self.entries):
            try:
                made.append(do(entry))
            except Exception as error:
                self.leave_out(entry, stage, error)
        return made

    def leave_out(self, entry: Entry, stage: str, error: Exception) -> None:
        """Go on without a slide, and note why; raise where all others would have the same trouble, or none is left."""
        # Before anything is written, what was typed can be mended; hours later the other slides are worth more.
        tolerant = self.options.cohort is not None or (self.is_begun and len(self.result.slide_names) > 1)
        if not tolerant or not is_of_slide(error):
            raise error
        name = entry.slide.name
        self.entries.remove(entry)
        self.failed[name] = f"{stage}: {reason_of(error)}"
        logger.error("slide %s is left out (%s)", name, self.failed[name], exc_info=not isinstance(error, InputError))
        check_any(self.entries, self.failed)
        if self.is_begun:
            write_json(self.result.settings, record(self))

    @property
    def patch_size_um(self) -> float:
        """Side of a patch, given or by default."""
        assert self.options.patch_size_um is not None, "prepare resolves it"
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
        """Tell a stage that begins, and note when it is done how long it took."""
        began = time.monotonic()
        logger.info("%s", stage)
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
        write_json(self.result.settings, record(self))


def record(work: Work) -> dict[str, Any]:
    """Return what the outcome depends on, as JSON has it."""
    names = list(work.result.slide_names)
    options = options_as_json(work.options)
    return {"options": options, **work.fingerprints, "slides": names, "failed": work.failed, "seconds": work.seconds}


def mask_of(entry: Entry) -> LazyImage:
    """Return the mask, which was given or made."""
    assert entry.mask is not None, "masks come first"
    return entry.mask


def cells_of(entry: Entry) -> Cells:
    """Return the cells, which were measured."""
    assert entry.cells is not None, "cells are measured before anything is made of them"
    return entry.cells


def check_any(entries: Sequence[Entry], failed: dict[str, str]) -> None:
    """Raise where no slide is left."""
    if not entries:
        name, reason = next(iter(failed.items()))
        msg = f"none of the {len(failed)} slides can be used. The first, {name}: {reason}"
        raise InputError(msg)
