"""Online probe: how well a linear classifier predicts labels from z, during training.

Nothing is learned from the labels; the log shows whether z becomes better at predicting them. It is a rough number from
a thousand cells, to compare steps of one training. Results are scored by :func:`mxsplicer.tl.probe`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import Batch

_CELLS = 1_000  # half to fit, half to score; their patches stay in memory
_STRETCHES = 8  # of the cells of a slide in the order of the store, in which neighbours are close
_FEWEST = 5  # cells of a class in each half
_RIDGE = 100.0  # on standardised features; a closed form, since it is fitted many times


class OnlineProbe:
    """A linear classifier of fixed cells, fitted on every second stretch of a slide and scored on the others.

    Parameters
    ----------
    stores
        The stores of the training.
    labels
        For each store one label per cell, in the order of the store; None, NaN or "" for an unlabelled cell.

    Raises
    ------
    InputError
        If labels and cells differ in number, or fewer than two classes have enough cells.
    """

    def __init__(self, stores: Sequence[PatchStore], labels: Sequence[Sequence[object]], *, seed: int = 0) -> None:
        _check_lengths(stores, labels)
        words = [pd.Series(list(one), dtype=object) for one in labels]
        known = [word.notna().to_numpy() & (word.astype(str).str.strip() != "").to_numpy() for word in words]
        places = pd.DataFrame(
            [
                (store, row, str(words[store][row]), row * _STRETCHES // len(words[store]) % 2)
                for store in range(len(stores))
                for row in np.flatnonzero(known[store])
            ],
            columns=["store", "row", "label", "half"],
        )
        counts = places.groupby(["label", "half"]).size().unstack(fill_value=0).reindex(columns=[0, 1], fill_value=0)
        classes = counts.index[counts.min(axis=1) >= _FEWEST]
        if len(classes) < 2:
            msg = (
                f"{len(classes)} of {len(counts)} classes of the labels have {_FEWEST} cells in both halves of the "
                "training cells, and an online probe needs two."
            )
            raise InputError(msg, "Use other `labels`, or none.")
        places = places[places["label"].isin(classes)]
        places = places.sample(min(_CELLS, len(places)), random_state=seed).sort_values(["store", "row"])
        self.classes = tuple(sorted(classes))
        self._labels, self._scored = places["label"].to_numpy(), places["half"].to_numpy() == 1
        of_store = places["store"].to_numpy()
        read = [
            stores[store].read_rows(places["row"].to_numpy()[of_store == store])
            for store in np.unique(of_store).tolist()
        ]
        self._cells: Batch = (np.concatenate([one[0] for one in read]), np.concatenate([one[1] for one in read]))

    def score(self, encode: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """Return the balanced accuracy on the cells that were not fitted; ``encode`` returns z (B, d) of a batch."""
        patches, regions = self._cells
        z = np.concatenate([encode(patches[i : i + 256], regions[i : i + 256]) for i in range(0, len(patches), 256)])
        fitted, scored = ~self._scored, self._scored
        z = (z - z[fitted].mean(axis=0)) / (z[fitted].std(axis=0) + 1e-6)
        with threadpool_limits(1):
            probe = RidgeClassifier(alpha=_RIDGE, class_weight="balanced").fit(z[fitted], self._labels[fitted])
            return float(balanced_accuracy_score(self._labels[scored], probe.predict(z[scored])))


def _check_lengths(stores: Sequence[PatchStore], labels: Sequence[Sequence[object]]) -> None:
    if len(labels) != len(stores):
        msg = f"`labels` has {len(labels)} slides, but there are patches of {len(stores)}."
        raise InputError(msg)
    for store, one in zip(stores, labels, strict=True):
        if len(one) != store.n_cells:
            msg = f"`labels` has {len(one)} labels for slide {store.slide_name!r}, which has {store.n_cells} cells."
            raise InputError(msg)
