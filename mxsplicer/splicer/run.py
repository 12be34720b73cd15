"""The run folder: a trained encoder with everything that is needed to use it elsewhere.

``config.json`` (markers, patch and pixel size, normalisation, encoder, settings), ``model.safetensors`` (weights of the
primary encoder), ``projector.safetensors`` (weights of the projector from z to e), ``README.md`` (model card),
``log.jsonl`` and ``log.csv`` (log of the training). The folder contains no code, and reading it runs none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.images.markers import side_by_side
from mxsplicer.images.units import same_scale
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.moments import Moments, WithMoments
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.system.fingerprints import fingerprint, fingerprint_arrays
from mxsplicer.system.imports import is_importable

_VERSION = 3
RUN_FILES = ("config.json", "model.safetensors", "projector.safetensors", "README.md", "log.jsonl", "log.csv")


@dataclass(frozen=True, eq=False)
class Run:
    """A primary encoder and what it was trained on.

    Attributes
    ----------
    markers
        Names of the channels, in the order in which the encoder takes them.
    patch_px, pixel_size_um
        Side of a patch and size of its pixels: a slide of another pixel size needs another model.
    settings
        Settings of the training, as given and as resolved.
    results
        Last measures of the training, by name; empty if none were logged.
    projector
        Weights of the projector from z to e, by name; empty in older runs. Embedding does not use them.
    """

    encoder: nn.Module
    normalization: Normalization
    markers: tuple[str, ...]
    patch_px: int
    pixel_size_um: float
    settings: dict[str, Any]
    path: Path | None = None
    results: dict[str, float] = field(default_factory=dict)
    projector: dict[str, Tensor] = field(default_factory=dict)

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return int(self.encoder.out_features)  # type: ignore[arg-type]

    @property
    def feature_names(self) -> list[str]:
        """What each column of z is, in words; empty if the encoder has no names for them."""
        return self.encoder.names(self.markers) if isinstance(self.encoder, Moments | WithMoments) else []

    @property
    def is_trained(self) -> bool:
        """Whether the encoder has weights that were trained; those of moments alone are measured."""
        return any(True for _ in self.encoder.parameters())

    @property
    def method(self) -> str:
        """Name of the objective; for a user's class, its name in lower case."""
        return str(self.settings["method"]).rpartition(":")[2].lower()

    @property
    def has_chunks(self) -> bool:
        """Whether each component has its own columns of e; in older runs, whether the method is SpliCER."""
        return bool(self.settings.get("has_chunks", self.method == "splicer"))

    @property
    def hides_surroundings(self) -> bool:
        """Whether the encoder sees only the pixels of the cell."""
        return bool(self.settings["surroundings"] == "hide")

    @property
    def fills_missing(self) -> bool:
        """Whether it was trained on slides that lacked markers, and so accepts slides that do."""
        return bool(self.settings.get("panel") == "union")

    def chunk_shares(self, z: np.ndarray) -> np.ndarray | None:
        """Return the share of each feature of z that goes to each chunk of e, (d, n) float32.

        One linear layer leads from z to e, so the variance of an element e_r over cells is the sum over features j of
        w_rj cov(z_j, e_r), the contribution of j. The share of a chunk is the contribution of j to its elements,
        divided by its contribution to those of all chunks; negative contributions count as 0. Each row sums to 1; that
        of a feature that contributes to no chunk is 0.

        None without chunks that belong to components (joint embedding, sigma, trident), with hidden layers, and in runs
        without the projector.

        Parameters
        ----------
        z
            The representation (cells, d) of at least two cells; reliable shares need thousands.
        """
        if not self.projector or not self.has_chunks or self.settings["projector_layers"] or len(z) < 2:
            return None
        weights = {name: tensor.double().cpu().numpy() for name, tensor in self.projector.items()}
        scale = weights["0.weight"] / np.sqrt(weights["0.running_var"] + nn.BatchNorm1d(1).eps)
        w = weights["1.weight"] * scale  # (D, d)
        added = np.maximum(w * (w @ np.cov(z, rowvar=False)), 0)
        ends = np.cumsum(self.settings["chunk_widths"])
        of_chunks = np.add.reduceat(added, [0, *ends[:-1]], axis=0).T  # (d, n)
        total = of_chunks.sum(axis=1, keepdims=True)
        shares: np.ndarray = np.divide(of_chunks, total, out=np.zeros_like(of_chunks), where=total > 0)
        return shares.astype(np.float32)

    def normalize(
        self,
        patches: np.ndarray,
        regions: np.ndarray,
        *,
        missing: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return patches (B, C, P, P) as the encoder takes them, (B, C, P, P) float32 on ``device``.

        The ``missing`` markers, by index, are set to their mean over the training cells, whatever is in the patches.
        """
        x = self.normalization(patches, regions if self.hides_surroundings else None, device=device)
        if missing:
            x[:, list(missing)] = 0
        return x

    def fingerprint(self) -> str:
        """Return the fingerprint of the weights."""
        assert self.path is not None, "only a saved run has a fingerprint"
        return fingerprint(self.path / "model.safetensors")


def save_run(run: Run, path: Path) -> None:
    """Write a run into the existing folder ``path``."""
    config = {
        "format": "mxsplicer run",
        "version": _VERSION,
        "markers": list(run.markers),
        "patch_px": run.patch_px,
        "pixel_size_um": run.pixel_size_um,
        "normalization": run.normalization.to_dict(),
        "settings": run.settings,
        "results": run.results,
    }
    (path / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    for file, weights in (("model", run.encoder.state_dict()), ("projector", run.projector)):
        if weights:
            on_cpu = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
            save_file(on_cpu, path / f"{file}.safetensors")
    (path / "README.md").write_text(_model_card(run), encoding="utf-8")


def load_run(path: str | Path, *, encoder: str = "") -> Run:
    """Open a run folder, or a result folder that contains a run, on the CPU.

    Parameters
    ----------
    encoder
        For a run that was trained with a user's class: that class, ``"module:Class"``. It is imported because you name
        it here, never because the folder does. Other runs do not need it.

    Raises
    ------
    InputError
        If the folder is not a run or is damaged, or its encoder is a class that is not given.
    """
    path = Path(path)
    path = path / "run" if (path / "run" / "config.json").is_file() else path
    if not (path / "config.json").is_file():
        msg = f"{path} is not a run folder: it has no config.json."
        raise InputError(msg, "Make one with `mxsplicer train`.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if config.get("format") != "mxsplicer run" or config["version"] > _VERSION:
            msg = f"{path} was written by another version of mxsplicer (format {config.get('version')})."
            raise InputError(msg, "Update mxsplicer.")
        settings, markers = config["settings"], tuple(config["markers"])
        _check_is_current(path, config["version"], settings)
        if is_importable(settings["encoder"]):
            settings["encoder"] = _trusted(path, settings["encoder"], encoder)
        module = make_encoder(settings["encoder"], len(markers), config["patch_px"], width=settings["encoder_width"])
        module.load_state_dict(load_file(path / "model.safetensors"))
        projector = path / "projector.safetensors"
        return Run(
            encoder=module.eval(),
            normalization=Normalization.from_dict(config["normalization"]),
            markers=markers,
            patch_px=config["patch_px"],
            pixel_size_um=config["pixel_size_um"],
            settings=settings,
            path=path,
            results=config.get("results", {}),
            projector=load_file(projector) if projector.is_file() else {},
        )
    except (json.JSONDecodeError, KeyError, TypeError, OSError, SafetensorError, RuntimeError) as error:
        msg = f"run folder {path} is damaged ({type(error).__name__}: {error})."
        raise InputError(msg, "Copy it again, or train again.") from error


def _check_is_current(path: Path, version: int, settings: Mapping[str, Any]) -> None:
    """Raise if a run was written by a version whose encoder or normalisation of this name was another one."""
    if (version < _VERSION and str(settings["encoder"]).endswith("+moments")) or (
        settings.get("normalization") == "slide"
    ):
        msg = f"the model in {path} was trained by an earlier version of mxsplicer, whose encoder was another one."
        raise InputError(msg, "Train again.")


def _trusted(path: Path, named: str, given: str) -> str:
    if not is_importable(given):
        msg = f"the encoder of run {path} is its author's class {named}, and no code is run because a file names it."
        raise InputError(msg, f"If you have this class and trust it, pass `encoder={named!r}`.")
    return given


def untrained(run: Run, *, seed: int = 0) -> Run:
    """Return a copy of a run with an untrained encoder: the baseline that any training must beat.

    The copy of a run without training is the run itself.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = run.settings
        encoder = make_encoder(settings["encoder"], len(run.markers), run.patch_px, width=settings["encoder_width"])
    if isinstance(encoder, WithMoments) and isinstance(run.encoder, WithMoments):
        encoder.reset(run.encoder)
    if not run.is_trained:
        encoder.load_state_dict(run.encoder.state_dict())
    return Run(encoder.eval(), run.normalization, run.markers, run.patch_px, run.pixel_size_um, settings)


def channels_of_run(
    run: Run,
    slide_name: str,
    markers: Sequence[str],
    patch_px: int,
    pixel_size_um: float,
    *,
    in_file: Sequence[str] = (),
    fill_missing: bool = False,
) -> list[int]:
    """Return the channel of a slide for each marker of a run, or raise if one is missing.

    The message shows the names of the slide and the model in two columns, and those ``in_file`` if the user renamed
    them. With ``fill_missing`` a missing marker has channel -1 instead, unless all are missing.
    """
    missing = [marker for marker in run.markers if marker not in markers]
    if missing and (not fill_missing or len(missing) == len(run.markers)):
        raise InputError(_difference(run, slide_name, markers, missing, in_file))
    if not same_scale(pixel_size_um, run.pixel_size_um):
        msg = (
            f"slide {slide_name!r} has pixels of {pixel_size_um:g} µm and the model was trained on "
            f"{run.pixel_size_um:g} µm."
        )
        raise InputError(msg, "Use a slide or pyramid level of that pixel size, or train a model on this one.")
    if patch_px != run.patch_px:
        msg = f"patches of slide {slide_name!r} are {patch_px} px wide and the model takes {run.patch_px} px."
        raise InputError(msg, f"Cut them with `patch_size_um={run.patch_px * pixel_size_um:g}`.")
    places = {marker: channel for channel, marker in enumerate(markers)}
    return [places.get(marker, -1) for marker in run.markers]


def _difference(
    run: Run, slide_name: str, markers: Sequence[str], missing: Sequence[str], in_file: Sequence[str]
) -> str:
    extra = [marker for marker in markers if marker not in run.markers]
    likely = {marker: get_close_matches(marker, extra, n=1) for marker in missing}
    renames = {close[0]: marker for marker, close in likely.items() if close}
    hint = (
        f"If only the names differ, pass `rename={renames}`"
        if renames
        else "Name the slide's channels as the model does"
    )
    names = [markers] if tuple(in_file) in ((), tuple(markers)) else [in_file, markers]
    headings = [*("in the file", "on the slide")[-len(names) :], "in the model"]
    rows = [
        (str(channel), *of_slide, of_slide[-1] if of_slide[-1] in run.markers else "")
        for channel, of_slide in enumerate(zip(*names, strict=True), start=1)
    ]
    rows += [("", *[""] * len(names), marker) for marker in missing]
    return (
        f"the model needs markers that slide {slide_name!r} lacks: {', '.join(missing)}."
        f"{' Of the slide, the model does not know: ' + ', '.join(extra) + '.' if extra else ''}"
        f" {hint}; or train a model on this panel. Rows that differ are marked:\n{side_by_side(rows, headings)}"
    )


def _model_card(run: Run) -> str:
    """Return the README of a run folder: a model card, front matter of fixed words, then what a user asks."""
    settings, scale = run.settings, run.normalization
    ranges = zip(run.markers, scale.low.tolist(), scale.high.tolist(), strict=True)
    markers = _table(
        ("", "marker", "intensity"), [(i, m, f"{a:.4g} to {b:.4g}") for i, (m, a, b) in enumerate(ranges, 1)]
    )
    results = _table(("at the end of the training", ""), [(name, f"{v:.4g}") for name, v in run.results.items()])
    return f"""---
library_name: mxsplicer
pipeline_tag: image-feature-extraction
tags:
- multiplex-imaging
- spatial-proteomics
- single-cell
- self-supervised-learning
---

# Encoder of single cells in multiplex images

It encodes the patch of a cell, {len(run.markers)} markers in {run.patch_px} x {run.patch_px} px of
{run.pixel_size_um:g} µm, as {run.features} features.

## Use

    mxsplicer embed SLIDE --model {run.path.name if run.path else "RUN"}

or in Python `mxsplicer.load_run(...)` and `mxsplicer.embed(...)`. The folder contains data and no code.

## Input

The slide needs all of these markers, matched by name, and pixels of {run.pixel_size_um:g} µm, within 5 %.
Intensities are clipped to the range below, transformed to log(1 + x), and centred and scaled by mean and standard
deviation over the training cells.

{markers}

## Training

{_describe_training(run)}

{_table(("setting", "value"), settings.items())}

## Results

{results if run.results else "None were recorded."}

How well features distinguish cells depends on the tissue and the question: `mxsplicer embed --labels` scores them next
to mean intensities.

## Limits

- For slides of the same panel, stained and imaged alike. Other antibodies, instruments or tissues shift the features;
  check whether the slide can be predicted from them before comparing slides.
- It sees only the markers above, and no difference between intensities outside the ranges above.
- A research tool, not for diagnosis.
"""


def _describe_training(run: Run) -> str:
    settings, slides = run.settings, run.settings["slides"]
    cells = f"{settings['n_cells']:,} cells of {len(slides)} slide{'s' * (len(slides) > 1)}"
    cells += f" ({', '.join(map(str, slides))})"
    if not run.is_trained:
        return f"Nothing was trained: z is moments of the pixels of a cell. Their scales were measured on\n{cells}."
    steps = f"for {settings['steps']:,} steps of {settings['batch_size']} cells, without labels."
    return f"Trained by `{run.method}` on {cells}, {steps}\n{_METHODS.get(run.method, '')}"


_METHODS = {
    "splicer": "SpliCER has a joint-embedding loss between each chunk of the embedding and one component of the patch \
(Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444).",
    "joint": "Joint embedding has a loss between two views of a cell.",
    "sigma": "Sigma-JE has a loss between the whole embedding and each component of the patch (arXiv 2503.07444).",
    "trident": "TriDeNT has losses between two views of a cell, and between each view and each component of the patch \
(Farndale, Insall, Yuan, arXiv 2312.02111).",
}


def _table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(word).replace("|", "\\|") for word in line) + " |" for line in lines)


def weights_digest(encoder: torch.nn.Module) -> str:
    """Return 16 hexadecimal digits that identify the weights of the encoder of a run."""
    weights = encoder.state_dict().items()
    return fingerprint_arrays(one for name, tensor in weights for one in (name.encode(), tensor.cpu().numpy()))
