"""All that is given is opened and checked, and nothing is written."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker, parse_renames
from mxsplicer.images.readers import open_slide, slide_name
from mxsplicer.images.slide import Slide, select_channels
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.patches.blocks import choose_patch_px
from mxsplicer.result.cohort import (
    Sample,
    every_marker,
    read_cohort,
    said_panels,
    shared_markers,
)
from mxsplicer.result.folder import Result, failures
from mxsplicer.result.measuring import roi_files
from mxsplicer.result.options import Options, Running
from mxsplicer.result.outcomes import is_of_slide, reason_of
from mxsplicer.result.work import Entry, Work, check_any
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.run import check_panel, load_run
from mxsplicer.system.location import Location, locate
from mxsplicer.tl.labels import (
    check_samples,
    read_table,
)

logger = logging.getLogger(__name__)

_PATCH_SIZE_UM = 32.0  # a cell of 10 to 15 µm and its neighbours


def prepare(
    paths: Sequence[str | Path | Sample],
    out: str | Path | None,
    options: Options,
    running: Running,
    *,
    overwrite: bool = False,
) -> Work:
    """Open and check all that is given, without writing anything."""
    samples = samples_of(paths, options)
    names = [sample.name or slide_name(sample.path) for sample in samples]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"two slides are called {twice.pop()!r}. Give them different file names."
        raise InputError(msg)
    if out is None and len(names) > 1:
        msg = f"{len(names)} slides were given; say where their common result goes by --out."
        raise InputError(msg)
    result = Result(Path(out) if out is not None else Path(f"{names[0]}.mxs"), tuple(names))
    model = load_run(options.model, encoder=options.recipe.encoder) if options.model else None
    size = options.patch_size_um
    if size is None:
        size = model.settings["patch_size_um"] if model else _PATCH_SIZE_UM
    options = replace(options, patch_size_um=size)
    failed = {} if overwrite else failures(result.settings)
    work = Work(options, result, [], model, running, failed=failed)
    for name, sample in zip(names, samples, strict=True):
        if name in work.failed:
            continue
        try:
            work.entries.append(_opened(work, name, sample))
        except Exception as error:
            if options.cohort is None or not is_of_slide(error):
                raise
            work.failed[name] = f"opening: {reason_of(error)}"
            logger.error("slide %s is left out (%s)", name, work.failed[name])
    check_any(work.entries, work.failed)
    if model is None:
        _agree(work)
    _check_tables(options, work.slides)
    find_device(running.device)
    if model is None:
        markers = every_marker([slide.markers for slide in work.slides])
        options.recipe.components(markers)  # raises where a name is none of them
        options.recipe.check_own_code(len(markers), choose_patch_px(work.slides[0], size))
    return work


def samples_of(paths: Sequence[str | Path | Sample], options: Options) -> list[Sample]:
    """Return the slides of a cohort's table, or those that were named."""
    if options.cohort is not None:
        if paths:
            msg = f"{len(paths)} slides were named beside the table of the cohort, {options.cohort}. Give one of both."
            raise InputError(msg)
        return read_cohort(options.cohort)
    if not paths:
        msg = "no SLIDE was given: name image files, or a table of them by --cohort."
        raise InputError(msg)
    places = [locate(path) for path in paths if not isinstance(path, Sample)]
    if len(places) < len(paths):
        return [path if isinstance(path, Sample) else Sample(None, locate(path)) for path in paths]
    names = [slide_name(place) for place in places]
    masks, nuclei = _mask_paths(options.masks, names), _mask_paths(options.nuclei, names)
    return [Sample(None, place, mask, own) for place, mask, own in zip(places, masks, nuclei, strict=True)]


def _opened(work: Work, name: str, sample: Sample) -> Entry:
    """Open and check a slide and its mask."""
    options, model = work.options, work.model
    assert options.patch_size_um is not None, "prepare resolves it"
    slide = open_slide(
        sample.path,
        markers=sample.markers or options.markers,
        rename=parse_renames(options.rename),
        drop=options.drop,
        pixel_size_um=options.pixel_size_um,
        name=name,
    )
    mask = None if sample.mask is None else open_mask(sample.mask, page=options.mask_page, slide=slide)
    nuclei = None if sample.nuclei is None else open_nuclei(sample.nuclei, slide)
    own_segmenter = ":" in (options.segmenter or "")  # sees all markers
    if mask is None and options.nuclear_marker is not None:
        slide.channels_of([options.nuclear_marker])
    elif mask is None and not own_segmenter and find_nuclear_marker(slide.markers) is None:
        msg = (
            f"slide {slide.name!r} has no mask and no marker known to stain nuclei ({', '.join(slide.markers)}). "
            "Give a mask by --mask, or the nuclear marker by --nuclear-marker."
        )
        raise InputError(msg)
    patch_px = choose_patch_px(slide, options.patch_size_um)
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
    if sample.labels is not None:
        if sample.mask is None:
            msg = f"labels of slide {name!r} are matched by the ids of cells: name its mask in the table of the cohort."
            raise InputError(msg)
        read_table(sample.labels)
    return Entry(sample, slide, mask, nuclei)


def _agree(work: Work) -> None:
    """Give all slides one panel, or raise where they differ."""
    first, names = work.slides[0], [slide.name for slide in work.slides]
    panels = [slide.markers for slide in work.slides]
    other = next((slide for slide in work.slides if slide.markers != first.markers), None)
    if other is None:
        return
    shared = shared_markers(panels)
    if work.options.panel == "same":
        differ = sorted(set(other.markers) ^ set(first.markers)) or ["the order"]
        msg = f"slides {first.name!r} and {other.name!r} differ in their markers: {', '.join(differ)}."
        if shared:
            msg += (
                f" Of {len(names)} slides, {said_panels(panels)}. To train on those of all, give --panel shared, on "
                "those of any, --panel union."
            )
        raise InputError(msg)
    if not shared:
        msg = f"no marker is on all {len(names)} slides: {', '.join(names[:5])}. Rename those that are the same."
        raise InputError(msg)
    logger.warning(
        "the panels of %d slides differ: %s. The model sees those of %s.",
        len(names),
        said_panels(panels),
        "all" if work.options.panel == "shared" else "any",
    )
    if work.options.panel == "union":
        return
    for entry in work.entries:
        entry.channels = entry.slide.channels_of(shared)
        entry.slide = select_channels(entry.slide, entry.channels)


def _check_tables(options: Options, slides: Sequence[Slide]) -> None:
    if options.roi is not None:
        roi_files(options.roi, slides)
    if options.about_slides is not None:
        groups = None if options.groups == "slide" else options.groups
        check_samples(options.about_slides, [slide.name for slide in slides], groups)


def _mask_paths(given: Sequence[Location], names: Sequence[str]) -> list[Location | None]:
    """Return the mask of each slide: in their order, or found in a folder by the slide's name."""
    if not given:
        return [None] * len(names)
    given = [locate(path) for path in given]
    folder = given[0]
    if len(given) == 1 and isinstance(folder, Path) and folder.is_dir() and not _is_zarr(folder):
        return [_mask_in(folder, name) for name in names]
    if len(given) != len(names):
        msg = (
            f"{len(names)} slides and {len(given)} masks were given. Give a mask for each, or the folder of the masks."
        )
        raise InputError(msg)
    return list(given)


def _is_zarr(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("zarr.json", ".zarray", ".zgroup"))


def _mask_in(folder: Path, name: str) -> Path:
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
