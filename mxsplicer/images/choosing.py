"""Choose one of the images of a file: scenes, macros, labels, thumbnails, or channels that are images of their own.

The largest image with several channels is the slide. Single-channel images of one size are the channels of one slide,
unless their names are those of scenes. What else the file holds is reported, never dropped without a word.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mxsplicer.errors import InputError
from mxsplicer.images.tiff import TiffListing

# Images that are not channels of a slide although they are as large.
_OTHER = re.compile(r"label|mask|segmentation|macro|thumbnail|overview", re.IGNORECASE)
_MADE_UP = re.compile(r"(image|series|scene|page)?[\s_:#.-]*\d*", re.IGNORECASE)  # names that programs generate
_COMPARABLE = 0.3  # of the pixels of the chosen image: another scene rather than a thumbnail
_MOST_LISTED = 8


@dataclass(frozen=True)
class Candidate:
    """One image of a file to choose from, before it is opened."""

    number: int  # from 0, as the file counts them
    name: str
    axes: str
    shape: tuple[int, ...]
    n_levels: int = 1
    dtype: str = ""
    is_colour: bool = False
    channel_names: tuple[str, ...] = ()

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    @property
    def n_channels(self) -> int:
        """Number of planes."""
        return math.prod(n for n, axis in zip(self.shape, self.axes, strict=True) if axis not in "YX")

    def describe(self) -> str:
        """Return number, name, size, channels and levels as text."""
        height, width = self.shape_px
        name = f" {self.name!r}" if self.name else ""
        kind = "colour" if self.is_colour else f"{self.n_channels} channel{'s' * (self.n_channels != 1)}"
        levels = f", {self.n_levels} levels" if self.n_levels > 1 else ""
        return f"{self.number}{name} ({height} x {width} px, {kind}{levels})"


@dataclass(frozen=True)
class Choice:
    """The images of a file that were chosen to make the slide."""

    numbers: tuple[int, ...]  # several are joined as the channels of one slide
    names: tuple[str, ...] = ()  # of the channels, where each is an image with a name
    report: str = ""  # what the file holds and which was taken; empty if it holds one image
    is_ambiguous: bool = False  # another image could as well be the slide


def choose_image(file: str, images: Sequence[Candidate], wanted: str | None) -> Choice:
    """Return which image of a file is the slide: the ``wanted`` one by number or name, or the largest of many channels.

    Raises
    ------
    InputError
        If the file has no image ``wanted``, or several.
    """
    if wanted is not None:
        one = _named(file, images, wanted.strip())
        names = tuple(_channel_names([one])) if len(images) > 1 and one.n_channels == 1 else ()
        return Choice((one.number,), names, _report(images, [one], "it was chosen") if len(images) > 1 else "")
    if len(images) == 1:
        return Choice((images[0].number,))
    groups: list[tuple[Candidate, ...]]
    groups = [(one,) for one in images if one.n_channels > 1 and not one.is_colour] + _channels(images)
    groups = groups or [(one,) for one in images if one.n_channels == 1] or [(one,) for one in images]
    chosen = max(groups, key=lambda group: (math.prod(group[0].shape_px), _channels_of(group)))
    reason = "the largest"
    if len(chosen) > 1:
        reason = "single-channel images of one size, joined"
    elif chosen[0].n_channels > 1 and not chosen[0].is_colour:
        reason = "the largest with several channels"
    size = _COMPARABLE * math.prod(chosen[0].shape_px)
    rivals = [group for group in groups if group != chosen and math.prod(group[0].shape_px) >= size]
    names = tuple(_channel_names(chosen)) if len(chosen) > 1 else ()
    numbers = tuple(one.number for one in chosen)
    return Choice(numbers, names, _report(images, chosen, reason), is_ambiguous=bool(rivals))


def is_other_than_a_channel(name: str) -> bool:
    """Return whether an image to choose from is called like a mask, a label or a thumbnail.

    Examples
    --------
    >>> [is_other_than_a_channel(name) for name in ("segmentation_mask", "macro image", "CD3")]
    [True, True, False]
    """
    return _OTHER.search(name) is not None


def _named(file: str, images: Sequence[Candidate], wanted: str) -> Candidate:
    by_number = [one for one in images if wanted.isdecimal() and one.number == int(wanted)]
    by_name = [one for one in images if one.name.casefold() == wanted.casefold()]
    by_channel = [one for one in images if [name.casefold() for name in one.channel_names] == [wanted.casefold()]]
    found = by_number or [one for one in by_name if one.name == wanted] or by_name or by_channel
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} images called" if found else "no image"
    msg = f"{file} has {problem} {wanted!r}; it holds {_listed(images)}."
    raise InputError(msg, "Give the number of one as `image`.")


def _channels(images: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
    """Return the groups of single-channel images, to choose from, that are the channels of one slide."""
    single = [one for one in images if one.n_channels == 1 and not is_other_than_a_channel(one.name)]
    groups = []
    for shape in dict.fromkeys((one.shape_px, one.dtype) for one in single):
        group = tuple(one for one in single if (one.shape_px, one.dtype) == shape)
        stains = [name for one in group for name in one.channel_names if name]
        # Images of the same stain are scenes, or planes of a stack.
        if len(group) > 1 and (len(stains) < len(group) or len(set(stains)) > 1):
            groups.append(group)
    return groups


def _channels_of(group: Sequence[Candidate]) -> int:
    return sum(one.n_channels for one in group)


def _channel_names(group: Sequence[Candidate]) -> list[str]:
    """Return the channel's name of each image to choose from, or else the image's; nothing if they are not distinct."""
    stains = ["".join(one.channel_names[:1]) for one in group]
    if all(stains):
        return stains
    names = [one.name for one in group]
    distinct = len(set(names)) == len(names) and not any(_MADE_UP.fullmatch(name) for name in names)
    return names if distinct else []


def _report(images: Sequence[Candidate], chosen: Sequence[Candidate], reason: str) -> str:
    taken = ", ".join(str(one.number) for one in chosen)
    return f"{len(images)} images: {_listed(images)}; read: {taken} ({reason})"


def _listed(images: Sequence[Candidate]) -> str:
    more = f" and {len(images) - _MOST_LISTED} more" if len(images) > _MOST_LISTED else ""
    return ", ".join(one.describe() for one in images[:_MOST_LISTED]) + more


def candidates(listing: TiffListing, channel_names: Sequence[tuple[str, ...]] = ()) -> list[Candidate]:
    """Return the images in a TIFF file as candidates to choose the slide from."""
    named = [*channel_names, *[()] * (len(listing.images) - len(channel_names))]
    return [
        Candidate(number, one.name, one.axes, one.shape, one.n_levels, one.dtype, one.is_colour, names)
        for number, (one, names) in enumerate(zip(listing.images, named, strict=True))
    ]
