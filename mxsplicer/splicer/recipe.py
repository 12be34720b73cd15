"""The recipe: every setting that decides the result of a training on given patches.

The settings of a run, the options of ``embed`` and ``train``, and :func:`~mxsplicer.splicer.training.train` use the
names of these fields. Importing this module does not load torch, so the command line knows the defaults at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mxsplicer.errors import InputError
from mxsplicer.splicer.moment_names import MOMENTS
from mxsplicer.system.imports import is_importable

if TYPE_CHECKING:
    from torch import nn

    from mxsplicer.splicer.deconstruction import Component
    from mxsplicer.splicer.objectives import Objective
    from mxsplicer.splicer.views import Views

T = TypeVar("T")

NORMALIZATIONS = ("gain", "common")
SURROUNDINGS = ("hide", "keep")  # of a cell, in its patch
COMPONENT_AREAS = ("cell", "patch")

# Fields of earlier versions that gained nothing, each with the value that is left.
REMOVED: dict[str, Any] = {"width_rule": "equal", "controls": [], "covariance_scope": "chunk"}

# Steps by default, from where more of them no longer pay: docs/performance.md.
_PASSES, _LEAST_STEPS, _MOST_STEPS = 3, 100, 2_000


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained. Defaults were measured (docs/what-we-tried.md) unless a source is named.

    Parameters
    ----------
    method
        The objective: ``"splicer"`` (arXiv 2503.07444), a method it is compared with (``"joint"``, ``"sigma"``,
        ``"trident"``), or a class of your own, ``"module:Class"``; see :mod:`mxsplicer.splicer.objectives`.
    loss
        The loss between each chunk and its component: ``"vicreg"``, ``"simclr"``, ``"sigreg"``, or a class of your own,
        ``"module:Class"``.
    losses, weights
        Loss and weight of single components, by name, where they differ. The name of a marker means both of its
        compartments.
    deconstruction
        What the components are: ``"marker"``, ``"compartments"``, ``"groups"``, ``"regions"``, ``"cell"``,
        ``"nucleus"``, ``"mask"``, ``"halves"``, ``"sides"``, a function of your own, ``"module:function"``, or several
        of these joined by ``+``; see :mod:`mxsplicer.splicer.deconstruction`.
    groups
        For ``deconstruction="groups"``: the markers of each group, by its name. Groups may overlap.
    omit
        Markers and components that the encoder sees but no component shows.
    encoder, encoder_width
        The primary encoder, by name or ``"module:Class"`` (see :func:`~mxsplicer.splicer.encoders.make_encoder`), and
        the width of its first stage; ``"resnet18"`` of width 64 is the paper's. ``+texture`` adds mean and deviation
        over early feature maps to z, ``+moments`` closed-form statistics of the cell. ``"moments"`` are these alone:
        nothing is trained, and their scales are measured on the cells.
    component_encoder, component_width
        Each component's encoder, ``"lean"`` or a whole ``"resnet18"``, and the width of its first stage.
    components_per_step
        Number k of the n components that each step trains, round-robin, with losses weighted n / k; by default all.
        Saves time if the encoders of components are wide.
    chunk_width
        Width of every component's chunk of the embedding; in the paper, too, all are equally wide.
    widths
        Widths of the chunks of single components, by name, where they differ.
    projector_layers
        Hidden layers between z and the embedding; see :class:`~mxsplicer.splicer.projector.Projector`.
    redundancy_weight
        Weight of the term that keeps chunks from repeating each other; 0 is the paper's sum over chunks. Only for
        ``method="splicer"``.
    consistency_weight
        Weight of the loss between two views of the same component, which keeps a faint marker in the embedding of its
        component; the chunk is then compared with both views. 0 is the paper's. Only for ``method="splicer"``.
    views
        How the views differ: ``"shared"`` or ``"independent"`` geometry; ``"upright"`` for images with an orientation
        (``"shared+upright"`` is both); or a :class:`~mxsplicer.splicer.views.Views`.
    normalization
        A marker is clipped and scaled alike on all slides. ``"gain"`` first divides it by the gain of each slide,
        which it measures by the spread of mean intensities between its cells; ``"common"`` does not.
    surroundings
        ``"hide"`` shows the encoder only the pixels of the cell, ``"keep"`` the whole patch.
    component_area
        Whether a component that does not define its pixels shows the ``"cell"`` or the whole ``"patch"``.
    epochs, max_steps
        Passes over the cells, and the most steps. By default 3 passes, but 100 to 2,000 steps; see
        :meth:`Recipe.count_steps`.
    batch_size
        Cells per step, over all processes.
    accumulate
        Number of micro-batches that a batch is divided into, if it does not fit the device. Loss and batch norm are
        those of a micro-batch; gradients are averaged. So a step is less noisy than one of ``batch_size / accumulate``
        cells, but not the same as one of ``batch_size``.
    learning_rate, weight_decay
        Of AdamW; the learning rate is the peak, with 10 % warm-up and cosine decay.
    seed
        Of the initial weights, the order of the cells and the views.

    Raises
    ------
    InputError
        If a word is unknown or a number is out of range.

    Examples
    --------
    >>> Recipe(loss="simclr", epochs=10).method
    'splicer'
    >>> Recipe(**PRESETS["paper"]).redundancy_weight
    0.0
    """

    method: str = "splicer"
    loss: str = "vicreg"
    losses: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    deconstruction: str = "compartments"
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    omit: tuple[str, ...] = ()
    encoder: str = "resnet18+texture+moments"
    encoder_width: int = 8  # an eighth of the paper's: docs/performance.md
    component_encoder: str = "lean"  # the paper's is a ResNet like the primary one
    component_width: int = 4  # a sixteenth of the paper's: there are many components, and one shows little
    components_per_step: int | None = None
    chunk_width: int = 8
    widths: Mapping[str, int] = field(default_factory=dict)
    projector_layers: int = 0
    redundancy_weight: float = 0.1
    consistency_weight: float = 1.0
    views: "Views | str" = "independent"
    normalization: str = "gain"
    surroundings: str = "hide"
    component_area: str = "cell"
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise if a word is unknown or a number is out of range."""
        from mxsplicer.splicer.component_encoders import COMPONENT_ENCODERS
        from mxsplicer.splicer.encoders import ENCODERS
        from mxsplicer.splicer.losses import LOSSES
        from mxsplicer.splicer.objectives import OBJECTIVES

        _check_word("method", self.method, OBJECTIVES, own="module:Class")
        for loss in (self.loss, *self.losses.values()):
            _check_word("loss", loss, LOSSES, own="module:Class")
        _check_word("encoder", self.encoder, ENCODERS, own="module:Class")
        _check_word("component_encoder", self.component_encoder, COMPONENT_ENCODERS)
        _check_word("normalization", self.normalization, NORMALIZATIONS)
        _check_word("surroundings", self.surroundings, SURROUNDINGS)
        _check_word("component_area", self.component_area, COMPONENT_AREAS)
        self._check_deconstruction()
        self.view_plan()
        self._check_numbers()
        if not self.trains:
            self._check_nothing_trains()

    @property
    def trains(self) -> bool:
        """Whether the encoder has weights to train."""
        return self.encoder != MOMENTS

    def components(self, markers: Sequence[str]) -> "list[Component]":
        """Return the components that patches of ``markers`` are split into.

        Raises
        ------
        InputError
            If a named marker or component does not exist, or a component shows pixels that the encoder does not see.
        """
        from mxsplicer.splicer.deconstruction import (
            by_group,
            check_names,
            combine,
            find_deconstruction,
            omit,
            stays_within_cell,
        )

        words = self.deconstruction.split("+")
        deconstruct = combine([by_group(self.groups) if w == "groups" else find_deconstruction(w) for w in words])
        components = omit(deconstruct(markers), markers, self.omit)
        names = [component.name for component in components]
        families = dict.fromkeys(component.family for component in components if component.family)
        for field_name in ("losses", "weights", "widths"):
            named = getattr(self, field_name)
            check_names(named, [*names, *families], kind="component", argument=f"`{field_name}`")
        beyond = [one.name for one in components if one.pixels is not None and not stays_within_cell(one.pixels)]
        if beyond and self.surroundings == "hide":
            msg = f"component {beyond[0]} shows more than the cell, but the encoder sees only the cell."
            raise InputError(msg, "Let it see the whole patch: `surroundings='keep'`.")
        return components

    def objective(self, encoder: "nn.Module", components: "Sequence[Component]", *, patch_px: int) -> "Objective":
        """Return the objective that trains ``encoder``, with new projectors and component encoders.

        Parameters
        ----------
        components
            The components of a patch.
        patch_px
            Side of a patch.
        """
        from mxsplicer.splicer.losses import find_loss
        from mxsplicer.splicer.losses.chunks import Chunks
        from mxsplicer.splicer.objectives import Parts, find_objective

        made = {word: find_loss(word) for word in (self.loss, *self.losses.values())}
        chunks = Chunks(
            widths=tuple(find_setting(component, self.widths) or self.chunk_width for component in components),
            losses=tuple(made[find_setting(component, self.losses) or self.loss] for component in components),
            weights=tuple(find_setting(component, self.weights) or 1.0 for component in components),
        )
        return find_objective(self.method)(
            Parts(
                encoder=encoder,
                components=tuple(components),
                chunks=chunks,
                loss=made[self.loss],
                projector_layers=self.projector_layers,
                patch_px=patch_px,
                component_encoder=self.component_encoder,
                component_width=self.component_width,
                components_per_step=self.components_per_step,
                redundancy_weight=self.redundancy_weight,
                consistency_weight=self.consistency_weight,
                hide=self.component_area == "cell",
            )
        )

    def count_steps(self, per_epoch: int) -> int:
        """Return the number of steps of a training whose epochs have ``per_epoch`` steps.

        Examples
        --------
        >>> Recipe().count_steps(39), Recipe().count_steps(2), Recipe().count_steps(781)
        (117, 100, 2000)
        >>> Recipe(epochs=100).count_steps(39), Recipe(max_steps=50).count_steps(39)
        (3900, 50)
        """
        most = self.max_steps or math.inf
        if self.epochs is not None:
            return int(min(most, self.epochs * per_epoch))
        return int(min(most, _MOST_STEPS, max(_LEAST_STEPS, _PASSES * per_epoch)))

    def own_code(self) -> tuple[str, ...]:
        """Return the names of the user's own objective, losses, encoder and deconstructions, ``"module:name"``."""
        words = (self.method, self.loss, *self.losses.values(), self.encoder, *self.deconstruction.split("+"))
        return tuple(word for word in dict.fromkeys(words) if is_importable(word))

    def check_own_code(self, n_markers: int, patch_px: int) -> None:
        """Make the user's own objective, losses and encoder once, so that they fail now and not after hours of work."""
        from mxsplicer.splicer.encoders import make_encoder
        from mxsplicer.splicer.losses import find_loss
        from mxsplicer.splicer.objectives import find_objective

        find_objective(self.method)
        for loss in (self.loss, *self.losses.values()):
            find_loss(loss)
        if is_importable(self.encoder):
            make_encoder(self.encoder, n_markers, patch_px, width=self.encoder_width)

    def view_plan(self) -> "Views":
        """Return how the views differ, as :class:`~mxsplicer.splicer.views.Views`."""
        from mxsplicer.splicer.views import plan_views

        return plan_views(self.views) if isinstance(self.views, str) else self.views

    def to_settings(self) -> dict[str, Any]:
        """Return the fields in the types of JSON; :meth:`from_settings` reads them."""
        return {one.name: _as_json(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Return the recipe in the settings of a run; fields that an older run lacks have their defaults.

        Raises
        ------
        InputError
            If it was trained with a setting that was removed since.
        """
        from mxsplicer.splicer.views import Views

        for name, value in find_removed(settings).items():
            msg = f"`{name}` is {value!r} in these settings; it gained nothing and was removed."
            raise InputError(msg, f"Leave out `{name}`.")
        known = {one.name: _with_tuples(settings[one.name]) for one in fields(cls) if one.name in settings}
        if isinstance(views := known.get("views"), Mapping):
            known["views"] = Views(**{one.name: views[one.name] for one in fields(Views) if one.name in views})
        return cls(**known)

    def _check_deconstruction(self) -> None:
        from mxsplicer.splicer.deconstruction import DECONSTRUCTIONS

        words = self.deconstruction.split("+")
        for word in words:
            _check_word("deconstruction", word, (*DECONSTRUCTIONS, "groups"), own="module:function")
        if ("groups" in words) != bool(self.groups):
            found = "groups of markers are given but not used" if self.groups else "groups of markers are missing"
            msg = f"{found}: `deconstruction` is {self.deconstruction!r}."
            raise InputError(msg, "Give both: the word groups in `deconstruction`, and the markers of each group.")

    def _check_nothing_trains(self) -> None:
        default = Recipe(encoder=Recipe.encoder, normalization=self.normalization, seed=self.seed)
        given = [one.name for one in fields(self) if getattr(self, one.name) != getattr(default, one.name)]
        other = next((name for name in given if name != "encoder"), None)
        if other is not None:
            msg = f"`{other}` belongs to a training, and the encoder {MOMENTS} has nothing to train."
            raise InputError(msg, f"Leave out `{other}`, or choose another `encoder`.")

    def _check_numbers(self) -> None:
        least = {
            "encoder_width": 1,
            "component_width": 1,
            "components_per_step": 1,
            "chunk_width": 1,
            "projector_layers": 0,
            "redundancy_weight": 0,
            "consistency_weight": 0,
            "epochs": 1,
            "max_steps": 1,
            "batch_size": 2,
            "accumulate": 1,
            "weight_decay": 0,
        }
        for name, value in least.items():
            if getattr(self, name) is not None and not getattr(self, name) >= value:
                msg = f"`{name}` is {getattr(self, name)}; it must be at least {value}."
                raise InputError(msg)
        positive: dict[str, float] = {"`learning_rate`": self.learning_rate}
        positive |= {f"the weight of {name}": weight for name, weight in self.weights.items()}
        positive |= {f"the chunk width of {name}": width for name, width in self.widths.items()}
        for what, number in positive.items():
            if not number > 0:
                msg = f"{what} is {number}; it must be above 0."
                raise InputError(msg)


# The fields of each preset that differ from the defaults: Recipe(**PRESETS["paper"]).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Farndale et al. 2025: full ResNets for every component, the plain sum over chunks, the whole patch visible.
    # Widths, projectors and training are in its appendix, which we have not seen: the projector is like VICReg's
    # (Bardes et al. 2022), epochs and learning rate are those of the authors' earlier code (Adam 1e-4, 100 epochs).
    "paper": {
        "deconstruction": "marker",
        "encoder": "resnet18",
        "component_encoder": "resnet18",
        "encoder_width": 64,
        "component_width": 64,
        "chunk_width": 128,
        "projector_layers": 2,
        "redundancy_weight": 0.0,
        "consistency_weight": 0.0,
        "surroundings": "keep",
        "component_area": "patch",
        "epochs": 100,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
    },
}


def find_removed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a run or result, by name, that changed its training and were removed since.

    Examples
    --------
    >>> find_removed({"epochs": 3, "width_rule": "rank", "controls": []})
    {'width_rule': 'rank'}
    """
    removed = {name: settings[name] for name, left in REMOVED.items() if settings.get(name, left) != left}
    views = settings.get("views")
    return removed | ({"views": "spanning"} if isinstance(views, Mapping) and views.get("spanning") else {})


def find_setting(component: "Component", settings: Mapping[str, T]) -> T | None:
    """Return the recipe's setting of a component by its name, else by the name of its family, else None."""
    return settings.get(component.name, settings.get(component.family))


def _check_word(argument: str, word: str, known: Iterable[str], *, own: str = "") -> None:
    if word not in known and not (own and is_importable(word)):
        yours = [f"{own} for your own"] if own else []
        msg = f"{argument.replace('_', ' ')} {word!r} not found."
        raise InputError(msg, f"Choose `{argument}` from {', '.join([*known, *yours])}.")


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _as_json(asdict(value))
    if isinstance(value, Mapping):
        return {name: _as_json(one) for name, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(value) if isinstance(value, list) else value
