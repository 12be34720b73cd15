"""The options of a call: as fields of dataclasses, and as people write them on the command line and in a TOML file.

Most options are a field of :class:`Options`, :class:`Running` or :class:`~mxsplicer.splicer.recipe.Recipe` under the
same name. A few have a shorter name, and a few stand for several fields: ``loss = ["vicreg", "CD8a=simclr"]`` are
``loss`` and ``losses``. :func:`read_option` and :func:`write_options` know both directions. Nothing heavy is loaded, so
that the command line can be generated from the fields.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.errors import InputError
from mxsplicer.images.markers import parse_renames
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.splicer.moment_names import MOMENTS
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system.durations import parse_duration
from mxsplicer.system.location import Location, absolute
from mxsplicer.system.memory import parse_bytes

_Number = TypeVar("_Number", int, float)
# Fields whose option has another name.
NAMES = {
    "masks": "mask",
    "label": "score",
    "groups": "fold_by",
    "max_bytes": "max_memory",
    "budget_s": "budget",
    "deconstruction": "deconstruct",
    "omit": "no_component",
    "weights": "component_weight",
    "surroundings": "encoder_area",
}
_FIELDS = {option: field for field, option in NAMES.items()}
BUILTIN = Path("builtin")  # the model that is not a file
_AREAS = {"hide": "cell", "keep": "patch"}  # what the encoder sees
# Fields without an option of their own: another option stands for them.
WRITTEN_WITH_OTHERS = ("losses", "widths", "groups", "recipe", "samples")


@dataclass(frozen=True)
class Options:
    """Everything that changes the result, in addition to the slides.

    Attributes
    ----------
    masks, mask_page, nuclei, nuclei_page
        Label images of the cells, one per slide or one folder; the page of a file that holds several; and the same of
        the nuclei, which have the ids of their cells or are matched with them by overlap.
    markers, rename, drop
        Table of marker names; renamed markers (``"OLD=NEW"``); and markers that are left out.
    pixel_size_um
        Where the file does not state it.
    image
        Number or name of the image to read, of a file that holds several.
    nuclear_marker, nucleus_diameter_um, expansion_um, membrane_marker, segmenter
        For slides without a mask; see :func:`mxsplicer.segment`.
    min_area_um2, measure, roi
        The smallest cell; what to measure in addition to the mean; and outlines (GeoJSON) that the cells must lie in,
        for several slides a folder of files.
    patch_size_um, keep_patches, training_cells
        Side of a patch: by default that of the model, or else what 99 % of the cells fit into, or 32 if the encoder
        sees more than the cell; whether the patches of all cells are stored; and the size of the training sample.
    model, train, recipe, budget_s, fill_missing
        A trained run, or ``BUILTIN``, the model that needs no training and is the default; whether to train one, as a
        budget or a setting of the recipe that belongs to a training also asks for; how, and in how many seconds at
        most, embedding and baselines included; and whether markers that a slide lacks are replaced by their mean.
    cohort, samples, panel
        A table that names the slides, or one that describes the slides that were given; and which markers slides of
        different panels are trained on.
    labels, label, groups, baselines
        A table of labels of cells; the columns to score; the column whose values stay in one fold; and whether
        untrained and joint embeddings are scored too.
    harmony, per_slide, only_cells
        Column whose batches Harmony integrates before clustering; whether each slide gets its own AnnData too; and
        whether to stop before clusters, scores and the report.
    """

    masks: tuple[Location, ...] = ()
    mask_page: int | None = None
    nuclei: tuple[Location, ...] = ()
    nuclei_page: int | None = None
    markers: Path | None = None
    rename: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    image: str | None = None
    nuclear_marker: str | None = None
    nucleus_diameter_um: float = NUCLEUS_DIAMETER_UM
    expansion_um: float = EXPANSION_UM
    membrane_marker: str | None = None
    segmenter: str | None = None
    min_area_um2: float = MIN_AREA_UM2
    measure: tuple[str, ...] = ()
    patch_size_um: float | None = None
    training_cells: int = 200_000
    keep_patches: bool = False
    model: Path | None = None
    train: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    budget_s: float | None = None
    labels: Path | None = None
    label: tuple[str, ...] = ()
    only_cells: bool = False
    samples: Path | None = None
    harmony: str | None = None
    per_slide: bool = True
    cohort: Path | None = None
    fill_missing: bool = False
    panel: str = "same"
    roi: Path | None = None
    groups: str | None = None
    baselines: bool = True

    @property
    def seed(self) -> int:
        """The seed of the recipe, which everything random uses."""
        return self.recipe.seed

    def __post_init__(self) -> None:
        """Raise where one option needs another."""
        parse_renames(self.rename)
        self._check_tables()
        if self.budget_s is not None and self.model is not None:
            msg = "`budget_s` limits a training, and a `model` was given."
            raise InputError(msg, "Leave out one of them.")
        self._check_model()
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            msg = f"`budget_s` is {self.budget_s:g}; it must be above 0."
            raise InputError(msg)
        if self.panel != "same":
            check_panel_option(self.panel)
        if self.nuclei and not self.masks:
            msg = "A mask of nuclei has the ids of the cells in another mask, and that one is missing."
            raise InputError(msg, "Pass it as `masks`.")
        if "nucleus" in self.measure and not self._has_nuclei:
            msg = "The mean of the nucleus needs a mask of nuclei."
            raise InputError(msg, 'Pass it as `nuclei`, or leave "nucleus" out of `measure`.')
        if self.shows_nuclei and not self.model and not self._has_nuclei:
            msg = "`deconstruction='nucleus'` needs a mask of nuclei."
            raise InputError(msg, "Pass it as `nuclei`.")

    def _check_model(self) -> None:
        if self.train and self.model is not None:
            msg = "`train` trains a model, and a `model` was given."
            raise InputError(msg, "Leave out one of them.")
        if (self.train or self.budget_s is not None) and not self.recipe.trains:
            msg = f"the encoder {MOMENTS} has nothing to train."
            raise InputError(msg, "Leave out `encoder`, or choose another.")
        if self.is_builtin:
            self.builtin_recipe  # noqa: B018 - raises if a setting belongs to a training

    @property
    def is_builtin(self) -> bool:
        """Whether the built-in model is used: it was asked for, or nothing asks for a training."""
        if self.model is not None:
            return self.model == BUILTIN
        untouched = self.recipe == Recipe(seed=self.seed, normalization=self.recipe.normalization)
        return not self.train and self.budget_s is None and (untouched or not self.recipe.trains)

    @property
    def builtin_recipe(self) -> Recipe:
        """The recipe of the built-in model."""
        return replace(self.recipe, encoder=MOMENTS)

    def _check_tables(self) -> None:
        if self.label and self.labels is None and self.cohort is None:
            msg = f"`label={self.label[0]!r}` is a column of a table of labels, and no table was given."
            raise InputError(msg, "Pass the table as `labels`.")
        if self.cohort is not None and (self.masks or self.nuclei or self.samples):
            given = "masks" if self.masks else "nuclei" if self.nuclei else "samples"
            msg = f"The table `cohort` already gives `{given}` for each slide."
            raise InputError(msg, f"Leave out `{given}`.")
        if self.labels is not None and not self.masks and self.cohort is None:
            msg = "Labels are matched by the ids of cells, which only a mask that was given has."
            raise InputError(msg, "Pass the mask of each slide as `masks`.")
        if self.groups not in (None, "slide") and self.about_slides is None:
            msg = f"`groups={self.groups!r}` is a column of a table of slides, and no table was given."
            raise InputError(msg, "Pass the table as `samples`.")

    @property
    def about_slides(self) -> Path | None:
        """The table with one row per slide: patient, batch, ..."""
        return self.samples or self.cohort

    @property
    def _has_nuclei(self) -> bool:
        return bool(self.nuclei or self.cohort or (not self.masks and self.finds_nuclei))

    @property
    def shows_nuclei(self) -> bool:
        """Whether a component is the nucleus, which needs a mask of nuclei."""
        return "nucleus" in self.recipe.deconstruction.split("+")

    @property
    def finds_nuclei(self) -> bool:
        """Whether segmentation, where no mask is given, also returns a mask of nuclei."""
        from mxsplicer.segmentation.segmenters import knows_nuclei  # with scikit-image

        return knows_nuclei(self.segmenter, self.membrane_marker)


def check_slides_given(slides: Collection[object], options: Options) -> None:
    """Raise if neither slides nor the option ``cohort`` were given."""
    if not slides and options.cohort is None:
        msg = "no slide was given."
        raise InputError(msg, "Name image files, or a table of them as `cohort`.")


def check_panel_option(panel: str) -> None:
    """Raise if the option ``panel`` is not a known word."""
    from mxsplicer.splicer.panels import PANELS  # with zarr and pandas

    if panel not in PANELS:
        msg = f"`panel` is {panel!r}; it can be {', '.join(PANELS)}."
        raise InputError(msg)


@dataclass(frozen=True)
class Running:
    """Where and in how much memory: options that do not change the result.

    Attributes
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    workers, executor
        How many workers, and ``"threads"``, ``"processes"`` or the address of a dask scheduler; see
        :func:`~mxsplicer.patches.extraction.extract_patches`.
    max_bytes
        Limit for the memory of the whole process.
    """

    device: str = "auto"
    workers: int | None = None
    executor: str = "threads"
    max_bytes: int | None = None


def options_as_json(options: Options) -> dict[str, Any]:
    """Return every option by its name, those of the recipe among the others."""
    given = {one.name: _as_json(getattr(options, one.name)) for one in fields(options) if one.name != "recipe"}
    given["fold_by"] = given.pop("groups")  # "groups" are the recipe's groups of markers
    return given | options.recipe.to_settings()


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value) if value == BUILTIN else absolute(value)
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value


def read_option(name: str, value: Any) -> dict[str, Any]:
    """Return the fields of ``Options``, ``Running`` or ``Recipe`` that one option stands for.

    Examples
    --------
    >>> read_option("loss", ["sigreg", "CD8a=simclr"])
    {'losses': {'CD8a': 'simclr'}, 'loss': 'sigreg'}
    >>> read_option("encoder_area", "patch")
    {'surroundings': 'keep'}
    """
    if name in _READ:
        return _READ[name](value)
    return {_FIELDS.get(name, name): tuple(value) if isinstance(value, list) else value}


def write_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of one of the dataclasses as options, by the options' names; without those that are None.

    Examples
    --------
    >>> write_options({"loss": "vicreg", "losses": {"CD8a": "simclr"}, "epochs": None})
    {'loss': ['vicreg', 'CD8a=simclr']}
    """
    written: dict[str, Any] = {}
    for name_of_field, value in values.items():
        if name_of_field in WRITTEN_WITH_OTHERS or value is None:
            continue
        name = NAMES.get(name_of_field, name_of_field)
        written[name] = _WRITE[name](values) if name in _WRITE else _as_toml(value)
    return written


