"""The recipe: everything that decides what a training makes of given patches, in one place.

A run's settings, the options of ``embed`` and ``train`` and :func:`~mxsplicer.splicer.training.train` speak of these
fields by these names. Importing this module loads no torch, so that the command line knows the defaults at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mxsplicer.errors import InputError
from mxsplicer.system.imports import is_importable

if TYPE_CHECKING:
    from torch import nn

    from mxsplicer.splicer.deconstruction import Component
    from mxsplicer.splicer.objectives import Objective
    from mxsplicer.splicer.views import Views

T = TypeVar("T")

NORMALIZATIONS = ("common", "slide")
SURROUNDINGS = ("hide", "keep")  # of a cell, in its patch
COMPONENT_AREAS = ("cell", "patch")
COVARIANCE_SCOPES = ("chunk", "embedding")
WIDTH_RULES = ("equal", "variance", "rank")


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained. The defaults are measured ones (docs/benchmarks.md) unless a source is named.

    Parameters
    ----------
    method
        ``"splicer"`` (arXiv 2503.07444), or what it is compared with: ``"joint"``, ``"sigma"`` or ``"trident"``; or a
        class of your own by ``"module:Class"``; see :mod:`mxsplicer.splicer.objectives`.
    loss
        Between each chunk and its component: ``"vicreg"``, ``"simclr"``, ``"clip"``, ``"barlow"``, ``"sigreg"``, or a
        class of your own by ``"module:Class"``.
    losses, weights
        Of single components, by name: another loss, and a weight other than 1. The name of a marker means both of its
        compartments.
    covariance_scope
        Whether VICReg decorrelates a feature from those of its ``"chunk"`` or of the whole primary ``"embedding"``.
    deconstruction
        What the components are: ``"marker"``, ``"pairs"``, ``"compartments"``, ``"groups"``, ``"regions"``, ``"cell"``,
        ``"nucleus"``, ``"mask"``, ``"halves"``, ``"sides"``, a function of your own by ``"module:function"``, or
        several of these joined by ``+``; see :mod:`mxsplicer.splicer.deconstruction`.
    groups
        Markers of each of the ``"groups"``, by name; they may overlap.
    omit
        Markers and components that the encoder sees but no component shows.
    encoder, encoder_width
        The primary encoder, by name or ``"module:Class"`` (see :func:`~mxsplicer.splicer.encoders.make_encoder`), and
        the width of its first stage; ``"resnet18"`` of width 64 is the paper's. ``+texture`` reads its early maps, too.
    component_encoder, component_width
        Each component's encoder, ``"lean"`` or a whole ``"resnet18"``, and the width of its first stage.
    components_per_step
        How many components have their turn in each step, in order and round and round, their losses weighted n / k;
        by default all of them. Pays where the encoders of components are wide.
    chunk_width
        Width of one component's chunk of the embedding; of all chunks in the mean, where they differ.
    width_rule
        Whether chunks are ``"equal"``, or as wide as the ``"variance"`` or the effective ``"rank"`` of their components
        asks; see :mod:`mxsplicer.splicer.widths`.
    widths
        Widths of the chunks of single components, by name.
    controls
        Markers of background alone (autofluorescence, an empty channel): the floor that ``"rank"`` counts from. By
        default those whose names say so.
    projector_layers
        Hidden layers between z and the embedding; see :class:`~mxsplicer.splicer.encoders.Projector`.
    redundancy_weight
        Weight of the term that keeps chunks from repeating each other; 0 is the paper's sum over chunks. Only SpliCER.
    consistency_weight
        Weight of the loss between two views of the same component, which keeps a faint marker in the embedding of its
        component; its chunk is then held to both views. 0 is the paper's. Only SpliCER.
    views
        How the views differ: ``"shared"`` or ``"independent"`` geometry, or ``"spanning"``: shared for components of
        several markers, independent for others; ``"upright"`` where pictures have an up (``"shared+upright"`` is both);
        or a :class:`~mxsplicer.splicer.views.Views`.
    normalization
        ``"common"`` clips and scales a marker alike on all slides, ``"slide"`` on each by its own percentiles, mean and
        standard deviation: for slides whose staining differs.
    surroundings
        ``"hide"`` shows the encoder the pixels of the cell itself, ``"keep"`` the whole patch.
    component_area
        Whether a component that is no region itself shows the ``"cell"`` or the whole ``"patch"``.
    epochs
        Passes over the cells; by default as many as make 2,000 steps.
    learning_rate
        Peak, for AdamW with 10 % warm-up and cosine decay.
    accumulate
        Parts that a batch is worked on in, one after the other, where it does not fit the device. Loss and batch norm
        are those of a part; gradients are averaged. So a step is one of ``batch_size / accumulate`` cells, less noisy.
    seed
        Of the initial weights, the order of the cells and the views.

    Raises
    ------
    InputError
        If a word is unknown or a number out of its range.

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
    covariance_scope: str = "chunk"  # the paper: chunks are "optimised separately"
    deconstruction: str = "compartments"
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    omit: tuple[str, ...] = ()
    encoder: str = "resnet18+texture"
    encoder_width: int = 64  # the paper's
    component_encoder: str = "lean"  # the paper's is a ResNet like the primary one
    component_width: int = 4  # a sixteenth of the paper's: there are many components, and one shows little
    components_per_step: int | None = None
    chunk_width: int = 8
    width_rule: str = "equal"  # the paper's
    widths: Mapping[str, int] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    projector_layers: int = 0
    redundancy_weight: float = 0.1
    consistency_weight: float = 1.0
    views: "Views | str" = "independent"
    normalization: str = "common"
    surroundings: str = "hide"
    component_area: str = "cell"
    epochs: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise where a word is unknown or a number out of its range."""
        from mxsplicer.splicer.encoders import COMPONENT_ENCODERS, ENCODERS
        from mxsplicer.splicer.losses import LOSSES
        from mxsplicer.splicer.objectives import OBJECTIVES

        _check_word("method", self.method, OBJECTIVES, own="module:Class")
        for loss in (self.loss, *self.losses.values()):
            _check_word("loss", loss, LOSSES, own="module:Class")
        _check_word("covariance scope", self.covariance_scope, COVARIANCE_SCOPES)
        if self.covariance_scope == "embedding" and "vicreg" not in (self.loss, *self.losses.values()):
            msg = f"covariance is a term of the loss vicreg, and {self.loss} has none: leave its scope at chunk."
            raise InputError(msg)
        _check_word("encoder", self.encoder, ENCODERS, own="module:Class")
        _check_word("component encoder", self.component_encoder, COMPONENT_ENCODERS)
        _check_word("width rule", self.width_rule, WIDTH_RULES)
        _check_word("normalization", self.normalization, NORMALIZATIONS)
        _check_word("surroundings", self.surroundings, SURROUNDINGS)
        _check_word("component area", self.component_area, COMPONENT_AREAS)
        self._check_deconstruction()
        self.view_plan()
        self._check_numbers()

    def components(self, markers: Sequence[str]) -> "list[Component]":
        """Return what patches of ``markers`` are taken apart into.

        Raises
        ------
        InputError
            If a marker or component is named that is not there, or one shows what the encoder does not see.
        """
        from mxsplicer.splicer.deconstruction import (
            by_group,
            check_names,
            combine,
            find_deconstruction,
            omit,
            stays_within_cell,
        )

        check_names("--controls names", self.controls, markers, "markers")
        words = self.deconstruction.split("+")
        deconstruct = combine([by_group(self.groups) if w == "groups" else find_deconstruction(w) for w in words])
        components = omit(deconstruct(markers), markers, self.omit)
        names = [component.name for component in components]
        families = dict.fromkeys(component.family for component in components if component.family)
        for option, singled_out in (
            ("--loss", self.losses),
            ("--weight", self.weights),
            ("--chunk-width", self.widths),
        ):
            check_names(f"{option} names", singled_out, [*names, *families], "components")
        beyond = [one.name for one in components if one.part is not None and not stays_within_cell(one.part)]
        if beyond and self.surroundings == "hide":
            msg = (
                f"component {beyond[0]} shows more than the cell, which is all that the encoder sees. "
                "Let it see the whole patch: --surroundings keep."
            )
            raise InputError(msg)
        return components

    def objective(
        self, encoder: "nn.Module", components: "Sequence[Component]", widths: Sequence[int], *, patch_px: int
    ) -> "Objective":
        """Return the objective that trains ``encoder``, with new projectors and component encoders.

        Parameters
        ----------
        components, widths
            What patches are taken apart into, and how wide the chunk of each is.
        patch_px
            Side of a patch.
        """
        from mxsplicer.splicer.losses import find_loss
        from mxsplicer.splicer.losses.chunks import Chunks
        from mxsplicer.splicer.objectives import Parts, find_objective

        made = {word: find_loss(word) for word in (self.loss, *self.losses.values())}
        chunks = Chunks(
            widths=tuple(widths),
            losses=tuple(made[said_of(component, self.losses) or self.loss] for component in components),
            weights=tuple(said_of(component, self.weights) or 1.0 for component in components),
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
                covariance_across=self.covariance_scope == "embedding",
                hide=self.component_area == "cell",
                spanning=self.view_plan().spanning,
            )
        )

    def own_code(self) -> tuple[str, ...]:
        """Return what is the user's own among objective, losses, encoder and deconstructions: ``"module:name"``."""
        words = (self.method, self.loss, *self.losses.values(), self.encoder, *self.deconstruction.split("+"))
        return tuple(word for word in dict.fromkeys(words) if is_importable(word))

    def check_own_code(self, n_markers: int, patch_px: int) -> None:
        """Make what is the user's own once: better it fails now than behind hours of other work."""
        from mxsplicer.splicer.encoders import make_encoder
        from mxsplicer.splicer.losses import find_loss
        from mxsplicer.splicer.objectives import find_objective

        find_objective(self.method)
        for loss in (self.loss, *self.losses.values()):
            find_loss(loss)
        if is_importable(self.encoder):
            make_encoder(self.encoder, n_markers, patch_px, width=self.encoder_width)

    def view_plan(self) -> "Views":
        """Return how the views differ, where only a word was given."""
        from mxsplicer.splicer.views import plan_views

        return plan_views(self.views) if isinstance(self.views, str) else self.views

    def to_settings(self) -> dict[str, Any]:
        """Return the fields as JSON has them; :meth:`from_settings` takes them back."""
        return {one.name: _as_json(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Return the recipe among the settings of a run; what an older run does not say is as by default."""
        from mxsplicer.splicer.views import Views

        known = {one.name: _with_tuples(settings[one.name]) for one in fields(cls) if one.name in settings}
        if isinstance(known.get("views"), Mapping):
            known["views"] = Views(**known["views"])
        return cls(**known)

    def _check_deconstruction(self) -> None:
        from mxsplicer.splicer.deconstruction import DECONSTRUCTIONS

        words = self.deconstruction.split("+")
        for word in words:
            _check_word("deconstruction", word, (*DECONSTRUCTIONS, "groups"), own="module:function")
        if ("groups" in words) != bool(self.groups):
            found = "groups of markers are given and not used" if self.groups else "no groups of markers are given"
            msg = f"{found}: the deconstruction is {self.deconstruction!r}. Name their file: --deconstruct groups.yaml."
            raise InputError(msg)

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
            "batch_size": 2,
            "accumulate": 1,
            "weight_decay": 0,
        }
        for name, value in least.items():
            if getattr(self, name) is not None and not getattr(self, name) >= value:
                msg = f"{name.replace('_', ' ')} is {getattr(self, name)}; it has to be at least {value}."
                raise InputError(msg)
        positive: dict[str, float] = {"learning rate": self.learning_rate}
        positive |= {f"weight of {name}": weight for name, weight in self.weights.items()}
        positive |= {f"chunk width of {name}": width for name, width in self.widths.items()}
        for what, number in positive.items():
            if not number > 0:
                msg = f"{what} is {number}; it has to be above 0."
                raise InputError(msg)


# By name, what differs from the defaults: Recipe(**PRESETS["paper"]).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Farndale et al. 2025: full ResNets for every component, the plain sum of equation 4, the whole patch in view.
    # Widths, projectors and training are in its appendix, which we have not seen: the projector is VICReg's in kind
    # (Bardes et al. 2022), epochs and learning rate are those of the authors' earlier code (Adam 1e-4, 100 epochs).
    "paper": {
        "deconstruction": "marker",
        "encoder": "resnet18",
        "component_encoder": "resnet18",
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


def said_of(component: "Component", said: Mapping[str, T]) -> T | None:
    """Return what is said of a component by its name, or else of its family, if anything."""
    return said.get(component.name, said.get(component.family))


def _check_word(what: str, word: str, known: Iterable[str], *, own: str = "") -> None:
    if word not in known and not (own and is_importable(word)):
        yours = [f"{own} for one of your own"] if own else []
        msg = f"there is no {what} {word!r}; there are {', '.join([*known, *yours])}."
        raise InputError(msg)


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
