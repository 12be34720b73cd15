"""Two processes on this machine, over gloo, are compared with one."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer import loop, training
from mxsplicer.splicer.processes import find_processes, gather, launch, make_fabric, share_batch_norm
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run
from mxsplicer.testing import tiny_store

SRUN = {  # the first of two tasks
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "run",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "127.0.0.1",
}


def in_two_processes(work: Callable[..., None], *arguments: object, code: int = 0) -> None:
    """Call ``work`` as torchrun would start it, twice, and raise where one hangs or ends otherwise than expected."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mxsplicer.splicer.training"])  # torch loads once for all
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [context.Process(target=_as_rank, args=(rank, port, work, arguments)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    hanging = [process for process in both if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    assert [process.exitcode for process in both] == [code, code]


def _as_rank(rank: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    started = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    os.environ |= {name: str(value) for name, value in started.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    work(*arguments)


def _normalize_in_parts(folder: Path) -> None:
    processes = find_processes()
    fabric = make_fabric("cpu", "32-true", processes)
    with launch(fabric, processes):
        torch.manual_seed(0)
        layers = share_batch_norm(_layers(), fabric.device)
        x = _rows()[fabric.global_rank * 4 :][:4].requires_grad_()
        _loss(gather(fabric, layers(x))).backward()
        for parameter in layers.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2  # as DistributedDataParallel does
        rest = [*layers.state_dict().values(), *(parameter.grad for parameter in layers.parameters())]
        torch.save([x.grad, *rest], folder / f"{fabric.global_rank}.pt")


def _layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.BatchNorm1d(5 * 16))


def _rows() -> torch.Tensor:
    return 3 + torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def _loss(out: torch.Tensor) -> torch.Tensor:
    between = (out @ out.T).softmax(dim=1)  # no row is for itself
    return (between * torch.arange(64.0).view(8, 8)).sum()


def test_batch_norm_and_gradients_of_two_processes_are_those_of_all_their_rows(two):
    torch.manual_seed(0)
    layers, x = _layers(), _rows().requires_grad_()
    _loss(layers(x)).backward()

    first, second = (torch.load(two / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(torch.cat([first[0], second[0]]) / 2, x.grad)
    expected = [*layers.state_dict().items(), *((f"gradient {n}", p.grad) for n, p in layers.named_parameters())]
    for (name, one), found in zip(expected, first[1:], strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found, one, msg=lambda message, name=name: f"{name}: {message}")


SMALL = Recipe(
    deconstruction="marker",
    encoder_width=8,
    component_width=4,
    chunk_width=8,
    batch_size=16,
    epochs=1,
    learning_rate=1e-4,
)
CELLS = [(y, x) for y in range(8, 60, 6) for x in range(8, 60, 6)]  # 81 cells: 5 steps


def _train(store: Path, run: Path, recipe: Recipe, stop_at: int | None = None) -> None:
    if stop_at is not None:
        check = loop._check_finite

        def stop(terms, names, step):
            if step == stop_at:
                os._exit(9)  # as a process ends that is killed
            check(terms, names, step)

        loop._check_finite, loop._SECONDS_BETWEEN_CHECKPOINTS = stop, 0.0
    training.train(PatchStore.open(store), run, recipe=recipe, device="cpu", precision="32-true")


CASES = {
    "splicer": SMALL,
    "round-robin": replace(SMALL, components_per_step=2),
    "joint": replace(SMALL, method="joint", loss="simclr"),
    "mixed": replace(SMALL, losses={"CD20": "simclr"}, weights={"DAPI": 2.0}, widths={"CD3e": 5}),
    "accumulated": replace(SMALL, loss="sigreg", accumulate=2),
}


def _all(folder: Path) -> None:
    _normalize_in_parts(folder)
    for name, recipe in CASES.items():
        _train(folder / "tiny.zarr", folder / name, recipe)
    _train(folder / "tiny.zarr", folder / "killed", SMALL, 3)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return a folder of what two processes did; they start but once, for that takes longer than the rest."""
    folder = tmp_path_factory.mktemp("two")
    tiny_store(folder / "tiny.zarr", cells_at=CELLS)
    in_two_processes(_all, folder, code=9)
    return folder


def _losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    measures = {"correlation", "spread", "component_spread", "chunk_rank"}  # of 8 cells: noisy
    chunks = [values for line in lines for values in line["chunks"].values()]
    return [{name: value for name, value in values.items() if name not in measures} for values in chunks]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(two, tmp_path, name):
    _train(two / "tiny.zarr", tmp_path / "run", CASES[name])

    alone, together = _losses(tmp_path / "run"), _losses(two / name)
    n_chunks = len(alone) // 5
    assert len(alone) == len(together)
    for number, (at_one, at_two) in enumerate(zip(alone, together, strict=True)):
        # Adam makes steps of a size of gradients that are only rounding errors, so these grow from step to step.
        assert at_two == pytest.approx(at_one, rel=1e-4 if number < n_chunks else 2e-3, abs=2e-3)
    first, second = load_run(tmp_path / "run"), load_run(two / name)
    assert first.settings == second.settings
    of_axes = ("projection", "slope", "center")  # axes of nearly equal variance turn with the last digits
    for key, tensor in first.encoder.state_dict().items():
        if key in of_axes:
            continue
        torch.testing.assert_close(second.encoder.state_dict()[key], tensor, rtol=1e-2, atol=2e-3)


def test_what_two_processes_began_one_goes_on_with(two, tmp_path):
    shutil.copytree(two / "killed.partial", tmp_path / "killed.partial")
    assert not (two / "killed").exists()

    _train(two / "tiny.zarr", tmp_path / "killed", SMALL)

    whole, resumed = _losses(two / "splicer"), _losses(tmp_path / "killed")
    assert len(resumed) == len(whole)
    for expected, found in zip(whole, resumed, strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize(
    ("started", "asked", "expected"),
    [
        ({}, (None, None), (1, 1)),
        ({}, (4, 2), (4, 2)),
        ({"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, (None, None), (2, 3)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}, (4, None), (4, 2)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, (None, None), (1, 1)),
        ({"SLURM_NTASKS": "8"}, (None, None), (1, 1)),  # in a batch script, without srun
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, (None, None), (4, 2)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "1"}, (None, None), (4, 1)),
        # typed into the shell of an allocation of several tasks: salloc, srun --pty bash, a desktop
        ({"SLURM_STEP_ID": "4294967290", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, (None, None), (1, 1)),
        ({"SLURM_STEP_ID": "4294967290", "SLURM_NTASKS": "4"}, (None, None), (1, 1)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PTY_PORT": "4242"}, (None, None), (1, 1)),
        ({"SLURM_STEP_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, (None, None), (1, 1)),
        ({"SLURM_STEP_ID": "4294967290", "SLURM_NTASKS": "4"}, (2, None), (2, 1)),  # asked for
    ],
)
def test_processes_are_those_that_were_started_or_asked_for(monkeypatch, started, asked, expected):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in started.items():
        monkeypatch.setenv(name, value)

    found = find_processes(*asked)

    assert (found.per_node, found.nodes) == expected


def test_processes_other_than_those_that_were_started_raise(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InputError, match=r"torchrun started 2 processes on 1 machine, but 4 processes on 1 machine"):
        find_processes(4)


def test_srun_without_tasks_per_node_is_refused(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")

    with pytest.raises(InputError, match="--ntasks-per-node"):
        find_processes()


def test_a_process_trains_alone_whatever_srun_started(monkeypatch, tmp_path):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)

    run = training.train(tiny_store(cells_at=CELLS), tmp_path / "run", recipe=SMALL, alone=True, device="cpu")

    assert (run.path / "model.safetensors").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_others_reports_it_and_ends_with_a_signal(sent):
    code = """
import logging
from mxsplicer.splicer.processes import find_processes, launch, make_fabric
logging.basicConfig(level=logging.INFO, format="%(message)s")
with launch(make_fabric("cpu", processes=find_processes()), find_processes()):
    pass
"""
    port = str(20_000 + os.getpid() % 20_000)
    environment = os.environ | SRUN | {"MASTER_PORT": port}
    waiting = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for line in waiting.stderr:
            if "waiting for the other 1 processes, for at most 30 minutes" in line:
                break
        time.sleep(1)
        waiting.send_signal(sent)
        assert waiting.wait(timeout=20) == -sent
    finally:
        waiting.kill()
        waiting.stderr.close()
        waiting.wait()


@pytest.mark.parametrize(
    ("device", "message"), [("cpu:0", "is a single device, but 2 were requested"), ("abacus", "cannot be used here")]
)
def test_several_processes_need_a_device_for_each(device, message):
    with pytest.raises(InputError, match=message):
        make_fabric(device, processes=find_processes(2))


def test_a_batch_that_cannot_be_divided_equally_raises(tmp_path):
    with pytest.raises(InputError, match=r"a batch of 16 cells cannot be divided among 1 process and 3 micro-batches"):
        training.train(tiny_store(cells_at=CELLS), tmp_path / "run", recipe=replace(SMALL, accumulate=3))
    assert list(tmp_path.iterdir()) == []
