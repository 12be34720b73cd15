"""The help pages: how each option is shown, which the dataclasses of the options do not define.

Names, types and defaults come from :class:`~mxsplicer.result.options.Options`, ``Running`` and
:class:`~mxsplicer.splicer.recipe.Recipe`; help, placeholder, heading and whether ``--help`` shows it, from this
table. Its order is that of the help page.
"""

from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, get_args, get_origin

# Headings of --help, in the order of the work.
INPUT, CELLS, PATCHES, MODEL, SCORES, RUNNING = "Input", "Cells", "Patches", "Model", "Scores", "Running"


@dataclass(frozen=True)
class OptionHelp:
    """How the help pages show one option.

    Attributes
    ----------
    panel, help, metavar
        Heading, sentence and placeholder on the help page.
    common
        Whether ``--help`` of ``embed`` and ``train`` shows it; ``--help-all`` shows all.
    kind
        Type of what is typed, where the field has another.
    least
        Smallest number that is accepted.
    """

    panel: str
    help: str
    metavar: str | None = None
    common: bool = False
    kind: Any = None
    least: float | None = None


# By the option's name, with underscores.
OPTIONS: dict[str, OptionHelp] = {
    "mask": OptionHelp(
        INPUT,
        "Label image of the cells; one per slide, or a folder of them. Made from the nuclei where not given.",
        metavar="MASK",
        common=True,
        kind=list[str],
    ),
    "cohort": OptionHelp(
        INPUT,
        "Table of slides. With a column path it names the slides (slide, path, and optionally mask, nuclei, markers, "
        "labels), and a slide that fails is left out; otherwise it describes the slides that were given. Other columns "
        "(patient, batch, ...) go to obs.",
        metavar="TABLE",
        common=True,
    ),
    "nuclei": OptionHelp(
        INPUT,
        "Mask of the nuclei, with the ids of their cells or matched by overlap; one per slide, or a folder of them.",
        metavar="MASK",
        kind=list[str],
    ),
    "mask_page": OptionHelp(INPUT, "Page of a mask file that holds several, from 0.", least=0),
    "nuclei_page": OptionHelp(INPUT, "The same of the file of nuclei; 1 in a file of Mesmer.", least=0),
    "markers": OptionHelp(
        INPUT,
        "Table of marker names, one row per channel; replaces the names in the file.",
        metavar="TABLE",
        common=True,
    ),
    "rename": OptionHelp(INPUT, "Rename a marker; repeat for several.", metavar="OLD=NEW"),
    "drop": OptionHelp(INPUT, "Leave a marker out of everything; repeat for several.", metavar="MARKER", common=True),
    "pixel_size_um": OptionHelp(INPUT, "Micrometres per pixel, where the file does not state them.", common=True),
    "image": OptionHelp(
        INPUT,
        "Image to read of a file that holds several: its number, from 0, or its name; by default the largest with "
        "several channels.",
        metavar="N|NAME",
    ),
    "panel": OptionHelp(
        INPUT,
        "For slides with different markers: shared trains on the markers of all slides, union on those of any.",
        metavar="same|shared|union",
    ),
    "segmenter": OptionHelp(
        CELLS,
        "cellpose, stardist, instanseg, or module:function from an image (C, Y, X) to labels (Y, X); built in by "
        "default.",
        metavar="NAME",
    ),
    "nuclear_marker": OptionHelp(
        CELLS, "Marker of the nuclei; recognised by its name by default.", metavar="MARKER", common=True
    ),
    "membrane_marker": OptionHelp(
        CELLS, "Marker of the cell membranes, for a segmenter that finds whole cells.", metavar="MARKER"
    ),
    "nucleus_diameter_um": OptionHelp(CELLS, "Typical diameter of a nucleus."),
    "expansion_um": OptionHelp(CELLS, "How far a cell reaches beyond its nucleus.", least=0),
    "min_area_um2": OptionHelp(CELLS, "Smaller cells are left out, and counted in the ledger.", least=0),
    "roi": OptionHelp(
        CELLS,
        "Only cells whose centroid lies in these outlines, as QuPath exports annotations; for several slides a folder "
        "with one file per slide.",
        metavar="GEOJSON",
    ),
    "measure": OptionHelp(
        CELLS,
        "What to measure in addition to the mean; repeat for several: median, sum, std, p90 (a percentile), ring (the "
        "cell's rim), nucleus, surroundings.",
        metavar="NAME",
    ),
    "patch_size_um": OptionHelp(
        PATCHES,
        "Side of the square around each cell; by default that of --model, or what the cells fit into; 32 with "
        "--encoder-area patch.",
        common=True,
        least=0,
    ),
    "keep_patches": OptionHelp(
        PATCHES,
        "Store the patches of every cell and train on all; otherwise only those of the training cells, and none with "
        "--model.",
    ),
    "only_cells": OptionHelp(
        PATCHES, "Stop after embedding the cells, without clusters, scores and report: for `mxsplicer merge`."
    ),
    "model": OptionHelp(
        MODEL,
        "Run folder of a model, or a result, to whose cells these can be compared then. The default, builtin, trains "
        "nothing and measures its scales on these slides; an option of the training trains one.",
        metavar="RUN",
        common=True,
    ),
    "train": OptionHelp(MODEL, "Train a model on these slides, which adds learned features.", common=True),
    "fill_missing": OptionHelp(
        MODEL,
        "Where a slide lacks a marker of --model, use that marker's mean and flag the cells; otherwise the slide is "
        "refused.",
    ),
    "training_cells": OptionHelp(MODEL, "Train on at most this many cells, over all slides.", least=2),
    "method": OptionHelp(
        MODEL,
        "splicer; or joint (two views of the whole), sigma (each component with the whole), trident (both); or your "
        "class.",
        metavar="NAME",
    ),
    "loss": OptionHelp(
        MODEL,
        "vicreg, simclr, sigreg or module:Class; NAME=LOSS for one component. Repeat for several.",
        metavar="LOSS",
        kind=list[str],
    ),
    "deconstruct": OptionHelp(
        MODEL,
        "What gets an encoder of its own: marker; compartments (rim and interior "
        "of the cell in each marker); groups of markers (a YAML file); regions (cell, neighbours, background); cell "
        "(and surroundings); nucleus (and cytoplasm); mask (and outside); halves; sides; module:function; or "
        "several, as in marker+regions.",
        metavar="NAME|FILE.yaml",
    ),
    "no_component": OptionHelp(
        MODEL,
        "Marker or component without an encoder of its own; the model still sees it. Repeat for several.",
        metavar="NAME",
    ),
    "component_weight": OptionHelp(
        MODEL,
        "Weight of one component's loss, 1 by default: more for a faint marker that matters, such as CD8a=4. Repeat "
        "for several.",
        metavar="NAME=WEIGHT",
        kind=list[str],
    ),
    "redundancy_weight": OptionHelp(
        MODEL, "Weight of the term that keeps chunks from repeating each other; 0 is the paper's.", least=0
    ),
    "consistency_weight": OptionHelp(
        MODEL, "Weight of the loss between two views of each component; 0 is the paper's.", least=0
    ),
    "encoder": OptionHelp(
        MODEL,
        "resnet18, resnet34, resnet50, separable or hybrid; +texture reads early feature maps too, +moments puts "
        "closed-form statistics of the cell first; or module:Class.",
        metavar="NAME",
    ),
    "encoder_width": OptionHelp(MODEL, "Channels of the encoder's first stage; 64 is the paper's ResNet-18.", least=1),
    "encoder_area": OptionHelp(
        MODEL,
        "What the encoder sees: the pixels of the cell, or the whole patch.",
        metavar="cell|patch",
        common=True,
        kind=str,
    ),
    "component_area": OptionHelp(MODEL, "What a component shows: the cell or the whole patch.", metavar="cell|patch"),
    "component_encoder": OptionHelp(MODEL, "lean, or resnet18: the paper's, and slower.", metavar="NAME"),
    "component_width": OptionHelp(MODEL, "Channels of the first stage of each component's encoder.", least=1),
    "components_per_step": OptionHelp(
        MODEL, "Components that are trained in each step, selected round-robin; all by default.", least=1
    ),
    "chunk_width": OptionHelp(
        MODEL,
        "Width of each component's chunk of the embedding; NAME=N for one component. Repeat for several.",
        metavar="N",
        kind=list[str],
    ),
    "projector_layers": OptionHelp(MODEL, "Hidden layers between z and the embedding.", least=0),
    "views": OptionHelp(
        MODEL,
        "Geometry of the two views: shared or independent; with +upright, views are not rotated or mirrored.",
        kind=str,
    ),
    "normalization": OptionHelp(
        MODEL,
        "gain brings slides to one brightness per marker, at most threefold, before they are scaled alike; common does "
        "not.",
        metavar="gain|common",
    ),
    "budget": OptionHelp(
        MODEL,
        "Train and embed within this time, baselines included: 90s, 30m, 2h. The other stages come on top.",
        metavar="TIME",
        common=True,
        kind=str | None,
    ),
    "epochs": OptionHelp(MODEL, "Passes over the training cells; by default 3, but 100 to 2,000 steps.", least=1),
    "max_steps": OptionHelp(MODEL, "Steps of training at most.", least=1),
    "batch_size": OptionHelp(MODEL, "Cells per training step.", least=2),
    "accumulate": OptionHelp(
        MODEL, "Split a batch into this many parts where memory is short; the loss is that of a part.", least=1
    ),
    "learning_rate": OptionHelp(MODEL, "Peak learning rate of AdamW."),
    "weight_decay": OptionHelp(MODEL, "Weight decay of AdamW.", least=0),
    "labels": OptionHelp(
        SCORES, "Table of labels, one row per cell: the embedding is scored on them.", metavar="TABLE", common=True
    ),
    "score": OptionHelp(
        SCORES,
        "Column of --labels to score; every column of words by default. Repeat for several.",
        metavar="COLUMN",
        common=True,
    ),
    "fold_by": OptionHelp(
        SCORES,
        "Column of --cohort whose values stay together in a fold, such as patient.",
        metavar="COLUMN",
        common=True,
    ),
    "baselines": OptionHelp(SCORES, "Where there are labels, also score an untrained encoder and joint embedding."),
    "harmony": OptionHelp(
        SCORES,
        "Integrate batches with Harmony before clustering: slide, or a column of --cohort. Needs harmonypy.",
        metavar="COLUMN",
    ),
    "per_slide": OptionHelp(SCORES, "For several slides, also write an AnnData of each."),
    "device": OptionHelp(RUNNING, "auto, cpu, cuda, cuda:N or mps.", common=True),
    "workers": OptionHelp(RUNNING, "Number of workers; at most 4 by default.", least=1),
    "executor": OptionHelp(
        RUNNING,
        "What the workers are: threads, processes, or a dask cluster by its address.",
        metavar="threads|processes|tcp://...",
    ),
    "max_memory": OptionHelp(
        RUNNING,
        "Limit for the memory of the whole command; it works slower in less.",
        metavar="2G",
        common=True,
        kind=str | None,
    ),
    "seed": OptionHelp(RUNNING, "The same seed gives the same result.", least=0),
}


def in_help_order(parameters: list[Parameter]) -> list[Parameter]:
    """Return typer's parameters by the order of their headings on the help page; those without a heading come first."""
    panels = list(dict.fromkeys(["", *(one.panel for one in OPTIONS.values())]))

    def place(parameter: Parameter) -> int:
        annotation = parameter.annotation
        info = get_args(annotation)[1] if get_origin(annotation) is Annotated else None
        panel = getattr(info, "rich_help_panel", None)
        return panels.index(panel) if panel in panels else 0

    return sorted(parameters, key=place)
