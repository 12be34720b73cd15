"""Open and check everything that a call was given, then begin its result folder or continue one.

:func:`open_job` writes nothing, so that a mistake is reported before hours of work. :func:`begin` creates the folder,
continues one that the same call began, or refuses one that was made differently.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.opening import slide_name
from mxsplicer.images.slide import Slide, select_channels
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.blocks import PatchGeometry
from mxsplicer.result.cohort import describe_panels, every_marker, find_roi_files, read_cohort, shared_markers
from mxsplicer.result.config import write_config
from mxsplicer.result.folder import Result
from mxsplicer.result.job import Job, JobSlide, check_any_left
from mxsplicer.result.options import Options, Running, check_slides_given, options_as_json
from mxsplicer.result.outcomes import concerns_one_slide, describe_failure
from mxsplicer.result.slides import SlideRecord
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.run import check_panel, load_run
from mxsplicer.system.location import Location, locate
from mxsplicer.system.tables import read_header
from mxsplicer.tl.labels import check_samples

logger = logging.getLogger(__name__)

_TRIAL_PX = 32  # of a patch, on which a user's encoder is tried before the cells are known


def open_job(
    slides: str | Path | Sequence[str | Path | SlideRecord],
    out: str | Path | None,
    options: Options,
    running: Running,
    *,
    overwrite: bool = False,
) -> Job:
    """Open and check everything that was given, without writing anything.

    Parameters
    ----------
    slides, out, options, overwrite
        As for :func:`~mxsplicer.embed_slides`.
    running
        Where the call runs, and in how much memory.
    """
    records = find_slides(slides, options)
    names = [record.name for record in records]
    _check_names(names, out)
    result = Result(Path(out) if out is not None else Path(f"{names[0]}.mxs"), tuple(names))
    model = load_run(options.model, encoder=options.recipe.encoder) if options.model else None
    job = Job(options, result, [], model, running, failed={} if overwrite else result.failed)
    if options.patch_size_um is None and (model is not None or not job.sees_cells_only):
        size = model.settings["patch_size_um"] if model is not None else PATCH_SIZE_UM
        job.options = options = replace(options, patch_size_um=size)
    for record in records:
        if record.name in job.failed:
            continue
        try:
            job.slides.append(_open_slide(job, record))
        except Exception as error:
            if options.cohort is None or not concerns_one_slide(error):
                raise
            job.failed[record.name] = f"opening: {describe_failure(error)}"
            logger.error("slide %s is left out (%s)", record.name, job.failed[record.name])
    check_any_left(job.slides, job.failed)
    if model is None:
        _agree_on_markers(job)
    _check_tables(options, job.images)
    find_device(running.device)
    if model is None:
        markers = every_marker([slide.markers for slide in job.images])
        options.recipe.components(markers)  # raises if a name is not one of them
        size = options.patch_size_um
        patch_px = _TRIAL_PX if size is None else PatchGeometry.of(job.images[0], size).patch_px
        options.recipe.check_own_code(len(markers), patch_px)
    return job


def find_slides(slides: str | Path | Sequence[str | Path | SlideRecord], options: Options) -> list[SlideRecord]:
    """Return the slides of a cohort's table or those that were named, with the options on how to read them."""
    given = [slides] if isinstance(slides, str | Path) else list(slides)
    if options.cohort is not None:
        if given:
            msg = f"{len(given)} slides were named in addition to the table of the cohort, {options.cohort}."
            raise InputError(msg, "Give either slides or `cohort`.")
        records = read_cohort(options.cohort)
    else:
        check_slides_given(given, options)
        records = _records_of_images(given, options)
    return [
        replace(
            record,
            markers_table=record.markers_table or options.markers,
            rename=record.rename or options.rename,
            drop=record.drop or options.drop,
            pixel_size_um=record.pixel_size_um or options.pixel_size_um,
            image_in_file=record.image_in_file or options.image,
            mask_page=options.mask_page if record.mask is not None else None,
        )
        for record in records
    ]


def begin(job: Job, *, overwrite: bool) -> None:
    """Create the result folder, or continue one that was begun by the same call."""
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
    """Return whether the result folder was begun by the same call."""
    return job.result.settings.is_file() and not describe_differences(_read_settings(job.result), job.settings())


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return sentences on how two calls, as ``settings.json`` records them, differ in what the result depends on."""
    options = [
        f"{name.replace('_', '-')} was {was}, now {value}"
        for name, value in now["options"].items()
        # An option that is off may have been recorded in another form.
        if (was := before["options"].get(name, value)) != value
        and (was or value)
        and not (name == "patch_size_um" and _is_earlier_default(before, was, value))
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
    """Return whether the side of a patch is the default of results that were begun before it followed the cells."""
    return "chosen" not in before and value is None and was == PATCH_SIZE_UM


def _chosen_before(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen when a result was begun."""
    earlier = {"patch_size_um": size} if (size := before["options"].get("patch_size_um")) else {}
    return dict(before.get("chosen", earlier))


def _check_names(names: Sequence[str], out: str | Path | None) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"two slides are called {twice.pop()!r}."
        raise InputError(msg, "Give them different file names.")
    if out is None and len(names) > 1:
        msg = f"{len(names)} slides were given, and no folder for their common result."
        raise InputError(msg, "Pass `out`.")


