"""Deconstructions: how a patch is split into components, each of which gets an encoder of its own.

SpliCER (arXiv 2503.07444, section 3): the loss compares chunk i of the primary embedding with the embedding of
component i. Components are used in training only.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.errors import InputError, describe_error
from mxsplicer.patches.store import BACKGROUND, NUCLEUS, OTHER_CELL, THIS_CELL
from mxsplicer.system.imports import import_by_name

_RIM_PX = 2  # about 1 µm: a membrane, as blurred as microscopes show it

Pixels = Callable[[Tensor], Tensor]  # regions (B, P, P) of patches -> the pixels of the component, (B, P, P) bool


@dataclass(frozen=True)
class Component:
    """A named component of a deconstructed patch: some of its channels, in some of its pixels.

    Parameters
    ----------
    name
        Name of the component and of its chunk.
    channels
        Indices of the markers that it shows.
    pixels
        Function of ``regions`` that returns which pixels it shows, for each cell independently. A region is
        ``BACKGROUND``, ``OTHER_CELL``, ``THIS_CELL`` or ``NUCLEUS`` (:mod:`mxsplicer.patches.store`). Without it, the
        component shows the cell, or the whole patch with ``component_area="patch"``.
    family
        Name of the marker whose settings (loss, weight, chunk width) apply unless the component has its own.
    """

    name: str
    channels: tuple[int, ...]
    pixels: Pixels | None = None
    family: str = ""


Deconstruction = Callable[[Sequence[str]], list[Component]]  # markers -> components


def this_cell(regions: Tensor) -> Tensor:
    """Return the pixels that a deconstruction shows of the cell at the centre: all, with its nucleus."""
    return (regions == THIS_CELL) | (regions == NUCLEUS)


def rim(regions: Tensor) -> Tensor:
    """Return the pixels that a deconstruction shows of the rim of the cell: the outermost 2."""
    return this_cell(regions) & ~interior(regions)


def interior(regions: Tensor) -> Tensor:
    """Return the pixels that a deconstruction shows of the interior of the cell: all except the outermost 2."""
    inside = this_cell(regions)
    for _ in range(_RIM_PX):
        padded = F.pad(inside, (1, 1, 1, 1))
        inside = inside & padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return inside


def nucleus(regions: Tensor) -> Tensor:
    """Return the pixels that a deconstruction shows of the nucleus of the cell."""
    return regions == NUCLEUS


def cytoplasm(regions: Tensor) -> Tensor:
    """Return the pixels that a deconstruction shows of the cytoplasm: the cell except its nucleus."""
    return regions == THIS_CELL


OF_NUCLEI: tuple[Pixels, ...] = (nucleus, cytoplasm)  # need patches that were cut with a mask of nuclei


@lru_cache
def stays_within_cell(pixels: Pixels) -> bool:
    """Return whether a component of a deconstruction shows only pixels of the cell, as tried on example regions."""
    regions = _example_regions()
    return not (pixels(regions) & ~this_cell(regions)).any()


@lru_cache
def _example_regions() -> Tensor:
    """Return regions (8, 32, 32) to try a deconstruction on: four cells with nucleus and neighbour, four of noise."""
    y, x = torch.meshgrid(torch.arange(32) - 16, torch.arange(32) - 16, indexing="ij")
    radius = (y**2 + x**2).float().sqrt()
    regions = torch.randint(0, 4, (8, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for number, size in enumerate((6, 9, 12, 15)):
        regions[number] = torch.where(x > y + size, OTHER_CELL, BACKGROUND)
        regions[number][radius < size] = THIS_CELL
        regions[number][radius < size // 2] = NUCLEUS
    return regions


def by_marker(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch into one component per marker, as the paper does for multiplex images.

    Examples
    --------
    >>> [component.name for component in by_marker(["DAPI", "CD8a"])]
    ['DAPI', 'CD8a']
    """
    return [Component(marker, (channel,)) for channel, marker in enumerate(markers)]


def by_group(groups: Mapping[str, Sequence[str]]) -> Deconstruction:
    """Return the deconstruction into named groups of markers, which may overlap; a pair shows what spans two channels.

    Examples
    --------
    >>> t_cells = by_group({"T cells": ["CD3e", "CD8a"], "nuclei": ["DAPI"]})
    >>> [component.channels for component in t_cells(["DAPI", "CD3e", "CD8a"])]
    [(1, 2), (0,)]
    """

    def by_these_groups(markers: Sequence[str]) -> list[Component]:
        for group, names in groups.items():
            check_names(names, markers, kind="marker", argument=f"group {group!r}")
        places = {marker: channel for channel, marker in enumerate(markers)}
        return [Component(group, tuple(places[name] for name in names)) for group, names in groups.items()]

    return by_these_groups


