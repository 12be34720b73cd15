"""Spanning views: components of several markers have the geometry of the whole patch, those of one marker their own.

What spans markers, such as whether two lie on the same side of a cell, is found sooner where the rotations agree.
"""

from collections.abc import Sequence

from mxsplicer.splicer.deconstruction import Component
from mxsplicer.splicer.objectives.components import ComponentSource


def spanning_sources(components: Sequence[Component], *, hide: bool) -> list[ComponentSource]:
    """Return the views that components are cut from: those of one marker, and those of several."""
    several = [i for i, component in enumerate(components) if len(component.channels) > 1]
    single = [i for i in range(len(components)) if i not in several]
    sources = [
        ComponentSource(components, single, hide=hide),
        ComponentSource(components, several, hide=hide, geometry_of_whole=True),
    ]
    return [source for source in sources if source.numbers]
