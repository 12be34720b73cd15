"""Check and time mxsplicer on a GPU, in under eight minutes and without downloads.

Run by hand: ``python tests/benchmarks/bench_gpu.py [--device cuda] [--public FOLDER] [--quick]``. It writes
``bench_gpu.json`` to the working directory, and prints each line when it is known; on a CPU (``--device cpu --quick``)
it shows that the script works.

- ``same``: features of the default encoder on the device and on the CPU, and the losses of a short training.
- ``resume``: a training that was interrupted and continued ends with the losses of one that was not.
- ``bfloat16``: features and losses in mixed precision compared with float32.
- ``speed``: cells per second for training and embedding with 5, 19 and 49 markers.
- ``digits``: the table MNIST-CIFAR of arXiv 2503.07444 at its size (ResNet-18, width 64, 100 epochs), with
  ``--public``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from mxsplicer import PatchStore, embed, extract_patches, open_mask, open_slide, simulate_slide, train
from mxsplicer.splicer import loop
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run

PAPER = Path(__file__).resolve().parents[2] / "workflows/paper"
MARKERS = (5, 19, 49)
SECONDS_FOR_DIGITS = 330


def main() -> None:
    """Run the parts one after the other."""
    given = arguments().parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {"device": describe(given.device), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), 384 if given.quick else 1024)
        for name, part in (("same", same), ("resume", resume), ("bfloat16", bfloat16), ("speed", speed)):
            found[name] = part(store, given, Path(folder))
            show(name, found[name])
        if given.public is not None:
            found["digits"] = digits(given, Path(folder))
            show("digits", found["digits"])
    Path("bench_gpu.json").write_text(json.dumps(found, indent=1))


def arguments() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--public", type=Path, help="folder of public data, for digits")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    return parser


def same(store: PatchStore, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Compare features and losses of the device with those of the CPU."""
    runs = {device: short_training(store, folder / f"same-{device}", device) for device in ("cpu", given.device)}
    losses = [losses_of(run) for run in runs.values()]
    here, there = (features(runs["cpu"], store, device) for device in ("cpu", given.device))
    return {
        "features_most": float(np.abs(here - there).max()),
        "features_correlation": correlation(here, there),
        "losses_most": float(np.abs(losses[0] - losses[-1]).max() / np.abs(losses[0]).max()),
    }


