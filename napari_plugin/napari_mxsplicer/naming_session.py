"""The queue of cells to name next, kept in step with the names that the user gives, and views of those cells."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import numpy as np
import pandas as pd

from mxsplicer import open_h5ad
from mxsplicer.pl import draw_cell
from mxsplicer.tl import CellClassifier, NamingQueue, Predictions, Proposal, predict_all, read_features
from napari_mxsplicer.clusters import Cluster, draw_examples, markers_in, shown_markers
from napari_mxsplicer.exemplars import HEADROOM, colors_of, cut_cells
from napari_mxsplicer.layers import OpenedSlide, open_slide
from napari_mxsplicer.names import Names
from napari_mxsplicer.study import Study

_SEEDS = 20  # cells of each named cluster that train, until cells of it are named one by one
_MOST_MARKERS = 8  # shown one by one
_SCALE = 3  # pixels of an image for one pixel of the slide


@dataclass(frozen=True, eq=False)
class Answered:
    """What the panel shows after an answer."""

    proposals: Sequence[Proposal]
    progress: str
    classifier: CellClassifier | None
    n_of_clusters: int  # cells that train with the name of their cluster

    def describe(self) -> str:
        """Return how accurate the classifier is, and what that says; "" without one."""
        if self.classifier is None:
            return ""
        found = self.classifier.describe()
        if self.n_of_clusters:
            found += (
                f" {self.n_of_clusters:,} of the named cells have the name of their cluster: for them, the accuracy is "
                "agreement with the clusters."
            )
        return found


@dataclass(frozen=True, eq=False)
class CellView:
    """A cell to name: an image of the nuclei with two markers, and an image of each marker."""

    composite: np.ndarray  # (P, P, 3) uint8
    markers: tuple[str, ...]  # of the composite: nuclei, then in orange and pink
    single: tuple[tuple[str, np.ndarray], ...]  # marker and its image, in grey


class NamingSession:
    """The queue of a study. Names may be passed at any time; :meth:`propose` is called in threads, one at a time."""

    def __init__(self, study: Study, names: Names) -> None:
        self._study, self._names = study, names
        self._queue: NamingQueue | None = None
        self._pending: SimpleQueue[Callable[[NamingQueue], None]] = SimpleQueue()
        self._lock = Lock()
        self._opened: dict[str, OpenedSlide] = {}
        self._n_of_clusters = 0
        self.take_names()

    def answer(self, row: int, name: str) -> None:
        """Pass the name of a cell that was given one by one, or "" to remove it."""
        self._pending.put(lambda queue: queue.name(row, name))

    def skip(self, row: int) -> None:
        """Do not propose a cell again."""
        self._pending.put(lambda queue: queue.skip(row))

    def take_names(self) -> None:
        """Pass all names, after one was changed elsewhere or taken back."""
        given = training_names(self._names)
        own = self._names.cells.columns.get(self._names.column)
        self._n_of_clusters = int((given.codes >= 0).sum() - (0 if own is None else (own.codes >= 0).sum()))
        self._pending.put(lambda queue: queue.set_names(given))

    def propose(self, n: int) -> Answered:
        """Return the cells to name next, and what the classifier knows; slow."""
        with self._lock:
            if self._queue is None:
                self._queue = self._make()
            while not self._pending.empty():
                self._pending.get()(self._queue)
            found, progress = self._queue.next(n), self._queue.progress()
            return Answered(found, progress, self._queue.classifier, self._n_of_clusters)

    def _make(self) -> NamingQueue:
        study = self._study
        return NamingQueue(
            self.read,
            study.n_cells,
            feature_names=study.feature_names,
            use_rep=study.representation,
            model=study.model,
            clusters=study.clusters if study.clustering else None,
            slides=study.slides,
        )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features (n, d) of cells by their rows, ascending."""
        with open_h5ad(self._study.cells) as file:
            return read_features(file["obsm"][self._study.representation], rows)

    def predict(self, classifier: CellClassifier) -> Generator[tuple[int, int], None, Predictions]:
        """Predict all cells, and yield the progress.

        Raises
        ------
        InputError
            If the classifier was trained on features of another model.
        """
        self._study.check_classifier(classifier)
        return (yield from predict_all(classifier, self.read, self._study.n_cells))

    def view(
        self, rows: Sequence[int], shown: OpenedSlide, markers: Sequence[str]
    ) -> Generator[tuple[int, CellView], None, None]:
        """Yield the row and the images of each cell; those on other slides than the one shown are opened for it."""
        for row in rows:
            slide = str(self._study.slides[row])
            if slide != shown.name and slide not in self._opened and self._study.folder is not None:
                self._opened[slide] = open_slide(self._study, slide)
            opened = shown if slide == shown.name else self._opened.get(slide)
            if opened is not None and opened.slide is not None:
                yield row, view_cell(self._study, opened, row, markers)


def training_names(names: Names) -> pd.Categorical:
    """Return the names (N,) that train: of single cells, and of some cells of each cluster that has a name.

    Other cells of a cluster with a name have none here, so that the queue may propose them.
    """
    of_cells, study = names.of_cells(), names.study
    codes = np.full(study.n_cells, -1, dtype=np.int16)
    own = names.cells.columns.get(names.column)
    rows = [] if own is None else [np.flatnonzero(own.codes >= 0)]
    for code, cluster in enumerate(study.clusters.categories if names.of_clusters else ()):
        if str(cluster) in names.of_clusters:
            rows.append(draw_examples(study, code, None, _SEEDS))
    for some in rows:
        codes[some] = of_cells.codes[some]
    return pd.Categorical.from_codes(codes, of_cells.categories)


def key_markers(clusters: Sequence[Cluster], study: Study) -> list[str]:
    """Return the markers to show one by one: those that most suggested names of clusters have, else the first ones."""
    found = [marker for one in clusters for marker in markers_in(one.suggested, study.markers)]
    others = [one for one in study.markers if one not in study.confounders]
    order = sorted(dict.fromkeys(found), key=lambda marker: -found.count(marker))
    return list(dict.fromkeys([*order, *others]))[:_MOST_MARKERS]


def view_cell(study: Study, opened: OpenedSlide, row: int, markers: Sequence[str]) -> CellView:
    """Cut the images of one cell: the nuclei with the two of its ``markers`` that are brightest, and each alone."""
    assert opened.slide is not None
    known = [one for one in markers if one in opened.slide.markers]
    bright = [marker for marker, _ in study.ranked(row) if marker in known][:2]
    composed = shown_markers(opened, bright)
    wanted = list(dict.fromkeys([*composed, *known]))
    patches, regions = cut_cells(study, opened, np.array([row]), wanted)
    channels = {marker: patches[0, [place]] for place, marker in enumerate(wanted)}
    limits = {marker: opened.limits(marker) for marker in wanted}
    composite = draw_cell(
        np.concatenate([channels[marker] for marker in composed]),
        [(low, low + HEADROOM * (high - low)) for low, high in (limits[marker] for marker in composed)],
        region=regions[0],
        scale=_SCALE,
        channel_colors=colors_of(composed),
    )
    single = tuple(
        (marker, draw_cell(channels[marker], [limits[marker]], region=regions[0], scale=2, channel_colors=["#ffffff"]))
        for marker in known
    )
    return CellView(composite, tuple(composed), single)


def classifier_path(study: Study) -> Path:
    """Return where a classifier of this study is saved by default."""
    return (study.folder or study.cells.parent) / "classifier.json"
