"""Time the losses of all chunks: equal chunks at once, one by one, of unequal widths, and of several losses.

Run by hand: ``python tests/benchmarks/bench_chunks.py [--cells 256] [--width 32]``. Only the loss runs, forward and
backward, on embeddings of noise, for 5, 19 and 49 chunks. The variants alternate, and the shortest time of each counts.
Of unequal widths there are ten, as many groups of chunks.
"""

import argparse
import time
from collections.abc import Callable

import torch

from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.extensions.redundancy import redundancy_between_chunks


def sides(n: int, cells: int, width: int) -> dict[str, Callable[[], None]]:
    """Return the variants to compare, by name."""
    vicreg, simclr = LOSSES["vicreg"](), LOSSES["simclr"]()
    equal = (width,) * n
    unequal = tuple(width // 2 + i % 10 for i in range(n))

    def step(chunks: Chunks) -> Callable[[], None]:
        e_a, e_b = (torch.randn(cells, sum(chunks.widths), requires_grad=True) for _ in range(2))

        def take() -> None:
            sum(term.sum() for term in chunks(e_a, e_b).values()).backward()

        return take

    def one_by_one() -> Callable[[], None]:
        e_a, e_b = (torch.randn(cells, n * width, requires_grad=True) for _ in range(2))

        def take() -> None:
            pairs = zip(e_a.split(width, dim=1), e_b.split(width, dim=1), strict=True)
            sum(vicreg(a, b) for a, b in pairs).backward()

        return take

    def redundancy() -> Callable[[], None]:
        e = torch.randn(cells, n * width, requires_grad=True)
        return lambda: redundancy_between_chunks(e, equal).sum().backward()

    ones = (1.0,) * n
    return {
        "vicreg, equal, at once": step(Chunks(equal, (vicreg,) * n, ones)),
        "vicreg, equal, one by one": one_by_one(),
        f"vicreg, {len(set(unequal))} widths": step(Chunks(unequal, (vicreg,) * n, ones)),
        "vicreg and simclr alternating": step(Chunks(equal, tuple((vicreg, simclr)[i % 2] for i in range(n)), ones)),
        "redundancy": redundancy(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| chunks | what | ms of the processor |\n|---|---|---|")  # noqa: T201
    for n in (5, 19, 49):
        steps = sides(n, options.cells, options.width)
        best = dict.fromkeys(steps, float("inf"))
        for _ in range(options.repeats):
            for name, step in steps.items():
                began = time.process_time()
                step()
                best[name] = min(best[name], time.process_time() - began)
        for name, seconds in best.items():
            print(f"| {n} | {name} | {1e3 * seconds:.1f} |")  # noqa: T201


if __name__ == "__main__":
    main()
