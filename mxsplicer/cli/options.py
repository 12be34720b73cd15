"""Options are declared once: the signatures of commands are generated from the fields of the dataclasses.

A command takes ``options: Options``, ``recipe: Recipe`` or ``running: Running`` for all of their fields, or single
fields by the names of their options. :func:`register` replaces each of them by typer's parameters and calls the command
with the finished objects. Typer stays: it reads signatures, and a signature can be made of fields. cyclopts and
jsonargparse read dataclasses themselves, but would bring other messages, help pages and exit codes; pydantic-settings
needs models of its own.
"""

import logging
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from mxsplicer.cli.command import Command
from mxsplicer.cli.help_pages import INPUT, MODEL, OPTIONS, RUNNING, in_help_order
from mxsplicer.errors import InputError
from mxsplicer.result.options import (
    NAMES,
    WRITTEN_WITH_OTHERS,
    Options,
    Running,
    names_slides,
    read_option,
    write_options,
)
from mxsplicer.splicer.recipe import PRESETS, Recipe
from mxsplicer.system.location import locate

logger = logging.getLogger(__name__)

# Positional arguments and switches that several commands share.
SLIDE = typer.Argument(
    metavar="SLIDE",
    help="OME-TIFF, OME-Zarr, qptiff, ImageJ or TIFF stack, or folder of one TIFF per channel; a path or URL.",
    show_default=False,
)
SlidePath = Annotated[Path, SLIDE]
ResultPath = Annotated[
    Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote, or its cells.h5ad.", show_default=False)
]
UseRep = Annotated[str | None, typer.Option(help="Key of obsm; the embedding by default.", show_default=False)]
OneMask = Annotated[str, typer.Option("--mask", metavar="MASK", help="Label image of the slide.", show_default=False)]
NucleiMask = Annotated[
    str | None,
    typer.Option(
        "--nuclei", metavar="MASK", help="Mask of the nuclei, with the ids of their cells or matched by overlap."
    ),
]
EncoderClass = Annotated[
    str,
    typer.Option(
        metavar="module:Class",
        help="Class of your own that is the encoder of the model. It is imported because you name it.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help=OPTIONS["seed"].help, rich_help_panel=RUNNING)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.", rich_help_panel=RUNNING)]
Plan = Annotated[
    bool, typer.Option("--plan", help="Show what would be done and what it takes, and stop.", rich_help_panel=RUNNING)
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.", rich_help_panel=RUNNING)]

_GROUPS: tuple[type, ...] = (Options, Recipe, Running)
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Read options from a file, such as the config.toml of a result; options given here win.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
_PRESET = Annotated[
    str, typer.Option(help="default, or paper: the paper's design. Options win over it.", rich_help_panel=MODEL)
]


def register(app: typer.Typer, command: Callable[..., None], *, common: tuple[str, ...] | None = None) -> None:
    """Add a command with the options of the command line that are generated for the fields it takes.

    Parameters
    ----------
    command
        A function ``NAME_command``.
    common
        Options of its own that ``--help`` shows. Others are shown by ``--help-all``, as are those that the table of
        fields does not call common. By default ``--help`` shows all.
    """
    app.command(command.__name__.removesuffix("_command"), cls=Command)(_generate(command, common))


def _generate(command: Callable[..., None], common: tuple[str, ...] | None) -> Callable[..., None]:
    """Return a function with typer's options that calls ``command`` with the objects made of them."""
    groups: dict[str, type] = {}
    single: set[str] = set()
    given: dict[str, Parameter] = {}
    for parameter in signature(command).parameters.values():
        if parameter.annotation in _GROUPS:
            groups[parameter.name] = parameter.annotation
        elif parameter.name in OPTIONS and get_origin(parameter.annotation) is not Annotated:
            single.add(parameter.name)
        else:
            given[parameter.name] = parameter.replace(kind=Parameter.KEYWORD_ONLY)
    taken = {name for group in groups.values() for name in _options_of(group)} | single
    generated = {name: _parameter(name, hidden=common is not None and not OPTIONS[name].common) for name in taken}
    if groups or single:
        given["config"] = _keyword("config", None, _CONFIG)
    if any(group in (Options, Recipe) for group in groups.values()):
        given["preset"] = _keyword("preset", "default", _hidden(_PRESET, hidden=common is not None))
    own = {
        name: parameter.replace(annotation=_hidden(parameter.annotation, hidden=name not in (*common, "config")))
        if common is not None and get_origin(parameter.annotation) is Annotated and name != "preset"
        else parameter
        for name, parameter in given.items()
    }
    every = in_help_order([*(generated[name] for name in OPTIONS if name in generated), *own.values()])

    @wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        chosen = {name: values.pop(name) for name in [*generated, "config", "preset"] if name in values}
        objects = {name: _made(group, context, chosen, values) for name, group in groups.items()}
        command(**values, **objects, **{name: _value_of_option(name, chosen[name]) for name in single})

    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__signature__ = Signature([context, *every])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (context, *every)}
    return run


