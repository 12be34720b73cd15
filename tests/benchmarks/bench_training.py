"""Time a training step: SpliCER compared with joint embedding, with a plain loop over networks, and with more markers.

Run by hand: ``python tests/benchmarks/bench_training.py [step|paper|...] [--batch 64] [--threads 1]``.
A step is everything that training does with a batch after it is read: normalisation, views, forward, backward, clipping
and the optimiser. The variants alternate, and the shortest time of each counts. Processor time is printed next to
elapsed time: other work on the machine influences it less, so its ratio is the more reliable one.

``step``: the default SpliCER step, its sections, and a step with two views of the same encoder.
``paper``: a whole ResNet-18 of width 64 per component in bfloat16, compared with the straightforward loop over such
networks: float32, one network after the other, PyTorch's own layout and optimiser.
``markers``: the default step with 5, 19 and 49 markers.
``patches``, ``batches``: both steps for several sizes of patches and batches.
``components``: other widths of component encoders, and some of them per step.
``embedding``: cells embedded from a store and directly from a slide, compared with the forward pass alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mxsplicer.cells.measure import measure_cells
from mxsplicer.embedding.embed import embed_blocks
from mxsplicer.embedding.encode import PATCHES_PER_PASS
from mxsplicer.embedding.sources import from_slide, from_store
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import OTHER_CELL, THIS_CELL
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run

PATCH_PX = 64

Times = dict[str, tuple[float, float]]  # by side: seconds of the clock, of the processor


def make_batch(batch: int, n_markers: int, px: int = PATCH_PX) -> tuple[np.ndarray, np.ndarray]:
    """Return patches of noise with a cell of 15 µm in the middle, half a micrometre per pixel, and their regions."""
    rng = np.random.default_rng(0)
    patches = rng.poisson(50, (batch, n_markers, px, px)).astype(np.uint16)
    y, x = np.mgrid[:px, :px] - px / 2
    regions = np.where(y**2 + x**2 < 15**2, THIS_CELL, OTHER_CELL * (x > 20)).astype(np.uint8)
    return patches, np.repeat(regions[None], batch, axis=0)


def normalization(n_markers: int) -> Normalization:
    """Return some normalisation."""
    ones = torch.ones(n_markers)
    return Normalization(0 * ones, 4000 * ones, 4 * ones, ones)


def make_step(
    recipe: Recipe, n_markers: int, batch: int, *, px: int = PATCH_PX, plain: bool = False
) -> Callable[[], None]:
    """Return a function that takes a training step; ``plain``: in float32, and as if nobody had thought of speed."""
    torch.manual_seed(0)
    encoder = make_encoder(recipe.encoder, n_markers, px, width=recipe.encoder_width)
    components = recipe.components([str(i) for i in range(n_markers)])
    objective = recipe.objective(encoder, components, patch_px=px)
    if plain:
        for module in objective.modules():
            if isinstance(module, nn.Conv2d):
                module.__class__ = nn.Conv2d  # without shortcuts
    else:
        objective.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3, **({} if plain else {"fused": True}))
    patches, regions = make_batch(batch, n_markers, px)
    normalize, views = normalization(n_markers), recipe.view_plan()
    generator = torch.Generator().manual_seed(0)
    hidden = recipe.surroundings == "hide"

    def step() -> None:
        shown = normalize(patches, regions if hidden else None)
        whole = normalize(patches) if hidden and objective.looks_beyond else shown
        inputs = objective.view_inputs(shown, whole, torch.from_numpy(regions))
        shown_views = views(*inputs, generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not plain):
            loss = torch.stack(list(objective(*shown_views, **objective.step_arguments(0, None)).values())).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def alternate(sides: Mapping[str, Callable[[], None]], repeats: int) -> Times:
    """Return the shortest times of each side, alternating after one run to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if repeat:
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: tuple(min(column) for column in zip(*several, strict=True)) for name, several in times.items()}


def report(title: str, times: Times, *, cells: int) -> None:
    """Print times per batch, and as a multiple of the last side's."""
    print(f"\n{title}")  # noqa: T201
    last = list(times.values())[-1]
    for name, (clock, processor) in times.items():
        print(  # noqa: T201
            f"  {name:<46} clock {clock:7.3f} s  x {clock / last[0]:5.2f}   "
            f"processor {processor:7.3f} s  x {processor / last[1]:5.2f}   {cells / processor:7.1f} cells/s",
            flush=True,
        )


def compare_steps(batch: int, repeats: int, n: int) -> None:
    """Measure both steps by the defaults."""
    compare_both(f"step, {n} markers, batch {batch}", repeats, n, batch, PATCH_PX)


def compare_with_plain_loop(batch: int, repeats: int, n: int) -> None:
    """Measure whole ResNet-18s as component encoders, compared with a plain loop over them."""
    recipe = Recipe(deconstruction="marker", consistency_weight=0.0, component_encoder="resnet18", component_width=64)
    sides = {
        "splicer, ResNet-18 per component": make_step(recipe, n, batch),
        "the same as a plain float32 loop": make_step(recipe, n, batch, plain=True),
    }
    report(f"components of the paper's width, {n} markers, batch {batch}", alternate(sides, repeats), cells=batch)


