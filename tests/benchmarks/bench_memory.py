"""Measure how time and memory grow with the slide, under ``--max-memory``.

Run by hand: ``python tests/benchmarks/bench_memory.py [--sizes 2048 4096] [--max-memory 2G] [--folder /tmp/bench]``.
For each size a slide is simulated and segmented, and a sample of its cells is extracted, each by a command in a process
of its own. Two peaks of resident memory are printed: that of the process, from the system, and that of the process and
all its children, sampled ten times a second. Processor seconds are printed next to elapsed seconds, since other work
may share the machine. With ``--slide`` a slide of yours is used instead, and with ``--model RUN`` it is also embedded,
streaming.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

import psutil

from mxsplicer.images.opening import open_slide

PROGRAM = """
import sys
from mxsplicer.cli.entry_point import _exit_code
from mxsplicer.system.memory import measured_peak
code = _exit_code(sys.argv[1:])
print(f"\\npeak {measured_peak()}")
sys.exit(code)
"""


def main() -> None:
    """Print a line for each size and stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--max-memory", default="2G")
    parser.add_argument("--cells", default="20000")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--executor", default="threads")
    parser.add_argument("--slide", type=Path, default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the slides for the next time")
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{'slide':<24}{'raw GB':>8}{TITLES}\n")
    for slide in [options.slide] if options.slide else [folder / f"{size}.ome.tiff" for size in options.sizes]:
        if not slide.exists():
            run("simulate", "--out", slide, "--size-px", slide.name.split(".")[0])
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        limit = ["--max-memory", options.max_memory, "--workers", options.workers]
        how = [*limit, "--executor", options.executor]
        stages = {
            "segment": ["segment", slide, "--out", work / "mask.zarr", *limit[:2]],
            "extract": [
                "extract",
                slide,
                "--out",
                work / "patches.zarr",
                "--mask",
                work / "mask.zarr",
                "--cells",
                options.cells,
                *how,
            ],
        }
        if options.model:
            given = ["--mask", work / "mask.zarr", "--model", options.model, "--out", work / "out"]
            stages["embed"] = ["embed", slide, *given, *how]
        image = open_slide(slide).image
        raw = image.dtype.itemsize * image.shape[0] * image.shape[1] * image.shape[2] / 1e9
        for stage, command in stages.items():
            sys.stdout.write(f"{slide.name:<24}{raw:>8.2f}{run(*command).describe(stage, raw)}\n")
            sys.stdout.flush()
    if options.folder is None:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Cost:
    """What a command line took."""

    seconds: float
    processor_seconds: float  # of it and all that it started
    peak: int  # bytes, of the process itself
    peak_of_all: int  # with all that it started

    def describe(self, stage: str, raw_gb: float) -> str:
        """Return the line of a table whose titles are TITLES."""
        seconds = f"{stage:>10}{self.seconds:>9.1f}{self.processor_seconds:>11.1f}{self.seconds / raw_gb:>9.2f}"
        return f"{seconds}{self.peak / 1e9:>9.2f}{self.peak_of_all / 1e9:>9.2f}"


TITLES = f"{'stage':>10}{'seconds':>9}{'processor':>11}{'s per GB':>9}{'peak GB':>9}{'of all':>9}"


def run(*arguments: object) -> Cost:
    """Run a command line to its end."""
    began, worked = time.perf_counter(), processor_seconds()
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    of_all = 0
    with TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            of_all = max(of_all, resident_of_all(process.pid))
            time.sleep(0.1)
        output.seek(0)
        text = output.read()
    if process.returncode not in (0, 1) or "mxsplicer: failed" in text:
        sys.exit(f"{arguments} failed: {text}")
    peak = int(text.rsplit("\npeak ", 1)[1])
    return Cost(time.perf_counter() - began, processor_seconds() - worked, peak, max(peak, of_all))


def processor_seconds() -> float:
    """Return what all command lines so far took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_of_all(pid: int) -> int:
    """Return what a process and all that it started hold now."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for one in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


if __name__ == "__main__":
    main()
