"""Objectives with components: what their views show, and the encoders of the components."""

import torch
from torch import Tensor

from mxsplicer.splicer.component_encoders import ComponentEncoders
from mxsplicer.splicer.deconstruction import component_pixels, cut, stack_components, stays_within_cell
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.views import ViewInput


class ComponentObjective(Objective):
    """An objective whose second view is split into components, each with an encoder and a projector of its own."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = tuple(component.name for component in parts.components)
        self.chunks = self._chunks(parts)
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
        return (ViewInput(shown), ViewInput(patches, self.pixels(regions), self.component_encoders.view_px))

    def pixels(self, regions: Tensor) -> Tensor | None:
        """Return the pixels that the components show, (B, m, P, P); None: all pixels."""
        return component_pixels(regions, self.parts.components, hide=self.parts.hide)

    def cut_components(self, view: Tensor, *, n_markers: int) -> Tensor:
        """Return the components of a view, (B, n, C_max, P, P); narrower ones are padded with zeros."""
        device, components = view.device.type, self.parts.components
        if torch.is_autocast_enabled(device):  # there are fewer markers to convert than components
            view = view.to(torch.get_autocast_dtype(device), memory_format=torch.channels_last)
        masks = view[:, n_markers:] if view.shape[1] > n_markers else None
        return stack_components(cut(view[:, :n_markers], masks, components, hide=self.parts.hide), components)
