"""Several processes that train one model, and the batch norm that they share.

Every process has the whole model and works on its share of the same batch. Loss and batch norm are computed over the
cells of all processes, so that their number changes the time of a step and not its result.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.splicer.devices import find_device

logger = logging.getLogger(__name__)

_FIRST_STEP_OF_SLURM = 0xFFFF_FFF0  # steps from here on are SLURM's own: of the batch script, of interactive sessions
_LONGEST_WAIT = timedelta(minutes=30)  # for the other processes
_STARTER = "MXSPLICER_STARTER"  # environment variable of processes that this package started: the id of the first one


@dataclass(frozen=True)
class Processes:
    """How many processes train, and who starts them."""

    per_node: int
    nodes: int
    environment: ClusterEnvironment

    @property
    def total(self) -> int:
        """Number of processes in all."""
        return self.per_node * self.nodes


class _Srun(SLURMEnvironment):  # type: ignore[misc]
    """The tasks of srun, which :func:`_tasks_of_srun` checks: Fabric's own check refuses a mere number of tasks."""

    @staticmethod
    def _validate_srun_variables() -> None: ...


def find_processes(devices: int | None = None, nodes: int | None = None) -> Processes:
    """Return the processes: those that ``torchrun`` or ``srun`` started, else ``devices`` on each of ``nodes``.

    Parameters
    ----------
    devices, nodes
        Devices to use on every machine, and machines; by default those that were started, else 1.

    Raises
    ------
    InputError
        If they contradict what was started.

    Examples
    --------
    >>> find_processes().total
    1
    """
    started: tuple[int, int] | None = None
    environment: ClusterEnvironment = LightningEnvironment()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        started, by = (per_node, int(os.environ["WORLD_SIZE"]) // per_node), "torchrun"
        environment = TorchElasticEnvironment()
    elif _is_task_of_srun():
        started, by = _tasks_of_srun(), "srun"
        environment = _Srun()
    if started is None:
        return Processes(devices or 1, nodes or 1, environment)
    asked = (devices or started[0], nodes or started[1])
    if asked != started:
        msg = f"{by} started {_describe(*started)}, but {_describe(*asked)} were requested."
        raise InputError(msg, f"Leave out `devices` and `nodes` under {by}.")
    return Processes(*started, environment)


def alone() -> Processes:
    """Return this process as the only one, whatever ``torchrun`` or ``srun`` started."""
    return Processes(1, 1, LightningEnvironment())


def _is_task_of_srun() -> bool:
    """Return whether srun started this process as one of several tasks; not so in sbatch or an interactive session.

    In the shell of ``salloc``, of ``srun`` with a terminal, and of a desktop one process is typed in, and the variables
    give the tasks of the allocation.
    """
    step, n_tasks = os.environ.get("SLURM_STEP_ID", ""), int(os.environ.get("SLURM_NTASKS") or 1)
    if not step.isdigit() or n_tasks < 2:
        return False
    is_interactive = (
        int(step) >= _FIRST_STEP_OF_SLURM
        or "SLURM_PTY_PORT" in os.environ
        or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive", "sh", "zsh")
    )
    if is_interactive:
        logger.info("this is an interactive session of SLURM with %d tasks: one process works, this one", n_tasks)
    return not is_interactive


def _tasks_of_srun() -> tuple[int, int]:
    """Return the number of processes that srun started on each machine, and the number of machines."""
    n_tasks = int(os.environ["SLURM_NTASKS"])
    n_nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 0)
    per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE") or (n_tasks // n_nodes if n_nodes else 0))
    if not per_node or n_tasks % per_node or (n_nodes and per_node * n_nodes != n_tasks):
        msg = f"srun started {n_tasks} tasks, not equally many on each machine."
        raise InputError(msg, "Run srun with --ntasks-per-node.")
    return per_node, n_tasks // per_node


def make_fabric(
    device: str = "auto",
    precision: str = "auto",
    processes: Processes | None = None,
    *,
    unused_weights: bool = False,
) -> Fabric:
    """Return Lightning's Fabric for the processes of a training, each of which has a device of its own.

    Parameters
    ----------
    device
        As :func:`~mxsplicer.splicer.devices.find_device` takes it; without a number for several processes.
    precision
        ``"auto"`` is bfloat16 autocast if the processor computes it, else float32.
    unused_weights
        Whether some steps do not use all weights: processes then look for those, which costs a little time.
    """
    processes = processes or find_processes()
    where = find_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its messages repeat the settings
    if precision == "auto":
        precision = "bf16-mixed" if _computes_bf16(where.type) else "32-true"
    # Fabric would guess the environment, and a single process in a SLURM job would wait for others.
    plugins = [processes.environment]
    if processes.total == 1:
        devices = 1 if where.index is None else [where.index]
        return Fabric(accelerator=where.type, devices=devices, precision=precision, plugins=plugins)
    _check_devices(device, where, processes)
    return Fabric(
        accelerator=where.type,
        devices=processes.per_node,
        num_nodes=processes.nodes,
        precision=precision,
        strategy=DDPStrategy(find_unused_parameters=unused_weights, timeout=_LONGEST_WAIT),
        plugins=plugins,
    )


