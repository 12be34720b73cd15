"""Kill extraction at random moments and continue it; the store must equal that of an uninterrupted run in each byte.

Run by hand: ``python tests/benchmarks/bench_kills.py [--kills 100] [--executor threads] [--folder /tmp/bench]``.
Every round starts with an empty folder, runs ``mxsplicer extract`` in a process group of its own, kills it (SIGKILL) at
a random moment, runs the same command again, and compares all files of the store. A sixth of the moments are before
the first block is written, the others between the first and the last. Rounds that end before the kill do not count.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile

# Interpreted modules load once, in a parent that forks: a round then takes seconds, and most of it is extraction.
SERVER = """
import os, sys
import mxsplicer.cli, mxsplicer.patches.extraction_plan, mxsplicer.images.readers, mxsplicer.masks.files
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        mxsplicer.cli.main(line.split())
    os.setpgid(pid, pid)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """Runs command lines of mxsplicer, each in a process group that may be killed."""

    def __init__(self) -> None:
        quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._server = subprocess.Popen([sys.executable, "-c", SERVER], **quiet)

    def begin(self, *arguments: object) -> int:
        """Start a command and return the number of its process group."""
        assert self._server.stdin is not None
        self._server.stdin.write(" ".join(map(str, arguments)) + "\n")
        self._server.stdin.flush()
        return int(self._read_line())

    def end(self) -> int:
        """Wait for the command and return its exit code."""
        return int(self._read_line())

    def close(self) -> None:
        """End the server."""
        self._server.communicate()

    def _read_line(self) -> str:
        # The command's own sentence stands between the two numbers.
        assert self._server.stdout is not None
        return next(line for line in self._server.stdout if line.strip().lstrip("-").isdigit())


def main() -> None:
    """Print how many of the stores were identical."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--size-px", type=int, default=1536)
    parser.add_argument("--executor", default="threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    write_slide(folder, options.size_px)
    arguments = ["extract", folder / "slide.ome.tiff", "--out", folder / "a.zarr", "--mask", folder / "mask.npy"]
    arguments += ["--patch-size-um", 8, "--min-area-um2", 0]
    arguments += ["--workers", 2, "--executor", options.executor]
    commands = Commands()
    commands.begin(*arguments)
    began = time.perf_counter()
    assert commands.end() == 0
    whole = time.perf_counter() - began
    expected = digests(folder / "a.zarr")
    n_blocks = len(list((folder / "a.zarr" / "patches" / "c").iterdir()))
    sys.stdout.write(f"{len(expected)} files, {whole:.1f} s uninterrupted\n")

    rng = np.random.default_rng(options.seed)
    n_killed = n_begun = n_identical = 0
    while n_killed < options.kills:
        for leftover in folder.glob("a.zarr*"):
            shutil.rmtree(leftover)
        group = commands.begin(*arguments)
        wait_for_moment(folder / "a.zarr.partial" / "patches" / "c", rng.uniform(-0.2, 1), n_blocks, whole, rng)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        if commands.end() == 0:
            continue
        n_killed += 1
        n_begun += (folder / "a.zarr.partial").exists()
        if not (folder / "a.zarr").exists():  # it may have been killed after its last step
            commands.begin(*arguments)
            assert commands.end() == 0
        identical = digests(folder / "a.zarr") == expected and not (folder / "a.zarr.partial").exists()
        n_identical += identical
        if n_killed % 5 == 0 or n_killed == options.kills:
            sys.stdout.write(f"{n_killed} kills, {n_begun} with a store begun: {n_identical} identical stores\n")
            sys.stdout.flush()
    commands.close()
    if options.folder is None:
        shutil.rmtree(folder)


def wait_for_moment(shards: Path, moment: float, n_blocks: int, whole: float, rng: np.random.Generator) -> None:
    """Wait until a fraction of the blocks is written, or below 0 for a moment before the first block."""
    if moment < 0:
        time.sleep(rng.uniform(0, whole / 2))
        return
    until = time.perf_counter() + 4 * whole
    while time.perf_counter() < until:
        if shards.exists() and len(list(shards.iterdir())) > moment * n_blocks:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))


def write_slide(folder: Path, size_px: int) -> None:
    """Write three markers of noise and a mask of squares: many small cells, so many blocks."""
    image = np.random.default_rng(0).integers(0, 4000, (3, size_px, size_px), dtype=np.uint16)
    described = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "CD8", "CD20"]},
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
    }
    path = folder / "slide.ome.tiff"
    tifffile.imwrite(path, image, tile=(256, 256), compression="deflate", metadata=described)
    n = size_px // 8
    mask = np.zeros((size_px, size_px), np.uint32)
    mask.reshape(n, 8, n, 8)[:, 1:7, :, 1:7] = np.arange(1, n * n + 1).reshape(n, 1, n, 1)
    np.save(folder / "mask.npy", mask)


def digests(store: Path) -> dict[str, str]:
    """Return a digest of each file."""
    files = (file for file in sorted(store.rglob("*")) if file.is_file())
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()
