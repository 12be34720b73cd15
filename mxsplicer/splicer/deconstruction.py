"""Deconstructions: which parts of a patch get an encoder of their own.

SpliCER (arXiv 2503.07444, section 3): a deconstruction takes a patch apart into components; chunk i of the primary
embedding is held to component i. It is used in training only.
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

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.patches.store import BACKGROUND, NUCLEUS, OTHER_CELL, THIS_CELL
from mxsplicer.system.imports import describe_error, import_by_name

_RIM_PX = 2  # about 1 µm: a membrane, as blurred as microscopes show it

Part = Callable[[Tensor], Tensor]  # regions (B, P, P) of patches -> which pixels belong to the component, (B, P, P)


@dataclass(frozen=True)
class Component:
    """A named part of a patch: some of its channels, in some of its pixels.

    Without ``part`` these pixels are the cell itself, or all where the surroundings of cells are kept. A part sees what
    each pixel shows (``BACKGROUND``, ``OTHER_CELL``, ``THIS_CELL`` or its ``NUCLEUS``, of ``mxsplicer.patches.store``),
    each cell by itself. What is said of ``family`` is said of every component of it that nothing is said of by name.
    """

    name: str
    channels: tuple[int, ...]
    part: Part | None = None
    family: str = ""


Deconstruction = Callable[[Sequence[str]], list[Component]]  # markers -> components


def this_cell(regions: Tensor) -> Tensor:
    """Return where the cell itself is."""
    return (regions == THIS_CELL) | (regions == NUCLEUS)


def rim(regions: Tensor) -> Tensor:
    """Return where the outermost 2 pixels of the cell itself are."""
    return this_cell(regions) & ~interior(regions)


def interior(regions: Tensor) -> Tensor:
    """Return where the cell itself is without its outermost 2 pixels."""
    inside = this_cell(regions)
    for _ in range(_RIM_PX):
        padded = F.pad(inside, (1, 1, 1, 1))
        inside = inside & padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return inside


def nucleus(regions: Tensor) -> Tensor:
    """Return where the nucleus of the cell itself is."""
    return regions == NUCLEUS


def cytoplasm(regions: Tensor) -> Tensor:
    """Return where the cell itself is without its nucleus."""
    return regions == THIS_CELL


OF_NUCLEI: tuple[Part, ...] = (nucleus, cytoplasm)  # need patches that were cut with a mask of nuclei


@lru_cache
def stays_within_cell(part: Part) -> bool:
    """Return whether a part shows the cell itself or less of it, as tried on some regions."""
    regions = _some_regions()
    return not (part(regions) & ~this_cell(regions)).any()


@lru_cache
def _some_regions() -> Tensor:
    """Return regions (8, 32, 32) to try parts on: a round cell with its nucleus beside another, and noise."""
    y, x = torch.meshgrid(torch.arange(32) - 16, torch.arange(32) - 16, indexing="ij")
    radius = (y**2 + x**2).float().sqrt()
    regions = torch.randint(0, 4, (8, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for number, size in enumerate((6, 9, 12, 15)):
        regions[number] = torch.where(x > y + size, OTHER_CELL, BACKGROUND)
        regions[number][radius < size] = THIS_CELL
        regions[number][radius < size // 2] = NUCLEUS
    return regions


def by_marker(markers: Sequence[str]) -> list[Component]:
    """Give every marker a component of its own, as the paper does for multiplex images.

    Examples
    --------
    >>> [component.name for component in by_marker(["DAPI", "CD8a"])]
    ['DAPI', 'CD8a']
    """
    return [Component(marker, (channel,)) for channel, marker in enumerate(markers)]


def by_nuclear_pair(markers: Sequence[str]) -> list[Component]:
    """Give every marker a component in which it is seen together with the nuclear stain: where in the cell it lies.

    Raises
    ------
    InputError
        If no marker is known to stain nuclei.

    Examples
    --------
    >>> [(component.name, component.channels) for component in by_nuclear_pair(["CD3e", "DAPI"])]
    [('CD3e with DAPI', (1, 0))]
    """
    nuclear = find_nuclear_marker(markers)
    if nuclear is None or len(markers) < 2:
        msg = (
            f"no pairs with the nuclei can be made of {', '.join(markers)}: none is known to stain nuclei beside "
            "another. Name pairs in a file of groups: --deconstruct groups.yaml."
        )
        raise InputError(msg)
    with_channels = [(marker, channel) for channel, marker in enumerate(markers) if marker != nuclear]
    nucleus = list(markers).index(nuclear)
    return [Component(f"{marker} with {nuclear}", (nucleus, channel)) for marker, channel in with_channels]


def by_group(groups: Mapping[str, Sequence[str]]) -> Deconstruction:
    """Return the deconstruction into named sets of markers, which may overlap; a pair holds what spans two channels.

    Examples
    --------
    >>> t_cells = by_group({"T cells": ["CD3e", "CD8a"], "nuclei": ["DAPI"]})
    >>> [component.channels for component in t_cells(["DAPI", "CD3e", "CD8a"])]
    [(1, 2), (0,)]
    """

    def by_these_groups(markers: Sequence[str]) -> list[Component]:
        for group, names in groups.items():
            check_names(f"group {group!r} names", names, markers, "markers")
        places = {marker: channel for channel, marker in enumerate(markers)}
        return [Component(group, tuple(places[name] for name in names)) for group, names in groups.items()]

    return by_these_groups


def by_compartment(markers: Sequence[str]) -> list[Component]:
    """Give every marker two components: the rim of the cell, where proteins of the membrane lie, and its interior.

    How much of a marker lies in the rim tells a cell that makes it from one that its neighbours lend it to, and a chunk
    of its own for either keeps the two apart.

    Examples
    --------
    >>> [component.name for component in by_compartment(["CD4", "CD8a"])]
    ['CD4 rim', 'CD8a rim', 'CD4 interior', 'CD8a interior']
    """
    return [
        Component(f"{marker} {name}", (channel,), part, family=marker)
        for name, part in (("rim", rim), ("interior", interior))
        for channel, marker in enumerate(markers)
    ]


def by_region(markers: Sequence[str]) -> list[Component]:
    """Split a patch into its cell, the cells around it and the background; the parts sum to the patch."""
    return _by_parts(
        markers,
        cell=this_cell,
        neighbours=lambda regions: regions == OTHER_CELL,
        background=lambda regions: regions == BACKGROUND,
    )


def by_cell(markers: Sequence[str]) -> list[Component]:
    """Split a patch into its cell and everything around it; the parts sum to the patch."""
    return _by_parts(markers, cell=this_cell, surroundings=lambda regions: ~this_cell(regions))


def by_nucleus(markers: Sequence[str]) -> list[Component]:
    """Split a cell into its nucleus and its cytoplasm; patches have to be cut with a mask of nuclei."""
    return _by_parts(markers, nucleus=nucleus, cytoplasm=cytoplasm)


def by_mask(markers: Sequence[str]) -> list[Component]:
    """Split a patch, of any number of channels, into what a mask covers and its complement.

    Either alone is worse than both (the paper, table S2).
    """
    return _by_parts(
        markers, inside=lambda regions: regions != BACKGROUND, outside=lambda regions: regions == BACKGROUND
    )


def by_half(markers: Sequence[str]) -> list[Component]:
    """Split a patch into its upper and its lower half, as MNIST above CIFAR (the paper, section 4)."""

    def row(regions: Tensor) -> Tensor:
        return torch.arange(regions.shape[1], device=regions.device)[:, None].expand(regions.shape)

    return _by_parts(
        markers,
        upper=lambda regions: row(regions) < regions.shape[1] // 2,
        lower=lambda regions: row(regions) >= regions.shape[1] // 2,
    )


def by_side(markers: Sequence[str]) -> list[Component]:
    """Split a patch into its left and its right half."""
    upper, lower = by_half(markers)
    assert upper.part is not None
    assert lower.part is not None
    left, right = _turned(upper.part), _turned(lower.part)
    return _by_parts(markers, left=left, right=right)


DECONSTRUCTIONS: dict[str, Deconstruction] = {
    "marker": by_marker,
    "pairs": by_nuclear_pair,
    "compartments": by_compartment,
    "regions": by_region,
    "cell": by_cell,
    "nucleus": by_nucleus,
    "mask": by_mask,
    "halves": by_half,
    "sides": by_side,
}


def find_deconstruction(name: str) -> Deconstruction:
    """Return a deconstruction by its name: one of the table, or a function of the user's own, ``module:function``.

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
        except Exception as error:  # whatever is wrong in the user's function
            fault = f"fails on {len(markers)} markers ({describe_error(error)})"
        if fault:
            msg = f"deconstruction {name!r} {fault}; it must take {must}, with channels that there are."
            raise InputError(msg)
        return components

    return checked