def _records_of_images(given: Sequence[str | Path | SlideRecord], options: Options) -> list[SlideRecord]:
    if any(isinstance(one, SlideRecord) for one in given):
        return [one if isinstance(one, SlideRecord) else SlideRecord.of_image(one) for one in given]
    images = [locate(one) for one in given if not isinstance(one, SlideRecord)]
    names = [slide_name(image) for image in images]
    masks, nuclei = _masks_of_slides(options.masks, names), _masks_of_slides(options.nuclei, names)
    return [
        SlideRecord.of_image(image, mask=mask, nuclei=own)
        for image, mask, own in zip(images, masks, nuclei, strict=True)
    ]


def _open_slide(job: Job, record: SlideRecord) -> JobSlide:
    """Open a slide and its masks, and compare them with each other and with the model."""
    options, model = job.options, job.model
    slide = record.open_image()
    mask, nuclei = record.open_mask(slide), record.open_nuclei(slide)
    if mask is None:
        _check_can_segment(slide, options)
    if options.patch_size_um is not None:
        patch_px = PatchGeometry.of(slide, options.patch_size_um).patch_px  # raises if it does not fit on the slide
    if model is not None:
        check_panel(
            model,
            slide.name,
            slide.markers,
            patch_px,
            slide.pixel_size_um,
            in_file=slide.markers_in_file,
            fill_missing=options.fill_missing or model.fills_missing,
        )
    if record.labels is not None:
        if record.mask is None:
            msg = f"labels of slide {record.name!r} are matched by the ids of cells, and its mask was not given."
            raise InputError(msg, "Name the mask in the table of the cohort.")
        read_header(record.labels)
    return JobSlide(record.as_opened(slide), slide, mask, nuclei)


def _check_can_segment(slide: Slide, options: Options) -> None:
    if options.nuclear_marker is not None:
        slide.channels_of([options.nuclear_marker])
    elif ":" in (options.segmenter or ""):
        pass  # a user's own function is called with all markers
    elif find_nuclear_marker(slide.markers) is None:
        msg = (
            f"slide {slide.name!r} has no mask and no marker known to stain nuclei; its markers: "
            f"{', '.join(slide.markers)}."
        )
        raise InputError(msg, "Pass a mask as `masks`, or the marker as `nuclear_marker`.")


def _agree_on_markers(job: Job) -> None:
    """Give all slides the same markers if ``options.panel`` says so; raise if they differ and it does not."""
    first, names = job.images[0], [one.name for one in job.slides]
    panels = [slide.markers for slide in job.images]
    other = next((slide for slide in job.images if slide.markers != first.markers), None)
    if other is None:
        return
    shared = shared_markers(panels)
    if job.options.panel == "same":
        differ = sorted(set(other.markers) ^ set(first.markers)) or ["the order"]
        msg = f"slides {first.name!r} and {other.name!r} differ in their markers: {', '.join(differ)}."
        if not shared:
            raise InputError(msg)
        msg += f" Of {len(names)} slides, {describe_panels(panels)}."
        raise InputError(msg, 'Pass `panel="shared"` to train on the markers of all slides, or `panel="union"`.')
    if not shared:
        msg = f"no marker is on all {len(names)} slides: {', '.join(names[:5])}."
        raise InputError(msg, "Rename markers that are the same.")
    logger.warning(
        "the panels of %d slides differ: %s. The model sees the markers of %s.",
        len(names),
        describe_panels(panels),
        "all slides" if job.options.panel == "shared" else "any slide",
    )
    if job.options.panel == "shared":
        for one in job.slides:
            one.slide = select_channels(one.slide, one.slide.channels_of(shared))
            one.record = replace(one.record, markers=one.slide.markers, selected=True)


def _check_tables(options: Options, slides: Sequence[Slide]) -> None:
    names = [slide.name for slide in slides]
    if options.roi is not None:
        find_roi_files(options.roi, names)
    if options.about_slides is not None:
        check_samples(options.about_slides, names, None if options.groups == "slide" else options.groups)


def _masks_of_slides(given: Sequence[Location], names: Sequence[str]) -> list[Location | None]:
    """Return the mask of each slide: in their order, or found in a folder by the slide's name."""
    if not given:
        return [None] * len(names)
    given = [locate(path) for path in given]
    folder = given[0]
    if len(given) == 1 and isinstance(folder, Path) and folder.is_dir() and not _is_zarr(folder):
        return [_find_mask(folder, name) for name in names]
    if len(given) != len(names):
        msg = f"{len(names)} slides and {len(given)} masks were given."
        raise InputError(msg, "Give a mask for each slide, or the folder of the masks.")
    return list(given)


def _is_zarr(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("zarr.json", ".zarray", ".zgroup"))


def _find_mask(folder: Path, name: str) -> Path:
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.startswith(name) and not path.name[len(name) : len(name) + 1].isalnum()
    ]
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        msg = f"folder {folder} holds {len(found)} masks whose name begins with {name!r} ({listed}); one is needed."
        raise InputError(msg)
    return found[0]


def _read_settings(result: Result) -> dict[str, Any]:
    """Return what a result was begun with; options that are newer than it were at their defaults."""
    settings = result.read_settings()
    defaults = options_as_json(Options())
    del defaults["fold_by"]  # version 0.1.0 did not record it, whatever it was
    return settings | {"options": defaults | settings["options"]}


def _given_paths(job: Job) -> list[Path]:
    options = job.options
    tables = (options.model, options.markers, options.labels, options.samples, options.cohort, options.roi)
    files = [path for one in job.slides for path in one.record.files()]
    return [*files, *(path for path in tables if isinstance(path, Path))]
