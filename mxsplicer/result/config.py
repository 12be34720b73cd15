"""The options of a result as ``config.toml``, from which the same command reads them again.

The options stand in the file as people write them on the command line: see :mod:`mxsplicer.result.options`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxsplicer.result.options import Options, Running, write_options
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system.files import atomic_write
from mxsplicer.system.location import Location, absolute

if TYPE_CHECKING:
    from mxsplicer.result.slides import SlideRecord


def write_config(
    path: Path, options: Options, running: Running, *, slides: Sequence["SlideRecord"] = (), out: Path | None = None
) -> None:
    """Write ``config.toml``: all options of a call, with absolute paths and with the defaults spelled out.

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
    """Write ``config.toml`` of a merge: its options, with absolute paths and with the defaults spelled out."""
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
    """Return whether a slide cannot be named in ``config.toml``: it has more of its own than an image and a mask."""
    from mxsplicer.images.opening import slide_name

    own_mask = (slide.mask is not None and not options.masks) or (slide.nuclei is not None and not options.nuclei)
    own_tables = slide.labels is not None or slide.markers_table != options.markers
    return own_mask or own_tables or slide.name != slide_name(slide.image)


def _write_groups(path: Path, recipe: Recipe) -> str:
    """Write the groups of markers next to ``config.toml``, and return the deconstruction that names their file."""
    with atomic_write(path) as temporary:  # JSON is YAML
        temporary.write_text(json.dumps(dict(recipe.groups), indent=1, ensure_ascii=False), encoding="utf-8")
    return "+".join(absolute(path) if word == "groups" else word for word in recipe.deconstruction.split("+"))
