"""Options that several commands share, so that they mean and say the same everywhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mxsplicer.errors import InputError
from mxsplicer.splicer.recipe import PRESETS, Recipe

_Number = TypeVar("_Number", int, float)

# Headings of --help, in the order of the work.
INPUT, CELLS, PATCHES, MODEL, SCORES, RUNNING = "Input", "Cells", "Patches", "Model", "Scores", "Running"

SlidePath = Annotated[
    Path,
    typer.Argument(
        metavar="SLIDE", help="OME-TIFF, OME-Zarr, qptiff, ImageJ or TIFF stack; a path or URL.", show_default=False
    ),
]
CellsPath = Annotated[
    Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote, or its cells.h5ad.", show_default=False)
]
UseRep = Annotated[str | None, typer.Option(help="Key of obsm; the learned features by default.", show_default=False)]
Markers = Annotated[
    Path | None,
    typer.Option(
        help="Table of marker names, one row per channel; taken instead of the names in the file.",
        rich_help_panel=INPUT,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD=NEW",
        help="Call a marker otherwise; may be given several times.",
        rich_help_panel=INPUT,
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="NAME", help="Leave a marker out; may be given several times.", rich_help_panel=INPUT
    ),
]
PixelSize = Annotated[
    float | None,
    typer.Option("--pixel-size-um", help="Micrometres per pixel, where the file does not say.", rich_help_panel=INPUT),
]
MaskPage = Annotated[
    int | None, typer.Option(min=0, help="Page of a mask file that holds several, from 0.", rich_help_panel=INPUT)
]
MinArea = Annotated[
    float,
    typer.Option(
        "--min-area-um2", min=0, help="Smaller cells are left out, and counted in the ledger.", rich_help_panel=CELLS
    ),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        "--roi",
        metavar="GEOJSON",
        help="Only cells whose centroid lies in these outlines, as QuPath exports annotations; of several slides, a "
        "folder with a file for each.",
        rich_help_panel=CELLS,
    ),
]
Statistics = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="NAME",
        help="What to measure of each cell beside the mean, as often as needed: median, sum, std, p90 (a percentile), "
        "ring (the cell's rim), nucleus, surroundings.",
        show_default=False,
        rich_help_panel=CELLS,
    ),
]
NucleiMask = Annotated[
    Path | None,
    typer.Option(
        "--nuclei", metavar="MASK", help="Mask of the nuclei, each with the id of its cell.", rich_help_panel=CELLS
    ),
]
PatchSize = Annotated[
    float, typer.Option("--patch-size-um", help="Side of the square around each cell.", rich_help_panel=PATCHES)
]
NuclearMarker = Annotated[
    str | None, typer.Option(help="Marker of the nuclei; found by its name by default.", rich_help_panel=CELLS)
]
NucleusDiameter = Annotated[
    float, typer.Option("--nucleus-diameter-um", help="Typical diameter of a nucleus.", rich_help_panel=CELLS)
]
Expansion = Annotated[
    float,
    typer.Option("--expansion-um", min=0, help="How far a cell reaches beyond its nucleus.", rich_help_panel=CELLS),
]
SegmenterName = Annotated[
    str | None,
    typer.Option(
        "--segmenter",
        metavar="NAME|module:function",
        help="cellpose, stardist, instanseg, or a function of yours from an image (C, Y, X) to labels (Y, X), instead "
        "of the built-in method.",
        rich_help_panel=CELLS,
    ),
]
MembraneMarker = Annotated[
    str | None,
    typer.Option(
        help="Marker of the outlines of cells, for a segmenter that finds whole cells by it.", rich_help_panel=CELLS
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads; as many as there are processors, at most 4, by default.", rich_help_panel=RUNNING
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="2G",
        help="Most memory the whole command may hold; it works slower in less.",
        rich_help_panel=RUNNING,
    ),
]
Plan = Annotated[
    bool,
    typer.Option("--plan", help="Say what would be done and what it costs, and do nothing.", rich_help_panel=RUNNING),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="threads|processes",
        help="What the workers are; threads share tiles.",
        rich_help_panel=RUNNING,
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="tcp://...",
        help="Address of a dask cluster that does the work instead.",
        rich_help_panel=RUNNING,
    ),
]
Panel = Annotated[
    str,
    typer.Option(
        metavar="same|shared|union",
        help="Where slides differ in their markers: shared trains on those of all, union on those of any, and leaves "
        "out what a slide lacks.",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.", rich_help_panel=RUNNING)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUNNING)]
OwnEncoder = Annotated[
    str,
    typer.Option(
        "--encoder",
        metavar="module:Class",
        help="Of a model whose encoder is someone's own class: that class. It is imported because you name it.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.", rich_help_panel=RUNNING)]

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]

# Every field of a recipe that the command line offers: --preset first, then what is given beside it.
_PRESET = Annotated[
    str,
    typer.Option(
        help="default, or paper: the paper's design. Options given beside it come on top.", rich_help_panel=MODEL
    ),
]
_RECIPE: dict[str, Any] = {
    "method": Annotated[
        str,
        typer.Option(
            help="splicer, or what it is compared with: joint (two views of the whole), sigma (each component with the "
            "whole), trident (both); or module:Class.",
            rich_help_panel=MODEL,
        ),
    ],
    "loss": Annotated[
        list[str],
        typer.Option(
            metavar="LOSS|NAME=LOSS",
            help="vicreg, simclr, clip, barlow, sigreg or module:Class; of one component by its name. May be given "
            "several times.",
            rich_help_panel=MODEL,
        ),
    ],
    "weight": Annotated[
        list[str],
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Weight of one component's loss, 1 else: more for a faint marker that matters, such as CD8a=4.",
            rich_help_panel=MODEL,
        ),
    ],
    "covariance_scope": Annotated[
        str,
        typer.Option(
            help="VICReg keeps a feature from repeating others of its chunk, or of the whole embedding.",
            rich_help_panel=MODEL,
        ),
    ],
    "deconstruct": Annotated[
        str,
        typer.Option(
            metavar="marker|FILE.yaml|regions|...",
            help="What gets an encoder of its own: marker; pairs (each marker with the nuclei); compartments (rim and "
            "interior of the cell in each marker); named groups of markers (a YAML file); regions (cell, neighbours, "
            "background); cell (and surroundings); nucleus (and cytoplasm); mask (and outside); halves; sides; "
            "module:function; or several, as in marker+regions.",
            rich_help_panel=MODEL,
        ),
    ],
    "omit": Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Marker or component that gets no encoder of its own; the model still sees it. May be given several "
            "times.",
            rich_help_panel=MODEL,
        ),
    ],
    "encoder": Annotated[
        str,
        typer.Option(
            help="resnet18, resnet34 or resnet50 (fused), separable or hybrid; with +texture behind it, early "
            "maps are read too; or module:Class.",
            rich_help_panel=MODEL,
        ),
    ],
    "encoder_width": Annotated[
        int,
        typer.Option(
            min=1, help="Channels of the encoder's first stage; 64 is the paper's ResNet-18.", rich_help_panel=MODEL
        ),
    ],
    "component_encoder": Annotated[
        str, typer.Option(help="lean, or resnet18: the paper's, and slower.", rich_help_panel=MODEL)
    ],
    "component_width": Annotated[
        int, typer.Option(min=1, help="Channels of the first stage of each component's encoder.", rich_help_panel=MODEL)
    ],
    "components_per_step": Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Components that have their turn in each step; all by default.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    "chunk_width": Annotated[
        list[str],
        typer.Option(
            metavar="N|NAME=N|variance|rank",
            help="Width of each component's chunk of the embedding; of one component by its name; or that in the mean, "
            "and more where a component has more to say. May be given several times.",
            rich_help_panel=MODEL,
        ),
    ],
    "controls": Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Marker of background alone, for --chunk-width rank; known by its name else.",
            rich_help_panel=MODEL,
        ),
    ],
    "projector_layers": Annotated[
        int, typer.Option(min=0, help="Hidden layers between z and the embedding.", rich_help_panel=MODEL)
    ],
    "redundancy_weight": Annotated[
        float,
        typer.Option(
            help="Keeps chunks from repeating each other; 0 is the paper's sum.", min=0, rich_help_panel=MODEL
        ),
    ],
    "consistency_weight": Annotated[
        float,
        typer.Option(
            help="Holds two views of each component to each other, so that faint markers are not given up; 0 is the "
            "paper's.",
            min=0,
            rich_help_panel=MODEL,
        ),
    ],
    "views": Annotated[
        str,
        typer.Option(
            help="Geometry of the two views: shared, independent, or spanning: shared for components of several "
            "markers alone. And upright, or shared+upright, where pictures have an up and are not to be turned or "
            "mirrored.",
            rich_help_panel=MODEL,
        ),
    ],
    "normalization": Annotated[
        str,
        typer.Option(
            help="common: intensities are scaled alike on all slides; slide: on each by its own, for stainings that "
            "differ.",
            rich_help_panel=MODEL,
        ),
    ],
    "surroundings": Annotated[
        str,
        typer.Option(
            help="hide: the encoder sees the pixels of the cell alone; keep: its whole patch.", rich_help_panel=MODEL
        ),
    ],
    "component_area": Annotated[
        str,
        typer.Option(help="What a component shows: cell or patch.", rich_help_panel=MODEL),
    ],
    "epochs": Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the cells; by default as many as make 2,000 steps.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    "batch_size": Annotated[int, typer.Option(min=2, help="Cells per training step.", rich_help_panel=MODEL)],
    "accumulate": Annotated[
        int,
        typer.Option(
            min=1,
            help="Parts of a batch that are worked on in turn, where memory is short; the loss is that of a part.",
            rich_help_panel=MODEL,
        ),
    ],
    "learning_rate": Annotated[float, typer.Option(help="Peak learning rate of AdamW.", rich_help_panel=MODEL)],
    "weight_decay": Annotated[float, typer.Option(min=0, help="Weight decay of AdamW.", rich_help_panel=MODEL)],
    "seed": Seed,
}


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of a recipe, in the place of its parameter ``recipe``.

    The command is called with the recipe: that of ``--preset``, changed by the options that were given.
    """
    defaults = {field.name: field.default for field in fields(Recipe)} | _AS_GIVEN
    options = {"preset": (_PRESET, "default")} | {name: (kind, defaults[name]) for name, kind in _RECIPE.items()}
    parameters = [
        Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in options.items()
        ),
    ]
    own = list(signature(command).parameters.values())
    place = [parameter.name for parameter in own].index("recipe")
    # The seed is the last, for its heading in --help is the last.
    every = [*own[:place], *parameters[:-1], *own[place + 1 :], parameters[-1]]

    @wraps(command)
    def with_recipe(context: typer.Context, **values: Any) -> None:
        chosen = {name: values.pop(name) for name in options}
        # Typer's own copy of click has its own ParameterSource; its members have the same names.
        given = {name for name in chosen if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"}
        changes = {name: value for name, value in chosen.items() if name in given - {"preset"}}
        command(**values, recipe=make_recipe(chosen["preset"], changes))

    with_recipe.__signature__ = Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in every]
    )
    with_recipe.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return with_recipe