def by_compartment(markers: Sequence[str]) -> list[Component]:
    """Deconstruct into two components per marker: the rim of the cell, where membrane proteins lie, and its interior.

    The share of a marker in the rim distinguishes a cell that expresses it from one that receives spill-over of its
    neighbours; one chunk for each compartment keeps the two apart.

    Examples
    --------
    >>> [component.name for component in by_compartment(["CD4", "CD8a"])]
    ['CD4 rim', 'CD8a rim', 'CD4 interior', 'CD8a interior']
    """
    return [
        Component(f"{marker} {name}", (channel,), pixels, family=marker)
        for name, pixels in (("rim", rim), ("interior", interior))
        for channel, marker in enumerate(markers)
    ]


def by_region(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch into its cell, the other cells and the background; they add up to the patch."""
    return _by_pixels(
        markers,
        cell=this_cell,
        neighbours=lambda regions: regions == OTHER_CELL,
        background=lambda regions: regions == BACKGROUND,
    )


def by_cell(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch into its cell and the surroundings; they add up to the patch."""
    return _by_pixels(markers, cell=this_cell, surroundings=lambda regions: ~this_cell(regions))


def by_nucleus(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a cell into its nucleus and its cytoplasm; patches must be cut with a mask of nuclei."""
    return _by_pixels(markers, nucleus=nucleus, cytoplasm=cytoplasm)


def by_mask(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch, of any number of channels, into the pixels that a mask covers and the others.

    The covered pixels alone are worse than both (the paper, table S2).
    """
    return _by_pixels(
        markers, inside=lambda regions: regions != BACKGROUND, outside=lambda regions: regions == BACKGROUND
    )


def by_half(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch into its upper and its lower half, such as MNIST above CIFAR (the paper, section 4)."""

    def row(regions: Tensor) -> Tensor:
        return torch.arange(regions.shape[1], device=regions.device)[:, None].expand(regions.shape)

    return _by_pixels(
        markers,
        upper=lambda regions: row(regions) < regions.shape[1] // 2,
        lower=lambda regions: row(regions) >= regions.shape[1] // 2,
    )


def by_side(markers: Sequence[str]) -> list[Component]:
    """Deconstruct a patch into its left and its right half."""
    upper, lower = by_half(markers)
    assert upper.pixels is not None
    assert lower.pixels is not None
    left, right = _transpose(upper.pixels), _transpose(lower.pixels)
    return _by_pixels(markers, left=left, right=right)


DECONSTRUCTIONS: dict[str, Deconstruction] = {
    "marker": by_marker,
    "compartments": by_compartment,
    "regions": by_region,
    "cell": by_cell,
    "nucleus": by_nucleus,
    "mask": by_mask,
    "halves": by_half,
    "sides": by_side,
}


def find_deconstruction(name: str) -> Deconstruction:
    """Return a deconstruction: by its name in the table, or a user's function by ``module:function``.

    Raises
    ------
    InputError
        If it cannot be imported; the function it returns raises where it does not return components.
    """
    if name in DECONSTRUCTIONS:
        return DECONSTRUCTIONS[name]
    must = "the names of the markers and return a list of mxsplicer.splicer.deconstruction.Component"
    own = import_by_name(name, "a deconstruction", must)

    def checked(markers: Sequence[str]) -> list[Component]:
        try:
            components = list(own(markers))
            fault = _fault(components, len(markers))
        except Exception as error:  # the user's function may raise anything
            fault = f"fails on {len(markers)} markers ({describe_error(error)})"
        if fault:
            msg = f"deconstruction {name!r} {fault}."
            raise InputError(msg, f"It must take {must}, whose channels are indices of these markers.")
        return components

    return checked


def _fault(components: Sequence[Any], n_markers: int) -> str:
    """Return what is wrong with the components that a user's deconstruction returned, or ""."""
    regions = _example_regions()
    for component in components:
        if not isinstance(component, Component):
            return f"returns {type(component).__name__} among its components"
        if not component.channels or not set(component.channels) <= set(range(n_markers)):
            return f"gives component {component.name!r} the channels {component.channels}, of {n_markers}"
        shown = None if component.pixels is None else component.pixels(regions)
        if shown is not None and (shown.shape, shown.dtype) != (regions.shape, torch.bool):
            return f"has a component {component.name!r} whose pixels are not booleans (B, P, P) for regions (B, P, P)"
    return "" if components else "returns an empty list"


def combine(deconstructions: Sequence[Deconstruction]) -> Deconstruction:
    """Return the deconstruction that has the components of all the given ones."""

    def combined(markers: Sequence[str]) -> list[Component]:
        components = [component for one in deconstructions for component in one(markers)]
        names = [component.name for component in components]
        for name in names:
            if names.count(name) > 1:
                msg = f"two components are called {name!r}: {', '.join(names)}."
                raise InputError(msg, "Give one of them another name.")
        return components

    return combined


def omit(components: Sequence[Component], markers: Sequence[str], omitted: Collection[str]) -> list[Component]:
    """Return a deconstruction's components without omitted markers and components; the encoder still sees them.

    Parameters
    ----------
    omitted
        Names of markers and components.

    Raises
    ------
    InputError
        If a name is unknown, or no component is left.
    """
    known = [*markers, *(component.name for component in components if component.name not in markers)]
    check_names(omitted, known, kind="marker or component", argument="`omit`")
    kept = [
        replace(component, channels=tuple(c for c in component.channels if markers[c] not in omitted))
        for component in components
        if component.name not in omitted
    ]
    kept = [component for component in kept if component.channels]
    if not kept:
        msg = f"no component is left without {', '.join(omitted)}."
        raise InputError(msg, "Omit fewer in `omit`.")
    return kept


def read_groups(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read the groups of a deconstruction from a YAML file, ``T cells: [CD3e, CD8a]``; chunks are named after them.

    Raises
    ------
    InputError
        If the file contains anything else.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not a YAML file: {' '.join(str(error).split())}."
        raise InputError(msg) from error
    wanted = "Write one group per line, such as `T cells: [CD3e, CD8a]`."
    if not isinstance(content, dict) or not content:
        msg = f"{path} contains no named groups of markers."
        raise InputError(msg, wanted)
    groups = {str(name): [members] if isinstance(members, str) else members for name, members in content.items()}
    for name, members in groups.items():
        if not isinstance(members, list) or not members or not all(isinstance(one, str | int) for one in members):
            msg = f"{path}: group {name!r} is {members!r}, not a list of markers."
            raise InputError(msg, wanted)
    return {name: tuple(str(one) for one in members) for name, members in groups.items()}


def check_names(names: Collection[str], known: Sequence[str], *, kind: str, argument: str) -> None:
    """Raise if a component or marker that a deconstruction names is unknown, and suggest the closest known one."""
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            msg = f"{argument} names {name!r}, which is not a {kind}."
            raise InputError(msg, f"{hint}Known names: {', '.join(known)}.")


def component_pixels(regions: Tensor, components: Sequence[Component], *, hide: bool) -> Tensor | None:
    """Return the pixels that a deconstruction's components show, (B, m, P, P), each set of pixels once; None: all.

    Parameters
    ----------
    regions
        What each pixel shows, (B, P, P).
    hide
        Whether a component that does not define its pixels shows the cell alone.
    """
    distinct = list(dict.fromkeys(_pixels(components, hide=hide)))
    if distinct == [None]:
        return None
    everything = torch.ones_like(regions, dtype=torch.bool)
    return torch.stack([everything if pixels is None else pixels(regions) for pixels in distinct], dim=1)


def cut(patches: Tensor, masks: Tensor | None, components: Sequence[Component], *, hide: bool) -> Tensor:
    """Return the channels of all deconstructed components, (B, sum of C_k, P, P), with 0 in pixels that are not shown.

    Parameters
    ----------
    patches
        Normalised, (B, C, P, P).
    masks, hide
        The result of :func:`component_pixels`, transformed as the patches were, and its argument.
    """
    channels = [channel for component in components for channel in component.channels]
    shown = patches if channels == list(range(patches.shape[1])) else patches[:, channels]
    if masks is None:
        return shown
    of_channels = [
        pixels
        for pixels, component in zip(_pixels(components, hide=hide), components, strict=True)
        for _ in component.channels
    ]
    distinct = list(dict.fromkeys(of_channels))
    return shown * (masks if len(distinct) == 1 else masks[:, [distinct.index(pixels) for pixels in of_channels]])


def stack_components(channels: Tensor, components: Sequence[Component]) -> Tensor:
    """Return deconstructed components of :func:`cut` as (B, n, C_max, P, P), padded with zeros to the most channels.

    The zeros let components of any number of channels pass through one grouped network.
    """
    widths = [len(component.channels) for component in components]
    widest = max(widths)
    if min(widths) == widest:
        return channels.view(len(channels), len(widths), widest, *channels.shape[2:])
    of_components = torch.split(channels, widths, dim=1)
    return torch.stack([F.pad(one, (0, 0, 0, 0, 0, widest - one.shape[1])) for one in of_components], dim=1)


def _pixels(components: Sequence[Component], *, hide: bool) -> list[Pixels | None]:
    return [component.pixels or (this_cell if hide else None) for component in components]


def _by_pixels(markers: Sequence[str], **named: Pixels) -> list[Component]:
    every = tuple(range(len(markers)))
    return [Component(name, every, pixels) for name, pixels in named.items()]


def _transpose(pixels: Pixels) -> Pixels:
    return lambda regions: pixels(regions.transpose(1, 2)).transpose(1, 2)
