"""Options as people write them, on the command line and in a TOML file, and as fields of the dataclasses.

Most options are a field of :class:`~mxsplicer.result.options.Options`, ``Running`` or
:class:`~mxsplicer.splicer.recipe.Recipe` under the same name. A few have a shorter name, and a few stand for several
fields: ``loss = ["vicreg", "CD8a=simclr"]`` are ``loss`` and ``losses``. This module knows both directions; a result
keeps its options as ``config.toml``, from which the same command reads them again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mxsplicer.errors import InputError
from mxsplicer.result.options import Options, Running
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system.files import atomic_write
from mxsplicer.system.location import Location, absolute
from mxsplicer.system.memory import parse_bytes
from mxsplicer.system.progress import parse_duration

if TYPE_CHECKING:
    from mxsplicer.result.slides import SlideRecord

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
_AREAS = {"hide": "cell", "keep": "patch"}  # what the encoder sees

# Fields without an option of their own: another option stands for them.
WRITTEN_WITH_OTHERS = ("losses", "widths", "width_rule", "groups", "recipe", "samples")


def read_option(name: str, value: Any) -> dict[str, Any]:
    """Return the fields that one option stands for.

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
    for field, value in values.items():
        if field in WRITTEN_WITH_OTHERS or value is None:
            continue
        name = NAMES.get(field, field)
        written[name] = _WRITE[name](values) if name in _WRITE else _as_toml(value)
    return written


def write_config(
    path: Path, options: Options, running: Running, *, slides: Sequence["SlideRecord"] = (), out: Path | None = None
) -> None:
    """Write all options of a call to a TOML file, with absolute paths and with the defaults spelled out.

    Groups of markers go to ``groups.yaml`` in the same folder. What only Python can express is noted as a comment.

    Parameters
    ----------
    slides
        The slides, where no table of a cohort names them.
    out
        The result folder.
    """
    recipe = options.recipe
    of_recipe = {name: value for name, value in vars(recipe).items() if name != "groups"}
    of_options = {name: value for name, value in vars(options).items() if name not in ("cohort", "groups")}
    lines = ["# The options of this result: `mxsplicer embed --config config.toml` repeats it."]
    images: list[Location] | None = [slide.image for slide in slides] or None
    if any(_needs_python(slide, options) for slide in slides):
        lines.append("# The slides were given in Python, with names, masks or tables of their own.")
        images = None
    if not isinstance(recipe.views, str):
        lines.append(f"# The views were given in Python: {recipe.views}")
        of_recipe.pop("views")
    sections = {
        "Input and output": {"slides": images, "out": out, "cohort": options.samples or options.cohort},
        "Cells, patches and scores": of_options | {"fold_by": options.groups},
        "Training": of_recipe,
        "Where and in how much memory": vars(running),
    }
    for heading, values in sections.items():
        written = write_options(values)
        if recipe.groups and "deconstruct" in written:
            written["deconstruct"] = _write_groups(path.with_name("groups.yaml"), recipe)
        lines += ["", f"# {heading}", *_as_lines(written)]
    _write_lines(path, lines)


def write_merge_config(path: Path, results: Sequence[str | Path], options: Options, *, out: Path) -> None:
    """Write the options of a merge to a TOML file, with absolute paths and with the defaults spelled out."""
    written = write_options(
        {
            "results": tuple(map(Path, results)),
            "out": out,
            "cohort": options.samples or options.cohort,
            "label": options.label,
            "fold_by": options.groups,
            "seed": options.seed,
        }
    )
    title = "# The options of this result: `mxsplicer merge --config config.toml` repeats it."
    _write_lines(path, [title, "", *_as_lines(written)])


def _as_lines(written: Mapping[str, Any]) -> list[str]:
    # Strings, numbers, booleans and arrays are written as in JSON.
    return [f"{name.replace('_', '-')} = {json.dumps(one, ensure_ascii=False)}" for name, one in written.items()]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _needs_python(slide: "SlideRecord", options: Options) -> bool:
    """Return whether a slide has more of its own than an image, and a mask by ``options.masks``."""
    from mxsplicer.images.opening import slide_name

    own_mask = (slide.mask is not None and not options.masks) or (slide.nuclei is not None and not options.nuclei)
    own_tables = slide.labels is not None or slide.markers_table != options.markers
    return own_mask or own_tables or slide.name != slide_name(slide.image)


def _write_groups(path: Path, recipe: Recipe) -> str:
    """Write the groups of markers to a file, and return the deconstruction that names it."""
    with atomic_write(path) as temporary:  # JSON is YAML
        temporary.write_text(json.dumps(dict(recipe.groups), indent=1, ensure_ascii=False), encoding="utf-8")
    return "+".join(absolute(path) if word == "groups" else word for word in recipe.deconstruction.split("+"))


def names_slides(table: Path) -> bool:
    """Return whether a table of slides has a column ``path``, and so names slides rather than describes them."""
    with table.open(encoding="utf-8", errors="replace") as lines:
        header = next((line for line in lines if not line.startswith("#")), "")
    return "path" in [column.strip().strip('"') for column in header.replace("\t", ",").split(",")]


def _as_toml(value: Any) -> Any:
    if isinstance(value, Path):
        return absolute(value)
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
    read: dict[str, Any] = {"widths": widths, "width_rule": "equal"}
    for word in words:
        read |= {"width_rule": word} if word.isalpha() else {"chunk_width": _number("chunk_width", word, int)}
    return read


def _read_deconstruction(given: str) -> dict[str, Any]:
    """Return the fields of a deconstruction, in which a file of groups stands for the word ``groups``."""
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
    """Return the values for all components, and those for single components: NAME=VALUE."""
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


def _write_widths(values: Mapping[str, Any]) -> list[str]:
    rule = values.get("width_rule", "equal")
    return [str(values["chunk_width"]), *([] if rule == "equal" else [rule]), *_pairs(values.get("widths", {}))]


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
    "chunk_width": _write_widths,
    "encoder_area": lambda values: _AREAS[values["surroundings"]],
    "budget": lambda values: f"{values['budget_s']:g}s",
    "max_memory": lambda values: str(values["max_bytes"]),
}
