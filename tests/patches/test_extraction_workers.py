"""Threads, processes and clusters make the same store, even if workers die."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.cutting import prepare_cutter
from mxsplicer.patches.extraction import extract_patches, stream_blocks
from mxsplicer.patches.extraction_plan import plan_extraction_workers
from mxsplicer.patches.geometry import PatchGeometry
from mxsplicer.segmentation.segment import segment
from mxsplicer.system import dask_cluster
from mxsplicer.system.memory import Budget, parse_bytes
from mxsplicer.testing import tiny_slide


@dataclass
class Deadly:
    """An image that kills the process that reads it: the first of them, or each."""

    image: np.ndarray
    victims: Path  # one line per death
    n_deaths: int
    parent: int

    def __post_init__(self):
        self.shape, self.dtype, self.ndim = self.image.shape, self.image.dtype, self.image.ndim

    def __getitem__(self, key):
        in_second_half = (key[-2].start or 0) >= self.shape[-2] // 2
        if os.getpid() != self.parent and in_second_half and len(self.victims.read_text()) < self.n_deaths:
            with self.victims.open("a") as file:
                file.write("x")
            psutil.Process().kill()
        return self.image[key]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a slide of four blocks, its mask, its cells, and the bytes of the store that one thread makes of them."""
    rng = np.random.default_rng(0)
    mask = np.zeros((1024, 256), np.uint32)
    mask.reshape(128, 8, 32, 8)[:, 1:7, :, 1:7] = np.arange(1, 4097).reshape(128, 1, 32, 1)
    image = rng.integers(0, 1000, (2, 1024, 256), dtype=np.uint16)
    slide = Slide("crowded", image, ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(64, 64))
    cells = measure_cells(slide, mask)
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    extract_patches(slide, mask, path, patch_size_um=6, cells=cells, workers=1)
    return slide, mask, cells, files_of(path)


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


def deadly(slide, folder, n_deaths):
    victims = folder / "victims"
    victims.write_text("")
    return replace(slide, image=Deadly(slide.image, victims, n_deaths, os.getpid())), victims


def test_the_block_of_a_worker_that_dies_is_cut_by_another(whole, tmp_path, caplog):
    slide, mask, cells, expected = whole
    dying, victims = deadly(slide, tmp_path, n_deaths=1)

    extract_patches(dying, mask, tmp_path / "a.zarr", patch_size_um=6, cells=cells, workers=2, executor="processes")

    assert victims.read_text() == "x"
    assert re.search("ended (by signal 9|with exit code)", caplog.text)
    assert files_of(tmp_path / "a.zarr") == expected


def test_workers_that_die_repeatedly_raise_one_error_and_the_same_call_continues(whole, tmp_path):
    slide, mask, cells, expected = whole
    dying, victims = deadly(slide, tmp_path, n_deaths=99)

    with pytest.raises(
        InputError,
        match=r"3 worker processes ended at block \d, the last one (by signal 9|with exit code \d+)\. .*continues",
    ):
        extract_patches(dying, mask, tmp_path / "a.zarr", patch_size_um=6, cells=cells, workers=1, executor="processes")
    assert victims.read_text() == "xxx"

    extract_patches(slide, mask, tmp_path / "a.zarr", patch_size_um=6, cells=cells)
    assert files_of(tmp_path / "a.zarr") == expected


def test_processes_stream_the_same_blocks_in_order_and_raise_errors_of_workers(whole):
    slide, mask, cells, _ = whole

    here, there = (
        list(stream_blocks(slide, mask, cells, patch_size_um=6, workers=2, executor=kind, skip={1}))
        for kind in ("threads", "processes")
    )

    assert [block.number for block in there] == [0, 2, 3]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.patches, other.patches)
        np.testing.assert_array_equal(one.regions, other.regions)
    wrong = replace(slide, image=np.zeros((2, 3, 3), np.uint16))
    object.__setattr__(wrong, "image", Broken(slide.image.shape))
    with pytest.raises(InputError, match="page 7 is damaged"):
        list(stream_blocks(wrong, mask, cells, patch_size_um=6, workers=1, executor="processes"))


class Broken:
    """An image that is damaged."""

    def __init__(self, shape):
        self.shape, self.dtype, self.ndim = shape, np.dtype(np.uint16), 3

    def __getitem__(self, key):
        msg = "page 7 is damaged."
        raise InputError(msg)