def compare_markers(batch: int, repeats: int, _: int) -> None:
    """Measure the default step with few and many markers."""
    sides = {f"splicer, {n} markers": make_step(Recipe(), n, batch) for n in (49, 19, 5)}
    report(f"markers, batch {batch}", alternate(sides, repeats), cells=batch)


def compare_patches(batch: int, repeats: int, n: int) -> None:
    """Measure both steps with patches of other sides."""
    for px in (32, 48, 64, 96):
        compare_both(f"patches of {px} px, {n} markers, batch {batch}", repeats, n, batch, px)


def compare_batches(_: int, repeats: int, n: int) -> None:
    """Measure both steps with batches of other sizes."""
    for batch in (16, 32, 64, 128, 256):
        compare_both(f"batch {batch}, {n} markers", repeats, n, batch, PATCH_PX)


def compare_both(title: str, repeats: int, n: int, batch: int, px: int) -> None:
    """Measure the default SpliCER step, compared with a two-view step of the same encoder."""
    sides = {
        "splicer, default": make_step(Recipe(), n, batch, px=px),
        "joint, two views": make_step(Recipe(method="joint"), n, batch, px=px),
    }
    report(title, alternate(sides, repeats), cells=batch)


def compare_components(batch: int, repeats: int, n: int) -> None:
    """Measure the default step with component encoders of other widths, and some of them per step."""
    changes = [
        {"component_width": 4},
        {"component_width": 16},
        {"component_width": 32},
        {"component_width": 32, "components_per_step": 5},
        {"components_per_step": 10},
        {},
    ]
    sides = {str(change or "default"): make_step(Recipe(**change), n, batch) for change in changes}
    report(f"component encoders, {n} markers, batch {batch}", alternate(sides, repeats), cells=batch)


def compare_embedding(cells: int, repeats: int, n: int) -> None:
    """Measure embedding from a store and from a slide, compared with the forward pass alone."""
    n_markers, side = n, int(np.ceil(cells**0.5))
    size = side * 40 + PATCH_PX
    rng = np.random.default_rng(0)
    image = rng.poisson(50, (n_markers, size, size)).astype(np.uint16)
    mask = np.zeros((size, size), np.uint32)
    y, x = np.ogrid[:size, :size]
    for number in range(cells):
        row, column = divmod(number, side)
        centre = (50 + row * 40, 50 + column * 40)
        window = tuple(slice(c - 18, c + 18) for c in centre)
        mask[window][(y[window[0]] - centre[0]) ** 2 + (x[:, window[1]] - centre[1]) ** 2 < 15**2] = number + 1
    slide = Slide("bench", image, tuple(f"m{i}" for i in range(n_markers)), pixel_size_um=0.5)
    encoder = make_encoder(Recipe().encoder, n_markers, PATCH_PX, width=64)
    encoder.to(memory_format=torch.channels_last).eval()
    settings = {"method": "splicer", "surroundings": "hide"}
    run = Run(encoder, normalization(n_markers), slide.markers, PATCH_PX, 0.5, settings)
    at_once = PATCHES_PER_PASS["cpu"]
    x = torch.randn(at_once, n_markers, PATCH_PX, PATCH_PX).contiguous(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        table = measure_cells(slide, mask)
        store = extract_patches(slide, mask, Path(folder) / "patches.zarr", patch_size_um=32, cells=table)

        @torch.inference_mode()
        def bare() -> None:
            for _ in range(-(-cells // at_once)):
                encoder(x)

        counter = iter(range(1000))

        def streamed() -> None:
            source = from_slide(slide, mask, table, patch_size_um=32, workers=1)
            embed_blocks(Path(folder) / f"{next(counter)}.h5ad", run, source, device="cpu")

        def stored() -> None:
            embed_blocks(Path(folder) / f"{next(counter)}.h5ad", run, from_store(store), device="cpu")

        times = alternate({"from a slide": streamed, "from a store": stored, "bare forward pass": bare}, repeats)
    report(f"embedding {cells} cells, float32", times, cells=cells)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = {
        "step": compare_steps,
        "paper": compare_with_plain_loop,
        "markers": compare_markers,
        "patches": compare_patches,
        "batches": compare_batches,
        "components": compare_components,
        "embedding": compare_embedding,
    }
    parser.add_argument("sections", nargs="*", default=["step", "markers"], help=f"of {', '.join(sections)}")
    parser.add_argument("--batch", type=int, default=64, help="cells per step; embedding: cells")
    parser.add_argument("--markers", type=int, default=19)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for section in arguments.sections:
        sections[section](arguments.batch, arguments.repeats, arguments.markers)


if __name__ == "__main__":
    main()
