"""The journal of an embedding: each block of cells is a file, so that a killed embedding continues where it stopped.

``<path>.blocks`` lies next to the file that is being made::

    embedding.json     what z depends on: weights, markers, slides, kind of device
    0/0000000.npz      the first block of the first slide: table, mean intensities, layers and z of its cells
    0/0000001.npz      ...

A block is complete or absent. The journal is removed when the AnnData file made from it is complete.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.system.files import atomic_write, remove_partial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockJournal:
    """The journal of an embedding: a folder in which its blocks wait until all are done."""

    folder: Path

    @classmethod
    def of(cls, path: str | Path) -> "BlockJournal":
        """Return the journal of the AnnData file ``path``; it need not exist yet."""
        path = Path(path)
        return cls(path.with_name(path.name + ".blocks"))

    def begin(self, header: Mapping[str, Any]) -> None:
        """Create the journal, or continue one that was begun for the same embedding."""
        begun = self.header
        # Some of the slides that it was begun with may have failed since.
        still_there = [slide for slide in begun["slides"] if slide in header["slides"]]
        if {**begun, "slides": still_there} == header:
            return
        if self.folder.exists():
            logger.info("%s belongs to another embedding; starting again", self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        with atomic_write(self._header_file) as temporary:
            temporary.write_text(json.dumps(header), encoding="utf-8")

    @property
    def header(self) -> dict[str, Any]:
        """What the journal was begun with; without slides where nothing was begun."""
        if not self._header_file.is_file():
            return {"slides": []}
        header: dict[str, Any] = json.loads(self._header_file.read_text(encoding="utf-8"))
        return header

    def of_slide(self, name: str) -> "SlideBlocks":
        """Return the blocks of a slide that the journal was begun with."""
        names = [one["name"] for one in self.header["slides"]]
        return SlideBlocks(self.folder / str(names.index(name)))

    def remove(self) -> None:
        """Remove the journal with all its blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _header_file(self) -> Path:
        return self.folder / "embedding.json"


@dataclass(frozen=True)
class SlideBlocks:
    """The blocks of one slide in a journal."""

    folder: Path

    def finished(self) -> set[int]:
        """Return the numbers of the blocks that are done; remove what a killed process left."""
        self.folder.mkdir(exist_ok=True)
        remove_partial(self.folder)
        return {int(file.stem) for file in self.files()}

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a block, all or nothing."""
        with atomic_write(self.folder / f"{number:07d}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **dict(arrays))

    def files(self) -> list[Path]:
        """Return the files of the blocks, in the order of the cells."""
        return sorted(self.folder.glob("*.npz"))


def read_blocks(files: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """Yield one array of each block in a journal, a block at a time."""
    for path in files:
        with np.load(path) as block:
            yield block[name]


def regroup(blocks: Iterator[np.ndarray], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the blocks of a journal as groups of ``size`` rows, each with its first row; the last may be shorter.

    Examples
    --------
    >>> [(start, rows.tolist()) for start, rows in regroup(iter([np.arange(3), np.arange(3, 5)]), 2)]
    [(0, [0, 1]), (2, [2, 3]), (4, [4])]
    """
    waiting: list[np.ndarray] = []
    start = 0
    for block in blocks:
        waiting.append(block)
        while sum(map(len, waiting)) >= size:
            rows = np.concatenate(waiting)
            yield start, rows[:size]
            start, waiting = start + size, [rows[size:]]
    rows = np.concatenate(waiting)
    if len(rows):
        yield start, rows
