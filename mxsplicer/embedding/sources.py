"""What is embedded: the cells of a patch store, or those of a slide whose patches are cut on the way."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.cells.intensities import measure_spread
from mxsplicer.cells.measure import Cells
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.extraction import stream_blocks
from mxsplicer.patches.geometry import PatchGeometry
from mxsplicer.patches.store import PatchStore
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.progress import track


@dataclass(frozen=True, eq=False)
class Source:
    """Cells to embed: the blocks of a store, or of a slide as they are cut.

    Attributes
    ----------
    name, markers, patch_px, pixel_size_um
        Of the slide and its patches.
    blocks
        Yields all blocks but those whose numbers are given.
    ledger
        Counts of cells by outcome.
    cells
        The measured cells; their further measurements (beyond the mean) become layers.
    spread
        Standard deviation of each marker between the cells of the slide (C,), for a run that corrects gains; without
        it, intensities are taken as those of the training slides.
    made_from
        Identifies these cells of this image, so that an interrupted embedding is not continued with others.
    """

    name: str
    markers: tuple[str, ...]
    patch_px: int
    pixel_size_um: float
    blocks: Callable[[Collection[int]], Iterator[Block]]
    ledger: Mapping[str, int] = field(default_factory=dict)
    cells: Cells | None = None
    spread: np.ndarray | None = None
    made_from: str = ""

    def measures_of(self, cell_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the measurements of some cells other than the mean intensity, each (n, C)."""
        if self.cells is None or not self.cells.measures:
            return {}
        rows = self._ids.get_indexer(pd.Index(cell_ids))
        return {name: values[rows] for name, values in self.cells.measures.items()}

    def object_ids_of(self, cell_ids: np.ndarray) -> np.ndarray | None:
        """Return the names of some cells in the program that drew their outlines, if they have any."""
        if self.cells is None or self.cells.object_ids is None:
            return None
        return np.asarray(self.cells.object_ids[self._ids.get_indexer(pd.Index(cell_ids))])

    def describe(self, markers: Sequence[str], *, with_spread: bool) -> dict[str, Any]:
        """Return, as JSON, what z of these cells depends on, for a run of these markers.

        ``with_spread`` is whether the run corrects the gains of slides.
        """
        known = self.spread if with_spread else None
        spread = {} if known is None else dict(zip(self.markers, known.tolist(), strict=True))
        return {
            "name": self.name,
            "markers": list(self.markers),
            "patch_px": self.patch_px,
            "pixel_size_um": self.pixel_size_um,
            "ledger": dict(self.ledger),
            "nuclei_ledger": dict(self.cells.nuclei_ledger) if self.cells else {},
            "made_from": self.made_from,
            "spread": None if known is None else [spread.get(marker, 0.0) for marker in markers],
            "missing": [marker for marker in markers if marker not in self.markers],
        }

    @cached_property
    def _ids(self) -> Any:
        assert self.cells is not None
        return pd.Index(self.cells.table["cell_id"].to_numpy())


def from_store(store: PatchStore, *, cells: Cells | None = None) -> Source:
    """Return the cells of a patch store as a source to embed.

    Parameters
    ----------
    store
        The patches.
    cells
        The measured cells, whose further measurements become layers.
    """

    def blocks(skip: Collection[int]) -> Iterator[Block]:
        numbers = [number for number in range(store.n_blocks) if number not in skip]
        read = (store.read_block(number) for number in numbers)
        return track(read, f"Embedding {store.slide_name}", total=store.n_blocks, start=store.n_blocks - len(numbers))

    return Source(
        name=store.slide_name,
        markers=store.markers,
        patch_px=store.patch_px,
        pixel_size_um=store.pixel_size_um,
        blocks=blocks,
        ledger=store.ledger,
        cells=cells,
        spread=store.spread if cells is None else measure_spread(cells.intensities),
        made_from=json.dumps(store.made_from, sort_keys=True),
    )


def from_slide(
    slide: Slide,
    mask: LazyImage,
    cells: Cells,
    *,
    patch_size_um: float,
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> Source:
    """Return the cells of a slide as a source to embed; patches are cut when they are needed and not stored.

    Parameters
    ----------
    slide, mask, cells, patch_size_um, workers, executor, max_bytes
        As for :func:`~mxsplicer.patches.extraction.stream_blocks`.
    """

    def blocks(skip: Collection[int]) -> Iterator[Block]:
        return stream_blocks(
            slide,
            mask,
            cells,
            patch_size_um=patch_size_um,
            skip=skip,
            workers=workers,
            executor=executor,
            max_bytes=max_bytes,
        )

    return Source(
        name=slide.name,
        markers=slide.markers,
        patch_px=PatchGeometry.of(slide, patch_size_um).patch_px,
        pixel_size_um=slide.pixel_size_um,
        blocks=blocks,
        ledger=cells.ledger,
        cells=cells,
        spread=measure_spread(cells.intensities),
        made_from=f"{fingerprint(slide.path) if slide.path else ''} {cells.fingerprint()}",
    )
