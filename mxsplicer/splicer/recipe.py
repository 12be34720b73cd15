"""The recipe: everything that decides what a training makes of given patches, in one place.

A run's settings, the options of ``embed`` and ``train`` and :func:`~mxsplicer.splicer.training.train` speak of these
fields by these names. Importing this module loads no torch, so that the command line knows the defaults at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from mxsplicer.errors import InputError
from mxsplicer.imports import is_importable

if TYPE_CHECKING:
    from mxsplicer.splicer.views import Views

SURROUNDINGS = ("hide", "keep")  # of a cell, in its patch


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained. The defaults are measured ones (docs/benchmarks.md) unless a source is named.

    Parameters
    ----------
    method
        ``"splicer"`` (arXiv 2503.07444) or ``"joint"``, its baseline.
    loss
        ``"vicreg"``, ``"simclr"`` or ``"sigreg"``, between each chunk and its component.
    encoder, encoder_width
        The primary encoder, by name or ``"module:Class"`` (see :func:`~mxsplicer.splicer.encoders.make_encoder`), and
        the width of its first stage; 64 is the ResNet-18 of the paper.
    component_width
        Width of the first stage of each component's encoder.
    chunk_width
        Width of one component's chunk of the embedding.
    projector_layers
        Hidden layers between z and the embedding; see :class:`~mxsplicer.splicer.encoders.Projector`.
    redundancy_weight
        Weight of the term that keeps chunks from repeating each other; 0 is the paper's sum over chunks. Only SpliCER.
    views
        How the views differ: ``"shared"`` or ``"independent"`` geometry, or a :class:`~mxsplicer.splicer.views.Views`.
    surroundings
        ``"hide"`` shows the encoder the pixels of the cell itself, ``"keep"`` the whole patch.
    epochs
        Passes over the cells; by default as many as make 2,000 steps.
    learning_rate
        Peak, for AdamW with 10 % warm-up and cosine decay.
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
    encoder: str = "resnet18"  # the paper's
    encoder_width: int = 64  # the paper's
    component_width: int = 8  # an eighth of the paper's: n components for the price of about one more encoder
    chunk_width: int = 32
    projector_layers: int = 0
    redundancy_weight: float = 0.1
    views: "Views | str" = "independent"
    surroundings: str = "hide"
    epochs: int | None = None
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise where a word is unknown or a number out of its range."""
        from mxsplicer.splicer.encoders import ENCODERS
        from mxsplicer.splicer.losses import LOSSES
        from mxsplicer.splicer.objectives import OBJECTIVES

        _check_word("method", self.method, OBJECTIVES)
        _check_word("loss", self.loss, LOSSES)
        if not is_importable(self.encoder):
            _check_word("encoder", self.encoder, (*ENCODERS, "module:Class for one of your own"))
        _check_word("surroundings", self.surroundings, SURROUNDINGS)
        self.view_plan()
        least = {"encoder_width": 1, "component_width": 1, "chunk_width": 1, "projector_layers": 0, "batch_size": 2}
        for field, value in (least | {"redundancy_weight": 0, "weight_decay": 0, "epochs": 1}).items():
            if getattr(self, field) is not None and not getattr(self, field) >= value:
                msg = f"{field.replace('_', ' ')} is {getattr(self, field)}; it has to be at least {value}."
                raise InputError(msg)
        if not self.learning_rate > 0:
            msg = f"learning rate is {self.learning_rate}; it has to be above 0."
            raise InputError(msg)

    def view_plan(self) -> "Views":
        """Return how the views differ, where only a word was given."""
        from mxsplicer.splicer.views import plan_views

        return plan_views(self.views) if isinstance(self.views, str) else self.views

    def to_settings(self) -> dict[str, Any]:
        """Return the fields as JSON has them; :meth:`from_settings` takes them back."""
        return {field.name: _as_json(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Return the recipe among the settings of a run; what an older run does not say is as by default."""
        from mxsplicer.splicer.views import Views

        known: dict[str, Any] = {field.name: settings[field.name] for field in fields(cls) if field.name in settings}
        if isinstance(known.get("views"), Mapping):
            values: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in known["views"].items()
            }
            known["views"] = Views(**values)
        return cls(**known)


# By name, what differs from the defaults: Recipe(**PRESETS["paper"]).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Farndale et al. 2025: full ResNets for every component, the plain sum of equation 4, the whole patch in view.
    # Widths, projectors and training are in its appendix, which we have not seen: those of VICReg and of the authors'
    # earlier code (Adam 1e-4, 100 epochs).
    "paper": {
        "component_width": 64,
        "chunk_width": 128,
        "projector_layers": 2,
        "redundancy_weight": 0.0,
        "surroundings": "keep",
        "epochs": 100,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
    },
}


def _check_word(field: str, word: str, known: Iterable[str]) -> None:
    if word not in known:
        msg = f"there is no {field} {word!r}; there are {', '.join(known)}."
        raise InputError(msg)


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _as_json(asdict(value))
    if isinstance(value, Mapping):
        return {name: _as_json(one) for name, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value
