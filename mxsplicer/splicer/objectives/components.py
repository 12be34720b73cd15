"""Objectives with components: what their views show, and the encoders of the components."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mxsplicer.splicer.component_encoders import ComponentEncoders
from mxsplicer.splicer.deconstruction import Component, component_pixels, cut, stack_components, stays_within_cell
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.views import ViewInput


class ComponentSource:
    """One view of the patch, and the components that are cut from it.

    Parameters
    ----------
    components
        All components of the patch.
    numbers
        Which of them are cut from this view; by default all.
    hide
        Whether a component that does not define its pixels shows the cell alone.
    geometry_of_whole
        Whether the view has the rotation, shift and scale of the view of the whole patch.
    """

    def __init__(
        self,
        components: Sequence[Component],
        numbers: Sequence[int] | None = None,
        *,
        hide: bool,
        geometry_of_whole: bool = False,
    ) -> None:
        self.numbers = list(range(len(components)) if numbers is None else numbers)
        self.hide, self.geometry_of_whole = hide, geometry_of_whole
        some = [components[i] for i in self.numbers]
        self.channels: list[int] | None = None  # the channels that the view needs, if not all
        if len(some) < len(components):
            self.channels = sorted({channel for one in some for channel in one.channels})
            index = {channel: i for i, channel in enumerate(self.channels)}
            some = [replace(one, channels=tuple(index[channel] for channel in one.channels)) for one in some]
        self.components = some

    def pixels(self, regions: Tensor) -> Tensor | None:
        """Return the pixels that the components show, (B, m, P, P); None: all pixels."""
        return component_pixels(regions, self.components, hide=self.hide)

    def view_input(self, patches: Tensor, regions: Tensor, view_px: int) -> ViewInput:
        """Return what the view is made from, of patches (B, C, P, P) and their regions (B, P, P)."""
        shown = patches if self.channels is None else patches[:, self.channels]
        return ViewInput(shown, self.pixels(regions), view_px, geometry_of_whole=self.geometry_of_whole)

    def cut_components(self, view: Tensor, n_markers: int) -> Tensor:
        """Return the components of a view of patches with all markers, (B, k, C_max, P, P)."""
        n = n_markers if self.channels is None else len(self.channels)
        masks = view[:, n:] if view.shape[1] > n else None
        return stack_components(cut(view[:, :n], masks, self.components, hide=self.hide), self.components)


class ComponentObjective(Objective):
    """An objective whose second view is split into components, each with an encoder and a projector of its own."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = tuple(component.name for component in parts.components)
        self.chunks = self._chunks(parts)
        self.sources = self._sources(parts)
        self.component_encoders = ComponentEncoders(
            len(parts.components),
            max(len(component.channels) for component in parts.components),
            parts.patch_px,
            max(self.chunks.widths),
            kind=parts.component_encoder,
            width=parts.component_width,
            one_by_one=parts.components_per_step is not None,
        )

    def _chunks(self, parts: Parts) -> Chunks:
        """Return the widths, losses and weights of the embeddings of the components."""
        return parts.chunks

    def _sources(self, parts: Parts) -> list[ComponentSource]:
        """Return the views that components are cut from: one for all."""
        return [ComponentSource(parts.components, hide=parts.hide)]

    @property
    def looks_beyond(self) -> bool:
        """Whether a component shows pixels outside the cell."""
        within = (
            self.parts.hide if component.pixels is None else stays_within_cell(component.pixels)
            for component in self.parts.components
        )
        return not all(within)

    def view_inputs(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[ViewInput, ...]:
        """Return the whole patch, and what the components are cut from."""
        px = self.component_encoders.view_px
        return (ViewInput(shown), *(source.view_input(patches, regions, px) for source in self.sources))

    def cut_components(self, views: Sequence[Tensor], *, n_markers: int) -> Tensor:
        """Return the components of one view per source, (B, n, C_max, P, P); narrower ones are padded with zeros."""
        device = views[0].device.type
        if torch.is_autocast_enabled(device):  # there are fewer markers to convert than components
            kind = torch.get_autocast_dtype(device)
            views = [view.to(kind, memory_format=torch.channels_last) for view in views]
        return join_components(self.sources, views, n_markers)


def join_components(sources: Sequence[ComponentSource], views: Sequence[Tensor], n_markers: int) -> Tensor:
    """Return all components in their order, (B, n, C_max, P, P), from one view per source, padded with zeros."""
    if len(sources) == 1:
        return sources[0].cut_components(views[0], n_markers)
    of_sources = [source.cut_components(view, n_markers) for source, view in zip(sources, views, strict=True)]
    widest = max(components.shape[2] for components in of_sources)
    padded = [torch.nn.functional.pad(one, (0, 0, 0, 0, 0, widest - one.shape[2])) for one in of_sources]
    numbers = [number for source in sources for number in source.numbers]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return torch.cat(padded, dim=1)[:, order]
