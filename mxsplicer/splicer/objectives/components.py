"""Objectives with components: what their views show, and the encoders of the components."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mxsplicer.splicer.component_encoders import ComponentEncoders
from mxsplicer.splicer.deconstruction import stays_within_cell
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.objectives.sources import ComponentSource, join_components
from mxsplicer.splicer.views import ViewInput


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
