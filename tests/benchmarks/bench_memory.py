"""How time and memory grow with the slide, under --max-memory.

Run by hand: ``python tests/benchmarks/bench_memory.py [--sizes 2048 4096] [--max-memory 2G] [--folder /tmp/bench]``.
For each size a slide is simulated, segmented, and a sample of its cells extracted, each by the command line in a
process of its own whose peak of resident memory the system tells (VmHWM). With ``--slide`` a slide of yours is taken
instead, and with ``--model RUN`` it is embedded too, streaming.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

from mxsplicer.slides.readers import open_slide

PROGRAM = """
import sys
from mxsplicer.cli import _exit_code
from mxsplicer.memory import measured_peak
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
    parser.add_argument("--slide", type=Path, default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the slides for the next time")
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{'slide':<24}{'raw GB':>8}{'stage':>10}{'seconds':>9}{'s per GB':>9}{'peak GB':>9}\n")
    for slide in [options.slide] if options.slide else [folder / f"{size}.ome.tiff" for size in options.sizes]:
        if not slide.exists():
            run("simulate", slide, "--size-px", slide.name.split(".")[0])
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        limit = ["--max-memory", options.max_memory, "--workers", options.workers]
        sample = ["--cells", options.cells, *limit]
        stages = {
            "segment": ["segment", slide, work / "mask.zarr", *limit[:2]],
            "extract": ["extract", slide, work / "patches.zarr", "--mask", work / "mask.zarr", *sample],
        }
        if options.model:
            given = ["--mask", work / "mask.zarr", "--model", options.model, "--out", work / "out"]
            stages["embed"] = ["embed", slide, *given, *limit]
        image = open_slide(slide).image
        raw = image.dtype.itemsize * image.shape[0] * image.shape[1] * image.shape[2] / 1e9
        for stage, command in stages.items():
            seconds, peak = run(*command)
            line = f"{slide.name:<24}{raw:>8.2f}{stage:>10}{seconds:>9.1f}{seconds / raw:>9.1f}{peak / 1e9:>9.2f}\n"
            sys.stdout.write(line)
            sys.stdout.flush()
    if options.folder is None:
        shutil.rmtree(folder)


def run(*arguments: object) -> tuple[float, int]:
    """Run a command line and return its seconds and its peak of memory in bytes."""
    began = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if said.returncode:
        sys.exit(f"{arguments} failed: {said.stderr}")
    return time.perf_counter() - began, int(said.stdout.rsplit("peak ", 1)[1])


if __name__ == "__main__":
    main()
