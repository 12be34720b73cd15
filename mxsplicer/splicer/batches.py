"""From patch stores to shuffled batches of normalised tensors.

Whole blocks are read in random order; as many as fit the buffer are mixed, and batches are drawn from the mixture. A
store that fits the buffer is read once and shuffled exactly, again in every epoch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mxsplicer.patches.store import PatchStore

Batch = tuple[np.ndarray, np.ndarray]  # patches (B, C, P, P) and regions (B, P, P)

_BUFFER_BYTES = 1 << 30
_READERS = 4  # threads


class Batches:
    """Shuffled batches of raw patches, equal for equal seed and epoch.

    Parameters
    ----------
    stores
        Stores of one panel and patch size.
    batch_size
        Cells per batch; at most the number of cells. The cells at the end of an epoch that do not fill a batch are left
        out; they are others in the next epoch.
    buffer_bytes
        Bytes of patches that are mixed at a time, at least one block; by default 1 GiB. It decides which cells can
        share a batch.
    """

    def __init__(
        self, stores: Sequence[PatchStore], batch_size: int, *, seed: int = 0, buffer_bytes: int | None = None
    ) -> None:
        self.n_cells = sum(store.n_cells for store in stores)
        self.batch_size = min(batch_size, self.n_cells)
        self.per_epoch = self.n_cells // self.batch_size
        self._seed = seed
        self._blocks = [(store, number) for store in stores for number in range(store.n_blocks)]
        cell_bytes = max(np.dtype(s.patches.dtype).itemsize * int(np.prod(s.patches.shape[1:])) for s in stores)
        largest = max(store.block_size for store in stores)
        self.block_bytes = cell_bytes * min(largest, self.n_cells)
        self._blocks_at_once = max(1, min(_BUFFER_BYTES, buffer_bytes or _BUFFER_BYTES) // (cell_bytes * largest))
        self._whole: Batch | None = None

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, raw patches (B, C, P, P) and regions (B, P, P), in random order."""
        generator = np.random.default_rng([self._seed, number])
        rest: Batch | None = None
        for patches, regions in self._buffers(generator):
            order = generator.permutation(len(patches))
            start = 0
            if rest is not None:  # fewer cells than a batch start the next one, without a copy of the buffer
                start = self.batch_size - len(rest[0])
                more = _rows((patches, regions), order[:start])
                rest = (np.concatenate([rest[0], more[0]]), np.concatenate([rest[1], more[1]]))
                if len(rest[0]) < self.batch_size:
                    continue
                yield rest
            whole = start + (len(order) - start) // self.batch_size * self.batch_size
            for first in range(start, whole, self.batch_size):
                yield _rows((patches, regions), order[first : first + self.batch_size])
            rest = _rows((patches, regions), order[whole:])

    def _buffers(self, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield mixtures of blocks; the next one is read in the background."""
        if len(self._blocks) <= self._blocks_at_once:
            if self._whole is None:
                self._whole = self._read(self._blocks)
            yield self._whole
            return
        order = generator.permutation(len(self._blocks))
        groups = [
            [self._blocks[i] for i in order[start : start + self._blocks_at_once]]
            for start in range(0, len(order), self._blocks_at_once)
        ]
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, groups[0])
            for group in [*groups[1:], None]:
                buffer = upcoming.result()
                if group is not None:
                    upcoming = reader.submit(self._read, group)
                yield buffer

    @staticmethod
    def _read(blocks: Sequence[tuple[PatchStore, int]]) -> Batch:
        ends = np.cumsum([min(store.block_size, store.n_cells - n * store.block_size) for store, n in blocks])
        shape = blocks[0][0].patches.shape[1:]
        patches = np.empty((ends[-1], *shape), np.result_type(*(store.patches.dtype for store, _ in blocks)))
        regions = np.empty((ends[-1], *shape[1:]), np.uint8)

        def fill(end: int, store: PatchStore, number: int) -> None:
            block = store.read_block(number)
            rows = slice(end - len(block.rows), end)
            patches[rows], regions[rows] = block.patches, block.regions

        # A disk answers parallel requests sooner, and decompression releases Python's lock.
        with ThreadPoolExecutor(_READERS) as readers:
            for _ in readers.map(fill, ends, *zip(*blocks, strict=True)):
                pass
        return patches, regions


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    return batch[0][rows], batch[1][rows]