@contextmanager
def launch(fabric: Fabric, processes: Processes) -> Iterator[None]:
    """Start or join the other processes for the ``with`` block; only the first process logs messages."""
    package = logging.getLogger("mxsplicer")
    level = package.level
    if isinstance(processes.environment, LightningEnvironment) and processes.total > 1:
        if processes.environment.local_rank() == 0:
            os.environ[_STARTER] = str(os.getpid())  # read by the processes that Fabric starts now
        elif _STARTER in os.environ:
            threading.Thread(target=_end_with, args=(int(os.environ[_STARTER]),), daemon=True).start()
    if processes.total > 1:
        logger.info("waiting for the other %d processes, for at most 30 minutes", processes.total - 1)
    with _ended_by_signals(processes):
        fabric.launch()
    if not is_first():
        package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


@contextmanager
def _ended_by_signals(processes: Processes) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a process that waits for others: Python's handlers do not run while torch waits."""
    in_main = processes.total > 1 and threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    for one in before:
        signal.signal(one, signal.SIG_DFL)
    try:
        yield
    except dist.DistError as error:
        msg = f"only some of the {processes.total} processes of the training began within 30 minutes."
        raise InputError(msg, "Start all of them, or train in one process with `devices=1`.") from error
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _end_with(parent: int) -> None:
    """End this process soon after its parent process was killed, instead of waiting for half an hour."""
    while os.getppid() == parent and psutil.pid_exists(parent):  # on Windows the first stays as it was
        time.sleep(1)
    os._exit(1)


def is_first() -> bool:
    """Return whether this process is the first, the one that writes files and logs messages."""
    return not dist.is_initialized() or dist.get_rank() == 0


def gather(fabric: Fabric, own: Tensor) -> Tensor:
    """Return the rows (B, ...) of all processes, in their order, given those of this one.

    The gradient is correct if every process computes the same loss from the rows, and the gradients of weights are
    averaged over processes, as in training.
    """
    if fabric.world_size == 1:
        return own
    rows: Tensor = _Gather.apply(own)  # type: ignore[no-untyped-call]
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        rows = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, own.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        # The other processes compute the same gradient of these rows: the sum is a multiple, without communication.
        return gradients[0].chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def _describe(per_node: int, nodes: int) -> str:
    return f"{per_node} process{'es' * (per_node > 1)} on {nodes} machine{'s' * (nodes > 1)}"


def _check_devices(device: str, where: torch.device, processes: Processes) -> None:
    if ":" in device:
        msg = f"`device` {device!r} is a single device, but {processes.per_node} were requested."
        raise InputError(msg, f"Use `device={where.type!r}`.")
    if where.type == "mps":
        msg = f"only one device 'mps' exists, but {processes.per_node} were requested."
        raise InputError(msg, "Use `devices=1`, or `device='cpu'`.")
    if where.type == "cuda" and processes.per_node > torch.cuda.device_count():
        msg = f"{processes.per_node} devices were requested; PyTorch finds {torch.cuda.device_count()} here."
        raise InputError(msg)


def _computes_bf16(accelerator: str) -> bool:
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return accelerator == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def share_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Return ``module`` with batch norms that compute mean and variance over all processes."""
    if device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return shared
    for name, child in module.named_children():
        setattr(module, name, share_batch_norm(child, device))
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module
    norm = SharedBatchNorm(module.num_features, module.eps, module.momentum or 0.1)
    norm.load_state_dict(module.state_dict())
    return norm


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the rows of all processes, equally many each; PyTorch's own works only on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, ...) normalised per channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        normal, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
            n = x.numel() // x.shape[1] * dist.get_world_size()
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (n / max(1, n - 1)), momentum)
        return normal  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """The batch norm over all processes and its gradient (Ioffe, Szegedy 2015, arXiv 1502.03167, section 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        local_variance, local_mean = torch.var_mean(x.float(), axes, correction=0)
        everywhere = [torch.empty(2, len(local_mean), device=x.device) for _ in range(dist.get_world_size())]
        dist.all_gather(everywhere, torch.stack([local_mean, local_variance]))
        means, variances = torch.stack(everywhere, dim=1)  # (processes, C) each
        mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
        scale = torch.rsqrt(variance + eps)
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal.to(x.dtype), weight, scale)
        ctx.mark_non_differentiable(mean, variance)
        return (normal * weight.view(shape) + bias.view(shape)).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, weight, scale = ctx.saved_tensors
        gradient = gradients[0]
        axes, shape = [0, *range(2, normal.ndim)], [1, -1] + [1] * (normal.ndim - 2)
        d_bias, d_weight = gradient.float().sum(axes), (gradient * normal).float().sum(axes)
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums)
        along_bias, along_weight = sums / (normal.numel() // normal.shape[1] * dist.get_world_size())  # means, (C,)
        rest = gradient - along_bias.view(shape) - normal * along_weight.view(shape)
        return (rest * (weight * scale).view(shape)).to(gradient.dtype), d_weight, d_bias, None
