"""The run folder: a trained encoder with all that is needed to use it elsewhere.

``config.json`` (markers, patch and pixel size, normalisation, encoder, settings), ``model.safetensors`` (weights of the
primary encoder), ``projector.safetensors`` (weights from z to the embedding e that the loss was on), ``README.md``
(model card), ``log.jsonl`` and ``log.csv`` (how it was trained). Nothing in it is code, and reading it runs none.
"""

import json
from collections.abc import Iterable, Sequence
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
from mxsplicer.splicer.batches import Normalization
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.imports import is_importable

_VERSION = 1
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
        What the run was trained with, as given and as resolved.
    results
        What the log said at the end of the training, by name; a run may have none.
    projector
        Weights from z to the embedding e, by name; none in a run from before they were kept. Embedding has no use for
        them.
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
    def method(self) -> str:
        """The objective it was trained with; of a class of someone's own, its name in lower case."""
        return str(self.settings["method"]).rpartition(":")[2].lower()

    @property
    def has_chunks(self) -> bool:
        """Whether runs of columns of the embedding belong to components: in a run that does not say, SpliCER's do."""
        return bool(self.settings.get("has_chunks", self.method == "splicer"))

    @property
    def hides_surroundings(self) -> bool:
        """Whether the encoder sees the pixels of the cell alone."""
        return bool(self.settings["surroundings"] == "hide")

    @property
    def fills_missing(self) -> bool:
        """Whether it was trained on slides of which some lacked markers, and so knows of their absence."""
        return bool(self.settings.get("panel") == "union")

    def chunk_shares(self, z: np.ndarray) -> np.ndarray | None:
        """Return how each feature is shared out among the chunks of e, (d, n) float32.

        From z to e leads one linear layer, so the variance of an element e_r over cells is the sum over features j of
        w_rj cov(z_j, e_r), which is what j adds to it. The share of a chunk is what j adds to its elements, over what j
        adds to those of all chunks; where j takes away what other features bring, it adds nothing. Each row sums to 1;
        that of a feature that adds nothing anywhere is 0.

        None where no chunk belongs to a component (joint embedding, sigma, trident), behind hidden layers, and of a run
        from before the projector was kept.

        Parameters
        ----------
        z
            The representation (cells, d) of two cells or more: thousands, for shares to rely on.
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

        Markers whose numbers are ``missing`` are shown at their mean over the training cells, whatever patches hold.
        """
        x = self.normalization(patches, regions if self.hides_surroundings else None, device=device)
        if missing:
            x[:, list(missing)] = 0
        return x

    def fingerprint(self) -> str:
        """Return a short name of the weights."""
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
    """Open a run folder, or the result folder that holds one, on the CPU.

    Parameters
    ----------
    encoder
        Of a run that was trained with a class of someone's own, that class, ``"module:Class"``. It is imported because
        you name it here, and never because the folder does. Other runs have no need of it.

    Raises
    ------
    InputError
        If it is no run folder, is damaged, or its encoder is a class that was not given.
    """
    path = Path(path)
    path = path / "run" if (path / "run" / "config.json").is_file() else path
    if not (path / "config.json").is_file():
        msg = f"{path} is not a run folder: it has no config.json. Make one with `mxsplicer train`."
        raise InputError(msg)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if config.get("format") != "mxsplicer run" or config["version"] > _VERSION:
            msg = f"{path} was written by another version of mxsplicer (format {config.get('version')}): update it."
            raise InputError(msg)
        settings, markers = config["settings"], tuple(config["markers"])
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
        msg = f"run folder {path} is damaged ({type(error).__name__}: {error}). Copy it again or train anew."
        raise InputError(msg) from error


def _trusted(path: Path, named: str, given: str) -> str:
    if not is_importable(given):
        msg = (
            f"the encoder of run {path} is a class of its author's own, {named}, and no code is run because a file "
            "names it."
        )
        raise InputError(msg, f"If you trust it and have it here, pass `encoder={named!r}`.")
    return given


