"""How each option is shown: what the dataclasses cannot say about their fields.

Names, types and defaults come from :class:`~mxsplicer.result.options.Options`, ``Running`` and
:class:`~mxsplicer.splicer.recipe.Recipe`; help, placeholder, heading and whether ``--help`` shows it, from this
table. Its order is that of the help page.
"""

from dataclasses import dataclass
from typing import Any

# Headings of --help, in the order of the work.
INPUT, CELLS, PATCHES, MODEL, SCORES, RUNNING = "Input", "Cells", "Patches", "Model", "Scores", "Running"


@dataclass(frozen=True)
class Shown:
    """One option of the command line.

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
SHOWN: dict[str, Shown] = {
    "mask": Shown(
        INPUT,
        "Label image of the cells; one per slide, or a folder of them. Made from the nuclei where not given.",
        metavar="MASK",
        common=True,
        kind=list[str],
    ),
    "cohort": Shown(
        INPUT,
        "Table of slides. With a column path it names the slides (slide, path, and optionally mask, nuclei, markers, "
        "labels), and a slide that fails is left out; otherwise it describes the slides that were given. Other columns "
        "(patient, batch, ...) go to obs.",
        metavar="TABLE",
        common=True,
    ),
    "nuclei": Shown(
        INPUT,
        "Mask of the nuclei, each with the id of its cell; one per slide, or a folder of them.",
        metavar="MASK",
        kind=list[str],
    ),
    "mask_page": Shown(INPUT, "Page of a mask file that holds several, from 0.", least=0),
    "markers": Shown(
        INPUT,
        "Table of marker names, one row per channel; replaces the names in the file.",
        metavar="TABLE",
        common=True,
    ),
    "rename": Shown(INPUT, "Rename a marker; repeat for several.", metavar="OLD=NEW"),
    "drop": Shown(INPUT, "Leave a marker out of everything; repeat for several.", metavar="MARKER", common=True),
    "pixel_size_um": Shown(INPUT, "Micrometres per pixel, where the file does not state them.", common=True),
    "image": Shown(
        INPUT,
        "Image to read of a file that holds several: its number, from 0, or its name; by default the largest with "
        "several channels.",
        metavar="N|NAME",
    ),
    "panel": Shown(
        INPUT,
        "For slides with different markers: shared trains on the markers of all slides, union on those of any.",
        metavar="same|shared|union",
    ),
    "segmenter": Shown(
        CELLS,
        "cellpose, stardist, instanseg, or module:function from an image (C, Y, X) to labels (Y, X); built in by "
        "default.",
        metavar="NAME",
    ),
    "nuclear_marker": Shown(
        CELLS, "Marker of the nuclei; recognised by its name by default.", metavar="MARKER", common=True
    ),
    "membrane_marker": Shown(
        CELLS, "Marker of the cell membranes, for a segmenter that finds whole cells.", metavar="MARKER"
    ),
    "nucleus_diameter_um": Shown(CELLS, "Typical diameter of a nucleus."),
    "expansion_um": Shown(CELLS, "How far a cell reaches beyond its nucleus.", least=0),
    "min_area_um2": Shown(CELLS, "Smaller cells are left out, and counted in the ledger.", least=0),
    "roi": Shown(
        CELLS,
        "Only cells whose centroid lies in these outlines, as QuPath exports annotations; for several slides a folder "
        "with one file per slide.",
        metavar="GEOJSON",
    ),
    "measure": Shown(
        CELLS,
        "What to measure in addition to the mean; repeat for several: median, sum, std, p90 (a percentile), ring (the "
        "cell's rim), nucleus, surroundings.",
        metavar="NAME",
    ),
    "patch_size_um": Shown(
        PATCHES,
        "Side of the square around each cell; by default that of --model, or what the cells fit into; 32 with "
        "--encoder-area patch.",
        common=True,
        least=0,
    ),
    "keep_patches": Shown(
        PATCHES,
        "Store the patches of every cell and train on all; otherwise only those of the training cells, and none with "
        "--model.",
    ),
    "only_cells": Shown(
        PATCHES, "Stop after embedding the cells, without clusters, scores and report: for `mxsplicer merge`."
    ),
    "model": Shown(
        MODEL, "Run folder of a trained model, or a result; trained here by default.", metavar="RUN", common=True
    ),
    "fill_missing": Shown(
        MODEL,
        "Where a slide lacks a marker of --model, use that marker's mean and flag the cells; otherwise the slide is "
        "refused.",
    ),
    "training_cells": Shown(MODEL, "Train on at most this many cells, over all slides.", least=2),
    "method": Shown(
        MODEL,
        "splicer; or joint (two views of the whole), sigma (each component with the whole), trident (both); or your "
        "class.",
        metavar="NAME",
    ),
    "loss": Shown(
        MODEL,
        "vicreg, simclr, clip, barlow, sigreg or module:Class; NAME=LOSS for one component. Repeat for several.",
        metavar="LOSS",
        kind=list[str],
    ),
    "covariance_scope": Shown(
        MODEL,
        "Whether VICReg decorrelates a feature from its chunk or from the whole embedding.",
        metavar="chunk|embedding",
    ),
    "deconstruct": Shown(
        MODEL,
        "What gets an encoder of its own: marker; pairs (each marker with the nuclei); compartments (rim and interior "
        "of the cell in each marker); groups of markers (a YAML file); regions (cell, neighbours, background); cell "
        "(and surroundings); nucleus (and cytoplasm); mask (and outside); halves; sides; module:function; or "
        "several, as in marker+regions.",
        metavar="NAME|FILE.yaml",
    ),
    "no_component": Shown(
        MODEL,
        "Marker or component without an encoder of its own; the model still sees it. Repeat for several.",
        metavar="NAME",
    ),
    "component_weight": Shown(
        MODEL,
        "Weight of one component's loss, 1 by default: more for a faint marker that matters, such as CD8a=4. Repeat "
        "for several.",
        metavar="NAME=WEIGHT",
        common=True,
        kind=list[str],
    ),
    "redundancy_weight": Shown(
        MODEL, "Weight of the term that keeps chunks from repeating each other; 0 is the paper's.", least=0
    ),
    "consistency_weight": Shown(
        MODEL, "Weight of the loss between two views of each component; 0 is the paper's.", least=0
    ),
    "encoder": Shown(
        MODEL,
        "resnet18, resnet34, resnet50, separable or hybrid; +texture reads early feature maps too, +moments puts "
        "closed-form statistics of the cell first; or module:Class.",
        metavar="NAME",
    ),
    "encoder_width": Shown(MODEL, "Channels of the encoder's first stage; 64 is the paper's ResNet-18.", least=1),
    "encoder_area": Shown(
        MODEL,
        "What the encoder sees: the pixels of the cell, or the whole patch.",
        metavar="cell|patch",
        common=True,
        kind=str,
    ),
    "component_area": Shown(MODEL, "What a component shows: the cell or the whole patch.", metavar="cell|patch"),
    "component_encoder": Shown(MODEL, "lean, or resnet18: the paper's, and slower.", metavar="NAME"),
    "component_width": Shown(MODEL, "Channels of the first stage of each component's encoder.", least=1),
    "components_per_step": Shown(
        MODEL, "Components that are trained in each step, selected round-robin; all by default.", least=1
    ),
    "chunk_width": Shown(
        MODEL,
        "Width of each component's chunk of the embedding; NAME=N for one component; variance or rank makes chunks of "
        "informative components wider. Repeat for several.",
        metavar="N",
        kind=list[str],
    ),
    "controls": Shown(
        MODEL,
        "Marker that shows background alone, for --chunk-width rank; recognised by its name by default.",
        metavar="MARKER",
    ),
    "projector_layers": Shown(MODEL, "Hidden layers between z and the embedding.", least=0),
    "views": Shown(
        MODEL,
        "Geometry of the two views: shared, independent, or spanning (shared for components of several markers); with "
        "+upright, views are not rotated or mirrored.",
        kind=str,
    ),
    "normalization": Shown(
        MODEL,
        "common scales intensities alike on all slides; slide scales each slide by itself, for stainings that differ.",
        metavar="common|slide",
    ),
    "budget": Shown(
        MODEL,
        "Train and embed within this time, baselines included: 90s, 30m, 2h. The other stages come on top.",
        metavar="TIME",
        common=True,
        kind=str | None,
    ),
    "epochs": Shown(MODEL, "Passes over the training cells; by default 3, but 100 to 2,000 steps.", least=1),
    "max_steps": Shown(MODEL, "Steps of training at most.", least=1),
    "batch_size": Shown(MODEL, "Cells per training step.", least=2),
    "accumulate": Shown(
        MODEL, "Split a batch into this many parts where memory is short; the loss is that of a part.", least=1
    ),
    "learning_rate": Shown(MODEL, "Peak learning rate of AdamW."),
    "weight_decay": Shown(MODEL, "Weight decay of AdamW.", least=0),
    "labels": Shown(
        SCORES, "Table of labels, one row per cell: the embedding is scored on them.", metavar="TABLE", common=True
    ),
    "score": Shown(
        SCORES,
        "Column of --labels to score; every column of words by default. Repeat for several.",
        metavar="COLUMN",
        common=True,
    ),
    "fold_by": Shown(
        SCORES,
        "Column of --cohort whose values stay together in a fold, such as patient.",
        metavar="COLUMN",
        common=True,
    ),
    "baselines": Shown(SCORES, "Where there are labels, also score an untrained encoder and joint embedding."),
    "harmony": Shown(
        SCORES,
        "Integrate batches with Harmony before clustering: slide, or a column of --cohort. Needs harmonypy.",
        metavar="COLUMN",
    ),
    "per_slide": Shown(SCORES, "For several slides, also write an AnnData of each."),
    "device": Shown(RUNNING, "auto, cpu, cuda, cuda:N or mps.", common=True),
    "workers": Shown(RUNNING, "Number of workers; at most 4 by default.", least=1),
    "executor": Shown(
        RUNNING,
        "What the workers are: threads, processes, or a dask cluster by its address.",
        metavar="threads|processes|tcp://...",
    ),
    "max_memory": Shown(
        RUNNING,
        "Limit for the memory of the whole command; it works slower in less.",
        metavar="2G",
        common=True,
        kind=str | None,
    ),
    "seed": Shown(RUNNING, "The same seed gives the same result.", least=0),
}
