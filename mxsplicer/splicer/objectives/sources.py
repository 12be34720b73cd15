"""What components are cut from: views of the patch, turned by themselves or as the whole is."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mxsplicer.splicer.deconstruction import Component, areas, cut, separate
from mxsplicer.splicer.views import Picture


class Source:
    """Components that are cut from one view of the patch.

    Parameters
    ----------
    components
        All components of the patch.
    numbers
        Which of them are cut from here.
    hide
        Whether a component that does not say otherwise shows the cell alone.
    as_whole
        Whether the view is turned as that of the whole is.
    """

    def __init__(
        self, components: Sequence[Component], numbers: Sequence[int], *, hide: bool, as_whole: bool = False
    ) -> None:
        self.numbers, self.hide, self.as_whole = list(numbers), hide, as_whole
        some = [components[i] for i in numbers]
        self.channels: list[int] | None = None  # of the patch, where they are not all
        if len(some) < len(components):
            self.channels = sorted({channel for one in some for channel in one.channels})
            place = {channel: i for i, channel in enumerate(self.channels)}
            some = [replace(one, channels=tuple(place[channel] for channel in one.channels)) for one in some]
        self.components = some

    def areas(self, regions: Tensor) -> Tensor | None:
        """Return where the components show something, (B, m, P, P); None: everywhere."""
        return areas(regions, self.components, hide=self.hide)

    def picture(self, patches: Tensor, regions: Tensor, view_px: int) -> Picture:
        """Return what the view is one of, of patches (B, C, P, P) and their regions (B, P, P)."""
        shown = patches if self.channels is None else patches[:, self.channels]
        return Picture(shown, self.areas(regions), view_px, as_whole=self.as_whole)

    def components_of(self, view: Tensor, n_markers: int) -> Tensor:
        """Return the components of a view of patches of all markers, (B, k, C_max, P, P)."""
        n = n_markers if self.channels is None else len(self.channels)
        masks = view[:, n:] if view.shape[1] > n else None
        return separate(cut(view[:, :n], masks, self.components, hide=self.hide), self.components)


def sources_of(components: Sequence[Component], *, hide: bool, spanning: bool) -> list[Source]:
    """Return what components are cut from: ``spanning``, those of several markers from a view turned as the whole."""
    across = [i for i, component in enumerate(components) if spanning and len(component.channels) > 1]
    alone = [i for i in range(len(components)) if i not in across]
    found = [Source(components, alone, hide=hide), Source(components, across, hide=hide, as_whole=True)]
    return [source for source in found if source.numbers]


def join_components(sources: Sequence[Source], views: Sequence[Tensor], n_markers: int) -> Tensor:
    """Return the components of a view of each source in their order, (B, n, C_max, P, P), filled up with zeros."""
    if len(sources) == 1:
        return sources[0].components_of(views[0], n_markers)
    parts = [source.components_of(view, n_markers) for source, view in zip(sources, views, strict=True)]
    widest = max(part.shape[2] for part in parts)
    filled = [torch.nn.functional.pad(part, (0, 0, 0, 0, 0, widest - part.shape[2])) for part in parts]
    numbers = [number for source in sources for number in source.numbers]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return torch.cat(filled, dim=1)[:, order]