@pytest.fixture(scope="module")
def scheduler():
    """Return the address of a dask cluster of two processes."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def test_a_dask_cluster_makes_the_same_store_after_a_worker_was_killed(whole, tmp_path, scheduler):
    slide, mask, cells, expected = whole
    dying, victims = deadly(slide, tmp_path, n_deaths=1)

    extract_patches(dying, mask, tmp_path / "a.zarr", patch_size_um=6, cells=cells, workers=2, executor=scheduler)

    assert victims.read_text() == "x"
    assert files_of(tmp_path / "a.zarr") == expected


def test_a_dask_cluster_measures_the_same_cells_after_a_worker_was_killed(whole, tmp_path, scheduler):
    slide, mask, cells, _ = whole
    dying, victims = deadly(slide, tmp_path, n_deaths=1)

    there = measure_cells(dying, mask, tile_px=256, executor=scheduler)

    assert victims.read_text() == "x"
    assert there.fingerprint() == cells.fingerprint()


def test_a_dask_cluster_makes_the_same_mask_after_a_worker_was_killed(whole, tmp_path, scheduler):
    slide, mask, _, _ = whole
    lit = replace(slide, image=np.stack([np.where(mask > 0, 900, 40).astype(np.uint16), slide.image[1]]))
    dying, victims = deadly(lit, tmp_path, n_deaths=1)

    for name, shown, executor in [("here", lit, "threads"), ("there", dying, scheduler)]:
        folder = tmp_path / name
        segment(
            shown,
            folder / "mask.zarr",
            nuclei_path=folder / "nuclei.zarr",
            nucleus_diameter_um=3,
            min_nucleus_area_um2=2,
            halo_um=16,
            tile_px=256,
            executor=executor,
        )

    assert victims.read_text() == "x"
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_a_dask_cluster_streams_the_same_blocks_in_order_after_a_worker_was_killed(whole, tmp_path, scheduler):
    slide, mask, cells, _ = whole
    dying, victims = deadly(slide, tmp_path, n_deaths=1)

    here = stream_blocks(slide, mask, cells, patch_size_um=6, workers=1)
    there = stream_blocks(dying, mask, cells, patch_size_um=6, executor=scheduler)

    for one, other in zip(here, there, strict=True):
        assert one.number == other.number
        np.testing.assert_array_equal(one.patches, other.patches)
        np.testing.assert_array_equal(one.regions, other.regions)
    assert victims.read_text() == "x"


def test_absent_clusters_and_unknown_executors_are_refused(whole, tmp_path, monkeypatch):
    slide, mask, cells, _ = whole
    monkeypatch.setattr(dask_cluster, "_TIMEOUT", 0.3)

    for executor, message in [
        ("tcp://127.0.0.1:1", "no dask scheduler answers"),
        ("elves", "'elves' is not a kind of worker"),
    ]:
        with pytest.raises(InputError, match=message):
            extract_patches(slide, mask, tmp_path / "a.zarr", patch_size_um=6, cells=cells, executor=executor)


def cutter_of(n_cells=5000, n_markers=19):
    slide, mask = tiny_slide(markers=[f"M{n}" for n in range(n_markers)], shape_px=(1024, 1024))
    y, x = np.random.default_rng(0).uniform(0, 1024, (2, n_cells))
    return prepare_cutter(slide, mask, x, y, np.arange(n_cells), geometry=PatchGeometry.of(slide, 32))[0]


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("wanted", [1, 4, 64])
def test_a_plan_of_workers_stays_within_the_budget(kind, streams, wanted):
    cutter = cutter_of()

    for gigabytes in (1.5, 2, 8):
        budget = Budget(total=int(gigabytes * 2**30), taken=200 << 20)
        plan = plan_extraction_workers(cutter, budget, workers=wanted, executor=kind, streams=streams)

        assert 1 <= plan.n_workers <= wanted
        assert plan.cache_bytes >= 0
        assert plan.peak_bytes <= budget.free


def test_a_budget_that_is_too_small_reports_the_memory_needed():
    cutter = cutter_of()
    with pytest.raises(
        InputError, match=r"^300M of memory is too little: a block of 1,024 patches .* Raise `max_bytes` to at least"
    ) as refused:
        plan_extraction_workers(cutter, Budget(300 << 20, taken=200 << 20))

    enough = str(refused.value).rsplit(" ", 1)[1].rstrip(".")

    assert plan_extraction_workers(cutter, Budget(parse_bytes(enough), taken=200 << 20)).n_workers == 1


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.slide import Slide

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    slide = Slide("crowded", np.load(folder / "image.npy"), ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(64, 64))
    mask = np.load(folder / "mask.npy")
    cells = measure_cells(slide, mask)
    extract_patches(slide, mask, folder / "a.zarr", patch_size_um=6, cells=cells, workers=2, executor="processes")
"""


def test_an_extraction_killed_with_its_processes_continues_and_ends_in_the_same_bytes(whole, tmp_path):
    slide, mask, cells, expected = whole
    np.save(tmp_path / "image.npy", slide.image)
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "extract.py").write_text(KILLED)
    path = tmp_path / "a.zarr"
    shards = path.with_name("a.zarr.partial") / "patches" / "c"

    with subprocess.Popen([sys.executable, tmp_path / "extract.py", tmp_path]) as running:
        until = time.monotonic() + 60
        while not shards.exists() and running.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        running.kill()
    assert not path.exists()

    store = extract_patches(slide, mask, path, patch_size_um=6, cells=cells)

    assert store.n_cells == 4096
    assert files_of(path) == expected


PROGRAM = """
import sys
from mxsplicer.system.memory import measured_peak, parse_bytes
from mxsplicer.cli.entry_point import _exit_code
code = _exit_code(sys.argv[1:])
print(code, measured_peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM")
def test_the_limit_on_memory_holds(tmp_path):
    n_cells = 2500
    rng = np.random.default_rng(0)
    mask = np.zeros((1000, 1000), np.uint32)
    mask.reshape(50, 20, 50, 20)[:, 4:14, :, 4:14] = np.arange(1, n_cells + 1).reshape(50, 1, 50, 1)
    np.save(tmp_path / "mask.npy", mask)
    import tifffile

    image = rng.integers(0, 60_000, (16, 1000, 1000), dtype=np.uint16)
    names = {
        "axes": "CYX",
        "Channel": {"Name": [f"M{n}" for n in range(16)]},
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
    }
    tifffile.imwrite(tmp_path / "s.ome.tiff", image, tile=(256, 256), compression="deflate", metadata=names)
    limit = "450M"  # half of it for the program itself; without a limit, more than 600M are used

    command = [
        "extract",
        "s.ome.tiff",
        "--out",
        "p.zarr",
        "--mask",
        "mask.npy",
        "--max-memory",
        limit,
        "--workers",
        "8",
    ]
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    code, peak = finished.stdout.split()[-2:]
    assert code == "0", finished.stderr
    assert int(peak) < parse_bytes(limit)