def resume(store: PatchStore, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Interrupt a training at its tenth checkpoint, continue it, and compare the losses with an uninterrupted one."""
    whole = short_training(store, folder / "whole", given.device)
    save, saved = loop.save_checkpoint, []

    def save_or_stop(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments[-1])
        if len(saved) == 10:
            raise KeyboardInterrupt

    with (
        patch.object(loop, "save_checkpoint", save_or_stop),
        patch.object(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0),
        suppress(KeyboardInterrupt),
    ):
        short_training(store, folder / "broken", given.device)
    again = short_training(store, folder / "broken", given.device, overwrite=False)
    return {"continued_at": saved[-1], "losses_most": float(np.abs(losses_of(whole) - losses_of(again)).max())}


def bfloat16(store: PatchStore, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Compare a training in mixed precision with one in float32."""
    runs = [
        short_training(store, folder / precision, given.device, precision=precision)
        for precision in ("32-true", "bf16-mixed")
    ]
    losses = [losses_of(run)[-5:].mean() for run in runs]
    return {
        "last_losses_ratio": float(losses[1] / losses[0]),
        "features_correlation": correlation(*(features(run, store, given.device) for run in runs)),
    }


def speed(store: PatchStore, given: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """Time training and embedding of the same cells with more and fewer markers."""
    rows = []
    for n_markers in MARKERS:
        wide = folder / f"{n_markers}.zarr"
        one = with_markers(store, n_markers, wide)
        steps = 5 if given.quick else 60
        long = replace(recipe(), max_steps=2 * steps, batch_size=64 if given.quick else 512)
        train(one, folder / f"warm-{n_markers}", recipe=replace(long, max_steps=2), device=given.device)
        seconds = {}
        for n in (steps, 2 * steps):  # the difference of two trainings is without what happens once
            started = time.perf_counter()
            run = train(one, folder / f"speed-{n_markers}-{n}", recipe=replace(long, max_steps=n), device=given.device)
            seconds[n] = time.perf_counter() - started
        embed(run, one, device=given.device)
        started = time.perf_counter()
        embed(run, one, device=given.device)
        trained = steps * long.batch_size / max(seconds[2 * steps] - seconds[steps], 1e-9)
        rows.append(
            {
                "markers": n_markers,
                "trained_cells_per_s": trained,
                "embedded_cells_per_s": one.n_cells / (time.perf_counter() - started),
            }
        )
        show("speed", rows[-1])
    return rows


def digits(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train joint embedding and SpliCER on pairs of a digit and a photograph, and score where the digit is random."""
    out = folder / "digits"
    sources = [
        given.public / "mnist-cifar" / name
        for name in ("mnist_train_0_1_png.zip", "cifar10_train_automobile_truck_jpg.zip")
    ]
    counts = ["--train", "200", "--test", "100"] if given.quick else ["--train", "4000", "--test", "1000"]
    subprocess.run([sys.executable, PAPER / "datasets/mnist_cifar.py", *sources, out, *counts], check=True)
    scores: dict[str, Any] = {}
    for slide in ("train", "rNONE", "rMNIST", "rCIFAR"):
        cut(out / f"{slide}.ome.tiff", out / f"{slide}_mask.ome.tiff", out / f"{slide}.zarr")
    started = time.perf_counter()
    for method in ("joint", "splicer"):
        if time.perf_counter() - started > SECONDS_FOR_DIGITS:
            scores[method] = "no time left"
            continue
        run = train(
            PatchStore.open(out / "train.zarr"), out / method, recipe=of_the_paper(method, given), device=given.device
        )
        for slide in ("rNONE", "rMNIST", "rCIFAR"):
            table = out / f"{method}-{slide}.csv"
            words = [
                sys.executable,
                PAPER / "scripts/score.py",
                table,
                "--run",
                run.path,
                "--stores",
                out / f"{slide}.zarr",
            ]
            subprocess.run([*words, "--labels", out / f"{slide}_labels.csv", "--split"], check=True)
            scores[f"{method} {slide}"] = pd.read_csv(table).to_dict("records")
    scores["seconds"] = time.perf_counter() - started
    return scores


def of_the_paper(method: str, given: argparse.Namespace) -> Recipe:
    """Return the recipe of the paper's table: ResNet-18 of width 64, 100 epochs."""
    return Recipe(
        method=method,
        deconstruction="halves",
        surroundings="keep",
        views="upright",
        encoder="resnet18",
        encoder_width=4 if given.quick else 64,
        component_encoder="resnet18",
        component_width=4 if given.quick else 64,
        chunk_width=128,
        projector_layers=2,
        redundancy_weight=0,
        consistency_weight=0,
        batch_size=64 if given.quick else 256,
        epochs=1 if given.quick else 100,
    )


def recipe() -> Recipe:
    """Return the default recipe with few steps."""
    return Recipe(batch_size=64, max_steps=20)


def short_training(
    store: PatchStore, path: Path, device: str, *, precision: str = "32-true", overwrite: bool = True
) -> Run:
    """Train the default for few steps."""
    return train(store, path, recipe=recipe(), device=device, precision=precision, overwrite=overwrite)


def features(run: Run, store: PatchStore, device: str) -> np.ndarray:
    """Return z of all cells."""
    return np.asarray(embed(run, store, device=device).obsm["X_splicer"])


def losses_of(run: Run) -> np.ndarray:
    """Return the loss of every logged step."""
    assert run.path is not None
    return losses_in(run.path)


def losses_in(path: Path) -> np.ndarray:
    """Return the loss of every logged step of a run folder."""
    lines = (path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of the values of two arrays of features."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def make_store(folder: Path, size_px: int) -> PatchStore:
    """Simulate a slide and cut its cells."""
    simulate_slide(folder / "tissue.ome.tiff", size_px=size_px, seed=0)
    return cut(folder / "tissue.ome.tiff", folder / "tissue_mask.ome.tiff", folder / "tissue.zarr", patch_size_um=24)


def cut(image: Path, mask: Path, path: Path, *, patch_size_um: float = 64) -> PatchStore:
    """Cut the cells of a slide."""
    slide = open_slide(image)
    return extract_patches(slide, open_mask(mask, slide=slide), path, patch_size_um=patch_size_um)


def with_markers(store: PatchStore, n_markers: int, path: Path) -> PatchStore:
    """Cut the same cells with the markers repeated to another number."""
    slide = open_slide(store.path.with_name("tissue.ome.tiff"))
    order = [number % len(slide.markers) for number in range(n_markers)]
    names = tuple(f"{slide.markers[channel]} {number}" for number, channel in enumerate(order))
    repeated = replace(slide, image=np.asarray(slide.image[...])[order], markers=names)
    mask = open_mask(store.path.with_name("tissue_mask.ome.tiff"), slide=slide)
    return extract_patches(repeated, mask, path, patch_size_um=store.patch_size_um)


def describe(device: str) -> str:
    """Return the name of the device."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def show(name: str, found: object) -> None:
    """Print a finding when it is known."""
    sys.stdout.write(f"{name}: {json.dumps(found)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