def _fault(components: Sequence[Any], n_markers: int) -> str:
    """Return why what a user's own deconstruction returned are no components, or nothing."""
    regions = _some_regions()
    for component in components:
        if not isinstance(component, Component):
            return f"returns {type(component).__name__} among its components"
        if not component.channels or not set(component.channels) <= set(range(n_markers)):
            return f"gives component {component.name!r} the channels {component.channels}, of {n_markers}"
        shown = None if component.part is None else component.part(regions)
        if shown is not None and (shown.shape, shown.dtype) != (regions.shape, torch.bool):
            return f"has a part of component {component.name!r} that is no mask (B, P, P) of regions (B, P, P)"
    return "" if components else "returns no component"


def combine(deconstructions: Sequence[Deconstruction]) -> Deconstruction:
    """Return the deconstruction that has the components of all."""

    def combined(markers: Sequence[str]) -> list[Component]:
        components = [component for one in deconstructions for component in one(markers)]
        names = [component.name for component in components]
        for name in names:
            if names.count(name) > 1:
                msg = f"two components are called {name!r}: {', '.join(names)}. Give one of them another name."
                raise InputError(msg)
        return components

    return combined


def omit(components: Sequence[Component], markers: Sequence[str], omitted: Collection[str]) -> list[Component]:
    """Leave markers out of all components, and components out; the encoder keeps seeing them.

    Parameters
    ----------
    omitted
        Names of markers and components.

    Raises
    ------
    InputError
        If a name is that of none, or nothing is left.
    """
    known = [*markers, *(component.name for component in components if component.name not in markers)]
    check_names("--omit names", omitted, known, "markers and components")
    kept = [
        replace(component, channels=tuple(c for c in component.channels if markers[c] not in omitted))
        for component in components
        if component.name not in omitted
    ]
    kept = [component for component in kept if component.channels]
    if not kept:
        msg = f"no component is left without {', '.join(omitted)}: leave fewer out by --omit."
        raise InputError(msg)
    return kept


