"""What an embedding will do and cost, and whether it fits into memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxsplicer.cells.estimate import estimate_cells
from mxsplicer.embedding.encode import time_encoding
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import PatchGeometry
from mxsplicer.patches.planning import format_seconds, plan_extraction
from mxsplicer.result.cohort import every_marker
from mxsplicer.result.opening import open_job
from mxsplicer.result.options import Options, Running
from mxsplicer.result.slides import SlideRecord
from mxsplicer.result.stages import Job
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.system.memory import format_bytes

# What the stages after the encoder take, as tests/benchmarks/bench_embedding.py measures it on one core.
_SECONDS_TO_CLUSTER, _SECONDS_TO_PLACE = 60.0, 2.5e-4  # the sample, and a cell beyond it
_WRITING_SPEED = 30e6  # bytes of z per second, compressed by gzip and written in two orders
_BYTES_TO_REPORT, _BYTES_TO_CORRELATE = 1_100_000_000, 870_000_000  # with all libraries and a sample of the cells
_BYTES_PER_CELL = 240  # of the table and the names of the cells


@dataclass(frozen=True)
class EmbeddingPlan:
    """What an embedding will do and cost; all figures are estimates."""

    n_cells: int
    n_features: int
    disk_bytes: int  # at most at a time, in the result folder, without the mask and the training sample
    memory_bytes: int  # at most
    seconds: dict[str, float]  # by stage
    dominated_by: str  # the stage that takes longest
    not_counted: tuple[str, ...]  # stages that are not in ``seconds``

    def __str__(self) -> str:
        """Return the plan as a table for people."""
        return "\n".join(
            [
                f"cells   about {self.n_cells:,}, {self.n_features} features each",
                f"disk    at most {format_bytes(self.disk_bytes)}",
                f"memory  at most {format_bytes(self.memory_bytes)}",
                *format_seconds(self.seconds, self.dominated_by),
                *[f"  {stage:<22}on top" for stage in self.not_counted],
            ]
        )


def plan_slides(
    slides: str | Path | Sequence[str | Path | SlideRecord] = (),
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> EmbeddingPlan:
    """Return what :func:`~mxsplicer.embed_slides` would do and cost, writing nothing.

    A few tiles of each slide are decoded and cut, and the encoder is timed on a few patches of noise, which takes
    seconds. The arguments are those of ``embed_slides``.
    """
    job = open_job(slides, out, options or Options(), Running(device, workers, executor, max_bytes))
    n_cells, memory_bytes, seconds = _plan_slides(job)
    n_features, n_inputs, per_cell = _time_encoder(job)
    z_bytes = 4 * n_cells * n_features
    seconds["encoder"] = per_cell * n_cells
    seconds["clusters"] = _SECONDS_TO_CLUSTER + n_cells * _SECONDS_TO_PLACE
    seconds["writing z"] = z_bytes / _WRITING_SPEED
    not_counted = ["segmentation and cells"] if any(one.mask is None for one in job.slides) else []
    return EmbeddingPlan(
        n_cells=n_cells,
        n_features=n_features,
        disk_bytes=3 * z_bytes,  # the journal of blocks, cells.h5ad and features.zarr
        memory_bytes=max(memory_bytes, _bytes_after_encoder(n_cells, n_inputs, len(job.options.measure))),
        seconds={stage: float(f"{value:.3g}") for stage, value in seconds.items()},
        dominated_by=max(seconds, key=lambda stage: seconds[stage]),
        not_counted=(*not_counted, *([] if job.model else ["training"])),
    )


def check_memory(job: Job) -> None:
    """Raise if the stages after the encoder would exceed the limit of memory, which would only show after hours.

    Cells that were not measured yet are estimated for slides without a mask, and not counted for those with one.
    """
    limit, marker = job.running.max_bytes, job.options.nuclear_marker
    if limit is None:
        return
    counted = [len(one.cells) for one in job.slides if one.cells is not None]
    unmasked = [one.slide for one in job.slides if one.mask is None]
    n_cells = sum(counted or (estimate_cells(slide, nuclear_marker=marker).n_cells for slide in unmasked))
    n_markers = len(job.model.markers if job.model else job.images[0].markers)
    needed = _bytes_after_encoder(n_cells, n_markers, len(job.options.measure))
    if needed > limit:
        of_cells = f" and of {n_cells:,} cells in {n_markers} markers" if n_cells else ""
        msg = (
            f"{format_bytes(limit)} of memory is too little: correlations and clusters take "
            f"{format_bytes(needed)}, including all libraries{of_cells}."
        )
        raise InputError(msg, f"Raise `max_bytes` to at least {format_bytes(needed)}.")


def _plan_slides(job: Job) -> tuple[int, int, dict[str, float]]:
    """Return the number of cells, the memory of the largest slide, and the seconds by stage."""
    seconds: dict[str, float] = {}
    n_cells, memory_bytes = 0, 0
    for one in job.slides:
        if one.mask is None:
            n_cells += estimate_cells(one.slide, nuclear_marker=job.options.nuclear_marker).n_cells
            continue
        plan = plan_extraction(
            one.slide,
            one.mask,
            patch_size_um=job.patch_size_um,
            min_area_um2=job.options.min_area_um2,
            workers=job.running.workers,
            max_bytes=job.running.max_bytes,
            executor=job.running.executor,
        )
        n_cells += plan.n_cells_of_slide
        memory_bytes = max(memory_bytes, plan.memory_bytes)
        for stage in ("measuring cells", "decoding tiles", "cutting patches"):
            seconds[stage] = seconds.get(stage, 0.0) + plan.seconds[stage]
    return n_cells, memory_bytes, seconds


def _time_encoder(job: Job) -> tuple[int, int, float]:
    """Return the number of features, the number of markers that the encoder sees, and its seconds per cell."""
    recipe = job.options.recipe
    patch_px = PatchGeometry.of(job.images[0], job.patch_size_um).patch_px
    if job.model is not None:
        encoder, n_markers = job.model.encoder, len(job.model.markers)
    else:
        n_markers = len(every_marker([slide.markers for slide in job.images]))
        encoder = make_encoder(recipe.encoder, n_markers, patch_px, width=recipe.encoder_width)
    per_cell = time_encoding(encoder, (n_markers, patch_px, patch_px), device=job.running.device)
    return int(encoder.out_features), n_markers, per_cell  # type: ignore[arg-type]


def _bytes_after_encoder(n_cells: int, n_markers: int, n_measures: int) -> int:
    table = n_cells * (_BYTES_PER_CELL + 4 * n_markers * (1 + n_measures))
    reporting = _BYTES_TO_REPORT + n_cells * 105  # clusters take less
    # A few features at a time; for each marker its ranks, and the neighbourhood intensity around each cell.
    correlating = _BYTES_TO_CORRELATE + n_cells * (40 + 6 * n_markers)
    return table + max(reporting, correlating)