def names_slides(table: Path) -> bool:
    """Return whether the table of the option ``cohort`` names slides in a column ``path``, or only describes them."""
    with table.open(encoding="utf-8", errors="replace") as lines:
        header = next((line for line in lines if not line.startswith("#")), "")
    return "path" in [column.strip().strip('"') for column in header.replace("\t", ",").split(",")]


def _as_toml(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value) if value == BUILTIN else absolute(value)
    return [_as_toml(one) for one in value] if isinstance(value, tuple | list) else value


def _read_losses(given: Sequence[str]) -> dict[str, Any]:
    words, of_components = _split(given)
    return {"losses": of_components} | ({"loss": words[-1]} if words else {})


def _read_weights(given: Sequence[str]) -> dict[str, Any]:
    words, of_components = _split(given)
    if words:
        msg = f"`component_weight` {words[0]} does not name a component."
        raise InputError(msg, "Write NAME=WEIGHT, such as CD8a=2.")
    return {"weights": {name: _number("component_weight", value, float) for name, value in of_components.items()}}


def _read_widths(given: Sequence[str]) -> dict[str, Any]:
    words, of_components = _split(given)
    widths = {name: _number("chunk_width", value, int) for name, value in of_components.items()}
    numbers = [_number("chunk_width", word, int) for word in words]
    return {"widths": widths} | ({"chunk_width": numbers[-1]} if numbers else {})