def read_groups(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read named sets of markers from a YAML file, ``T cells: [CD3e, CD8a]``; their names become those of chunks.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is no YAML: {' '.join(str(error).split())}."
        raise InputError(msg) from error
    wanted = "One group a line is needed, such as `T cells: [CD3e, CD8a]`."
    if not isinstance(content, dict) or not content:
        msg = f"{path} holds no named groups of markers. {wanted}"
        raise InputError(msg)
    groups = {str(name): [members] if isinstance(members, str) else members for name, members in content.items()}
    for name, members in groups.items():
        if not isinstance(members, list) or not members or not all(isinstance(one, str | int) for one in members):
            msg = f"{path}: group {name!r} is {members!r}, no list of markers. {wanted}"
            raise InputError(msg)
    return {name: tuple(str(one) for one in members) for name, members in groups.items()}


def check_names(who: str, names: Collection[str], known: Sequence[str], what: str) -> None:
    """Raise where one of ``names`` is not ``known``, with the one that it is closest to."""
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            msg = f"{who} {name!r}, which is not among the {what}.{hint} These are {', '.join(known)}."
            raise InputError(msg)


def areas(regions: Tensor, components: Sequence[Component], *, hide: bool) -> Tensor | None:
    """Return where components show something, (B, m, P, P), once for all that show the same; None: everywhere.

    Parameters
    ----------
    regions
        What each pixel shows, (B, P, P).
    hide
        Whether a component that does not say otherwise shows the cell alone.
    """
    distinct = list(dict.fromkeys(_parts(components, hide=hide)))
    if distinct == [None]:
        return None
    everything = torch.ones_like(regions, dtype=torch.bool)
    return torch.stack([everything if part is None else part(regions) for part in distinct], dim=1)


def cut(patches: Tensor, masks: Tensor | None, components: Sequence[Component], *, hide: bool) -> Tensor:
    """Return the channels of all components one after the other, (B, sum of C_k, P, P), 0 where each does not reach.

    Parameters
    ----------
    patches
        Normalised, (B, C, P, P).
    masks, hide
        What :func:`areas` returned, perhaps turned as the patches were, and what it was told.
    """
    channels = [channel for component in components for channel in component.channels]
    shown = patches if channels == list(range(patches.shape[1])) else patches[:, channels]
    if masks is None:
        return shown
    parts = [part for part, one in zip(_parts(components, hide=hide), components, strict=True) for _ in one.channels]
    distinct = list(dict.fromkeys(parts))
    return shown * (masks if len(distinct) == 1 else masks[:, [distinct.index(part) for part in parts]])


def separate(channels: Tensor, components: Sequence[Component]) -> Tensor:
    """Return what :func:`cut` returned as (B, n, C_max, P, P), components with fewer channels filled up with zeros.

    The zeros let components of any number of channels pass through one grouped network.
    """
    widths = [len(component.channels) for component in components]
    widest = max(widths)
    if min(widths) == widest:
        return channels.view(len(channels), len(widths), widest, *channels.shape[2:])
    parts = torch.split(channels, widths, dim=1)
    return torch.stack([F.pad(part, (0, 0, 0, 0, 0, widest - part.shape[1])) for part in parts], dim=1)


def _parts(components: Sequence[Component], *, hide: bool) -> list[Part | None]:
    return [component.part or (this_cell if hide else None) for component in components]


def _by_parts(markers: Sequence[str], **parts: Part) -> list[Component]:
    every = tuple(range(len(markers)))
    return [Component(name, every, part) for name, part in parts.items()]


def _turned(part: Part) -> Part:
    return lambda regions: part(regions.transpose(1, 2)).transpose(1, 2)
