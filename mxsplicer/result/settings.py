"""Begin a result, or continue one, by its ``settings.json``: what it was begun with, and what was chosen since.

:func:`begin_result` creates the folder, continues one that the same call began, or refuses one that was made
differently.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.fitting import describe_larger
from mxsplicer.result.config import write_config
from mxsplicer.result.folder import Result
from mxsplicer.result.job import Job
from mxsplicer.result.options import Options, options_as_json
from mxsplicer.splicer.recipe import find_removed
from mxsplicer.system.durations import format_duration

logger = logging.getLogger(__name__)


def begin_result(job: Job, *, overwrite: bool) -> None:
    """Create the result folder with its settings, or continue one that was begun with the same settings."""
    path, settings = job.result.path, job.result.settings
    if path.exists() and not settings.is_file() and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path} exists and is not a result of mxsplicer."
        raise InputError(msg, "Choose another `out`.")
    if settings.is_file():
        before = _read_settings(job.result)
        differences = describe_differences(before, job.settings())
        if not differences and not overwrite:
            job.seconds.update(before["seconds"])
            job.chosen = _chosen_before(before)
            job.is_begun = True
            return
        if not overwrite:
            msg = f"{path} exists and was made differently ({'; '.join(differences[:3])})."
            raise InputError(msg, "Choose another `out`, or pass `overwrite=True` to replace it.")
        for given in _given_paths(job):
            if given.resolve().is_relative_to(path.resolve()):
                msg = f"{given} lies in {path}, which `overwrite=True` would delete."
                raise InputError(msg, "Choose another `out`.")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    job.save_settings()
    records = [] if job.options.cohort is not None else [slide.record for slide in job.slides]
    write_config(job.result.config, job.options, job.running, slides=records, out=path)
    job.is_begun = True


def is_begun(job: Job) -> bool:
    """Return whether the result folder was begun with the same settings."""
    return job.result.settings.is_file() and not describe_differences(_read_settings(job.result), job.settings())


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return sentences on how the settings of two calls differ in what the result depends on."""
    options = [
        f"{name.replace('_', '-')} was {was}, now {value}"
        for name, value in now["options"].items()
        # An option that is off may have been recorded in another form.
        if (was := before["options"].get(name, value)) != value
        and (was or value)
        and not (name == "patch_size_um" and _is_earlier_default(before, was, value))
    ]
    options += [
        f"{name.replace('_', '-')} was {was}, which was removed"
        for name, was in find_removed(before["options"]).items()
    ]
    failed = {*before.get("failed", {}), *now.get("failed", {})}  # the others of a cohort are unchanged
    inputs = [
        f"slide {name!r} or its mask changed"
        for name in {**before["inputs"], **now["inputs"]}
        if name not in failed and before["inputs"].get(name) != now["inputs"].get(name)
    ]
    files = [
        f"the content of `{option}` changed"
        for option, content in now["files"].items()
        if before["files"].get(option, content) != content
    ]
    return options + inputs + files


def _is_earlier_default(before: Mapping[str, Any], was: Any, value: Any) -> bool:
    """Return whether the side of a patch is the default setting of results from before it followed the cells."""
    return "chosen" not in before and value is None and was == PATCH_SIZE_UM


def _chosen_before(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen since a result was begun, by its settings."""
    earlier = {"patch_size_um": size} if (size := before["options"].get("patch_size_um")) else {}
    return dict(before.get("chosen", earlier))


def _read_settings(result: Result) -> dict[str, Any]:
    """Return the settings a result was begun with; options that are newer than it were at their defaults."""
    settings = result.read_settings()
    defaults = options_as_json(Options())
    del defaults["fold_by"]  # version 0.1.0 did not record it, whatever it was
    options = defaults | settings["options"]
    if isinstance(views := options["views"], dict):  # a field that was removed, and at its default
        options["views"] = {name: value for name, value in views.items() if (name, value) != ("spanning", False)}
    return settings | {"options": options}


def _given_paths(job: Job) -> list[Path]:
    options = job.options
    tables = (options.model, options.markers, options.labels, options.samples, options.cohort, options.roi)
    files = [path for one in job.slides for path in one.record.files()]
    return [*files, *(path for path in tables if isinstance(path, Path))]


def report_choices(job: Job) -> None:
    """Print the settings that were chosen, once the result is begun."""
    n_larger = sum(job.chosen.get("larger_cells", {}).values())
    larger = describe_larger(n_larger, sum(len(one.measured_cells) for one in job.slides))
    if job.options.patch_size_um is None:
        why = "which follows from the cells"
        logger.info("Patches are %d px (%g µm) wide, %s%s.", job.patch_px, job.patch_size_um, why, larger)
    elif n_larger:
        logger.warning("Patches are %g µm wide%s.", job.patch_size_um, larger)
    if job.options.is_builtin:
        logger.info("Nothing is trained: the built-in model is used.")
    if "max_steps" in job.chosen:
        logger.info(
            "Training takes %d steps of about %s, which leaves time of the budget for embedding, about %s.",
            job.chosen["max_steps"],
            format_duration(job.chosen["seconds_per_step"]),
            format_duration(job.chosen["seconds_to_embed"]),
        )