def untrained(run: Run, *, seed: int = 0) -> Run:
    """Return a copy of a run whose encoder never learned: the baseline that any training has to beat."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = run.settings
        encoder = make_encoder(settings["encoder"], len(run.markers), run.patch_px, width=settings["encoder_width"])
    return Run(encoder.eval(), run.normalization, run.markers, run.patch_px, run.pixel_size_um, settings)


def check_panel(
    run: Run,
    slide_name: str,
    markers: Sequence[str],
    patch_px: int,
    pixel_size_um: float,
    *,
    in_file: Sequence[str] = (),
    fill_missing: bool = False,
) -> list[int]:
    """Return the slide's channel for each marker of the run, matched by name, or raise where one is missing.

    The message shows the names of the slide and the model side by side; and those ``in_file``, where the user gave
    others. With ``fill_missing`` a marker that is missing has channel -1 instead, unless all are.
    """
    missing = [marker for marker in run.markers if marker not in markers]
    if missing and (not fill_missing or len(missing) == len(run.markers)):
        raise InputError(_difference(run, slide_name, markers, missing, in_file))
    if abs(pixel_size_um / run.pixel_size_um - 1) > 0.05:
        msg = (
            f"slide {slide_name!r} has pixels of {pixel_size_um:g} µm and the model was trained on "
            f"{run.pixel_size_um:g} µm. Give a slide or pyramid level of that pixel size, or train a model on this one."
        )
        raise InputError(msg)
    if patch_px != run.patch_px:
        msg = (
            f"patches of slide {slide_name!r} are {patch_px} px wide and the model takes {run.patch_px} px: leave "
            f"--patch-size-um out, or give {run.settings['patch_size_um']:g}."
        )
        raise InputError(msg)
    places = {marker: channel for channel, marker in enumerate(markers)}
    return [places.get(marker, -1) for marker in run.markers]


def _difference(
    run: Run, slide_name: str, markers: Sequence[str], missing: Sequence[str], in_file: Sequence[str]
) -> str:
    extra = [marker for marker in markers if marker not in run.markers]
    likely = {marker: get_close_matches(marker, extra, n=1) for marker in missing}
    renames = " ".join(f"--rename '{close[0]}={marker}'" for marker, close in likely.items() if close)
    hint = f"If only the names differ, give {renames}" if renames else "Name the slide's channels as the model does"
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
    """Return the card in the form of the Hugging Face hub: a front matter of fixed words, then what a user asks."""
    settings, scale = run.settings, run.normalization
    slides = settings["slides"]
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

It turns the picture of a cell, {len(run.markers)} markers in {run.patch_px} x {run.patch_px} px of
{run.pixel_size_um:g} µm, into {run.features} numbers.

## Use

    mxsplicer embed SLIDE --model {run.path.name if run.path else "RUN"}

or in Python `mxsplicer.load_run(...)` and `mxsplicer.embed(...)`. The folder holds data and no code.

## Input

The slide needs all of these markers, found by name, and pixels of {run.pixel_size_um:g} µm, within 5 %.
Intensities are clipped to the range given, their logarithm is taken, and they are centred and scaled by mean and
standard deviation over the training cells.

{markers}

## Training

Trained by `{run.method}` on {settings["n_cells"]:,} cells of {len(slides)} slide{"s" * (len(slides) > 1)}
({", ".join(map(str, slides))}), for {settings["steps"]:,} steps of {settings["batch_size"]} cells, without labels.
{_METHODS.get(run.method, "")}

{_table(("setting", "value"), settings.items())}

## Results

{results if run.results else "None were recorded."}

How well features tell cells apart depends on the tissue and the question: `mxsplicer embed --labels` scores them beside
mean intensities.

## Limits

- For slides of the same panel, stained and imaged alike. Other antibodies, instruments or tissues shift the features;
  look whether the slide can be read from them before comparing slides.
- It sees nothing beyond the markers above, and no difference between intensities beyond the ranges above.
- A research tool, not for diagnosis.
"""


_METHODS = {
    "splicer": "SpliCER holds a chunk of the embedding to each component of the patch (Farndale, Henderson, Roberts, \
Yuan, arXiv 2503.07444).",
    "joint": "Joint embedding holds two views of a cell to each other.",
    "sigma": "Sigma-JE holds the whole embedding to each component of the patch (arXiv 2503.07444).",
    "trident": "TriDeNT holds two views of a cell to each other and to each component of the patch (Farndale, Insall, \
Yuan, arXiv 2312.02111).",
}


def _table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(word).replace("|", "\\|") for word in line) + " |" for line in lines)