def make_recipe(preset: str, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a preset, changed by fields as the command line gives them."""
    if preset not in PRESETS:
        msg = f"there is no preset {preset!r}; there are {', '.join(PRESETS)}."
        raise InputError(msg)
    changed: dict[str, Any] = {}
    for name, value in changes.items():
        changed |= _FIELDS[name](value) if name in _FIELDS else {name: value}
    return Recipe(**PRESETS[preset] | changed)


def _losses(given: Sequence[str]) -> dict[str, Any]:
    words, singled_out = _singled_out(given)
    return {"losses": singled_out} | ({"loss": words[-1]} if words else {})


def _weights(given: Sequence[str]) -> dict[str, Any]:
    words, singled_out = _singled_out(given)
    if words:
        msg = f"--weight {words[0]} names no component. Give NAME=WEIGHT, such as CD8a=2."
        raise InputError(msg)
    return {"weights": {name: _number("--weight", value, float) for name, value in singled_out.items()}}


def _chunk_widths(given: Sequence[str]) -> dict[str, Any]:
    words, singled_out = _singled_out(given)
    changed: dict[str, Any] = {"widths": {n: _number("--chunk-width", v, int) for n, v in singled_out.items()}}
    for word in words:
        changed |= {"width_rule": word} if word.isalpha() else {"chunk_width": _number("--chunk-width", word, int)}
    return changed


def _deconstruction(given: str) -> dict[str, Any]:
    """Return the fields of ``--deconstruct``, in which a file of groups stands for the word ``groups``."""
    words = given.split("+")
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    if "groups" in words:
        msg = "no groups of markers are given."
        raise InputError(msg, "Name their file: --deconstruct groups.yaml.")
    if not files:
        return {"deconstruction": given}
    from mxsplicer.splicer.deconstruction import read_groups

    if len(files) > 1:
        msg = f"--deconstruct {given} names {len(files)} files of groups. Put the groups into one."
        raise InputError(msg)
    deconstruction = "+".join("groups" if word in files else word for word in words)
    return {"deconstruction": deconstruction, "groups": read_groups(files[0])}


def _singled_out(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return what is meant for all, and what for single components: NAME=VALUE."""
    pairs = [text.rpartition("=") for text in given]
    return [value for _, equals, value in pairs if not equals], {name: value for name, equals, value in pairs if equals}


def _number(option: str, text: str, kind: type[_Number]) -> _Number:
    try:
        return kind(text)
    except ValueError:
        msg = f"{option} {text!r} is no {'integer' if kind is int else 'number'}."
        raise InputError(msg) from None


# Options that are no field as it stands: what they show by default, and what fields they become.
_AS_GIVEN: dict[str, Any] = {
    "loss": [Recipe.loss],
    "weight": [],
    "deconstruct": Recipe.deconstruction,
    "omit": [],
    "chunk_width": [str(Recipe.chunk_width)],
    "controls": [],
}
_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "loss": _losses,
    "weight": _weights,
    "deconstruct": _deconstruction,
    "omit": lambda given: {"omit": tuple(given)},
    "chunk_width": _chunk_widths,
    "controls": lambda given: {"controls": tuple(given)},
}