def _options_of(group: type) -> list[str]:
    """Return the names that a dataclass's fields have as options of the command line, with those of its recipe."""
    names = [NAMES.get(one.name, one.name) for one in fields(group) if one.name not in WRITTEN_WITH_OTHERS]
    return [*names, "fold_by", *_options_of(Recipe)] if group is Options else names


def _field_of_option(name: str) -> tuple[Any, Any]:
    """Return the type of the field that an option of the command line stands for, and its default as written there."""
    for group in _GROUPS:
        field = "groups" if (name, group) == ("fold_by", Options) else _FIELDS.get(name, name)
        found = {one.name: one for one in fields(group) if one.name != "recipe"}
        if field in found:
            return found[field].type, write_options({one.name: _default(one) for one in found.values()}).get(name)
    raise KeyError(name)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


def _parameter(name: str, *, hidden: bool) -> Parameter:
    shown = OPTIONS[name]
    kind, default = _field_of_option(name)
    kind = shown.kind or kind
    if get_origin(kind) in (tuple, list):
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    dashed = name.replace("_", "-")
    option = typer.Option(
        f"--{dashed}/--no-{dashed}" if default is True else f"--{dashed}",  # of others Command knows the negation
        help=shown.help,
        metavar=shown.metavar,
        min=shown.least,
        rich_help_panel=shown.panel,
        show_default=default not in (None, []),
        hidden=hidden,
    )
    return _keyword(name, default, Annotated[kind, option])


def _keyword(name: str, default: Any, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _hidden(annotation: Any, *, hidden: bool) -> Any:
    kind, info = get_args(annotation)
    info = copy(info)  # commands share some
    info.hidden = hidden and type(info).__name__ == "OptionInfo"
    return Annotated[kind, info]


def _value_of_option(name: str, value: Any) -> Any:
    """Return the value of one option of the command line as its field has it."""
    return next(iter(read_option(name, value).values()))


def _made(group: type, context: typer.Context, chosen: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    if group is Recipe:
        return _recipe(context, chosen)
    made: dict[str, Any] = {}
    for name in set(_options_of(group)) - set(_options_of(Recipe)):
        made |= {"groups": chosen[name]} if name == "fold_by" else read_option(name, chosen[name])
    made = {name: () if value is None and name in _TUPLES else value for name, value in made.items()}
    if group is Running:
        return Running(**made)
    for name in ("masks", "nuclei"):
        made[name] = tuple(locate(one) for one in made[name])
    if made["cohort"] is not None and values.get("slides"):
        if names_slides(made["cohort"]):
            logger.warning("The paths in %s are not used: the slides were given by name.", made["cohort"])
        made["samples"], made["cohort"] = made["cohort"], None
    return Options(**made, recipe=_recipe(context, chosen))


_FIELDS = {option: field for field, option in NAMES.items()}
_TUPLES = {one.name for one in fields(Options) if get_origin(one.type) is tuple}


def _recipe(context: typer.Context, chosen: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the options in the file and, on top, of those on the command line, each on its preset."""
    layers = []
    for source in ("DEFAULT_MAP", "COMMANDLINE"):
        # Typer's own copy of click has its own ParameterSource; its members have the same names.
        given = {name for name in chosen if getattr(context.get_parameter_source(name), "name", "") == source}
        changes = {name: chosen[name] for name in given & {*_options_of(Recipe)}}
        layers.append((chosen["preset"] if "preset" in given else None, changes))
    return recipe_from_options(*layers)


def recipe_from_options(*layers: tuple[str | None, Mapping[str, Any]]) -> Recipe:
    """Return a recipe from options as they are written: of each layer first the preset; later layers win.

    Examples
    --------
    >>> recipe_from_options(("paper", {"epochs": 3, "loss": ["simclr"]})).loss
    'simclr'
    """
    made: dict[str, Any] = {}
    for preset, changes in layers:
        if preset is not None and preset not in PRESETS:
            msg = f"`preset` is {preset!r}; it can be {', '.join(PRESETS)}."
            raise InputError(msg)
        made |= PRESETS[preset] if preset else {}
        for name, value in changes.items():
            made |= read_option(name, value)
    return Recipe(**made)
