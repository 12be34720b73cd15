"""What can be chosen beyond the slides, and what a result folder remembers of it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.errors import InputError
from mxsplicer.images.markers import parse_renames
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.segmentation.segment import knows_nuclei
from mxsplicer.splicer.panels import PANELS
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system.location import Location, absolute


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
    nucleus_diameter_um: float = NUCLEUS_DIAMETER_UM
    expansion_um: float = EXPANSION_UM
    membrane_marker: str | None = None
    segmenter: str | None = None  # a name, or module:function; by default the one built in
    min_area_um2: float = MIN_AREA_UM2
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
    cohort: Path | None = None  # table of the slides; see mxsplicer.result.cohort
    fill_missing: bool = False  # markers of the model that a slide lacks are shown at their mean
    panel: str = "same"  # or "shared", "union": train on the markers that all slides have, or any
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


def options_as_json(options: Options) -> dict[str, Any]:
    """Return every option by its name, those of the recipe among the others."""
    given = {one.name: _as_json(getattr(options, one.name)) for one in fields(options) if one.name != "recipe"}
    return given | options.recipe.to_settings()


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return absolute(value)
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value