def _read_deconstruction(given: str) -> dict[str, Any]:
    """Return the fields of the option ``deconstruct``, in which a file of groups stands for the word ``groups``."""
    words = given.split("+")
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    if "groups" in words:
        msg = "no groups of markers are given."
        raise InputError(msg, "Name their file: `deconstruct=groups.yaml`.")
    if not files:
        return {"deconstruction": given, "groups": {}}
    from mxsplicer.splicer.deconstruction import read_groups  # with torch

    if len(files) > 1:
        msg = f"`deconstruct` {given} names {len(files)} files of groups."
        raise InputError(msg, "Put the groups into one file.")
    deconstruction = "+".join("groups" if word in files else word for word in words)
    return {"deconstruction": deconstruction, "groups": read_groups(files[0])}


def _read_area(given: str) -> dict[str, Any]:
    areas = {area: word for word, area in _AREAS.items()}
    if given not in areas:
        msg = f"`encoder_area` is {given!r}; it can be {' or '.join(areas)}."
        raise InputError(msg)
    return {"surroundings": areas[given]}


def _split(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Read the values of an option: those for all components, and those for single components, NAME=VALUE."""
    pairs = [text.rpartition("=") for text in given]
    return [value for _, equals, value in pairs if not equals], {name: value for name, equals, value in pairs if equals}


def _number(option: str, text: str, kind: type[_Number]) -> _Number:
    try:
        return kind(text)
    except ValueError:
        msg = f"`{option}` {text!r} is not {'an integer' if kind is int else 'a number'}."
        raise InputError(msg) from None


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


_READ: dict[str, Callable[[Any], dict[str, Any]]] = {
    "loss": _read_losses,
    "component_weight": _read_weights,
    "chunk_width": _read_widths,
    "deconstruct": _read_deconstruction,
    "encoder_area": _read_area,
    "budget": lambda given: {"budget_s": None if given is None else parse_duration(given)},
    "max_memory": lambda given: {"max_bytes": None if given is None else parse_bytes(given)},
}

_WRITE: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "loss": lambda values: [values["loss"], *_pairs(values.get("losses", {}))],
    "component_weight": lambda values: _pairs(values["weights"]),
    "chunk_width": lambda values: [str(values["chunk_width"]), *_pairs(values.get("widths", {}))],
    "encoder_area": lambda values: _AREAS[values["surroundings"]],
    "budget": lambda values: f"{values['budget_s']:g}s",
    "max_memory": lambda values: str(values["max_bytes"]),
}
