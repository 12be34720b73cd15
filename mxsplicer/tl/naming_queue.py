"""Active learning: which cells a person should name next, so that few names suffice to name all cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.tl.cell_classifier import UNKNOWN, CellClassifier, model_of
from mxsplicer.tl.classifier_fitting import Space, fit_classifier, rounded
from mxsplicer.tl.features import feature_names as names_of_features
from mxsplicer.tl.reading import read_features
from mxsplicer.tl.representations import learned_key, representation

MIN_NAMED = 3  # cells of a class
MAX_POOL = 30_000
_MOST_NAMED = 1_000  # cells of a class that train
_FEW = 50  # cells that are named together one by one, not by a lasso or a cluster
_N_GROUPS, _GROUP_CELLS = 120, 10_000
_ENOUGH_GROUPS = 1 / 3  # of which cells were proposed, where none is mostly unknown
_UNNAMED = -1
_Choice = tuple[int | None, str]  # a place in the pool, and why


@dataclass(frozen=True)
class Proposal:
    """A cell to name next.

    Attributes
    ----------
    row
        Row of the cell.
    why
        Why this cell is proposed, in a few words.
    guess, confidence
        What the classifier calls it now, and how sure it is; "unknown" and 0 before there is a classifier.
    """

    row: int
    why: str
    guess: str = UNKNOWN
    confidence: float = 0.0


class NamingQueue:
    """The named cells, and a queue of cells whose names would help most.

    Cells are proposed from a random pool, so that the time of an answer does not grow with the slide. Proposed are, in
    turn: cells that resemble nothing named, one of each group of similar cells; clusters without a name; and cells
    between two classes.

    Parameters
    ----------
    read
        Function that returns features (n, d) of the rows it is given, ascending. It is called once for the pool, which
        takes seconds for millions of cells on disk, and later for cells that are named outside the pool.
    n_cells
        Number of cells N.
    feature_names, use_rep, model
        Stored in the classifier: see :class:`CellClassifier`.
    clusters
        Cluster of each cell (N,), of which each should get a name; missing or negative for none.
    slides
        Slide of each cell (N,), which the classifier records.
    seed
        Seed of the pool and of the groups.
    max_pool
        Number of cells in the pool, at most.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        n_cells: int,
        *,
        feature_names: Sequence[str],
        use_rep: str = "X_splicer",
        model: str = "",
        clusters: Any = None,
        slides: Any = None,
        seed: int = 0,
        max_pool: int = MAX_POOL,
    ) -> None:
        if n_cells < MIN_NAMED + 1:
            msg = f"{n_cells} cells cannot be classified; at least {MIN_NAMED + 1} are needed."
            raise InputError(msg)
        self._read, self._seed = read, seed
        self._about = {"feature_names": tuple(feature_names), "use_rep": use_rep, "model": model}
        self._slides = None if slides is None else pd.Categorical(slides)
        self._clusters = _codes_of(clusters)
        self._pool = np.sort(np.random.default_rng(seed).permutation(n_cells)[:max_pool])
        self._z = np.asarray(read(self._pool), dtype=np.float32)
        if not np.isfinite(self._z).all():
            msg = f"{use_rep!r} has values that are not finite in {(~np.isfinite(self._z)).any(axis=1).sum()} cells."
            raise InputError(msg)
        self._space = Space.of(self._z, seed)
        self._u = self._space(self._z)
        self._extra: dict[int, np.ndarray] = {}  # features of named cells outside the pool
        self._codes = np.full(n_cells, _UNNAMED, dtype=np.int16)
        self._by_hand = np.zeros(n_cells, dtype=bool)
        self._skipped = np.zeros(n_cells, dtype=bool)
        self._names: list[str] = []
        self._asked: dict[str, int] = {}  # how many uncertain cells of each class were proposed
        self._classifier: CellClassifier | None = None
        self._is_current = False

    @classmethod
    def of(
        cls,
        adata: AnnData,
        *,
        use_rep: str | None = None,
        clusters: str | None = None,
        seed: int = 0,
        max_pool: int = MAX_POOL,
    ) -> "NamingQueue":
        """Make a queue of the cells of an AnnData, whose representation may lie on disk."""
        key = use_rep or learned_key(adata)
        z = representation(adata, key)
        return cls(
            lambda rows: read_features(z, rows),
            adata.n_obs,
            feature_names=names_of_features(adata, use_rep=key),
            use_rep=key,
            model=model_of(adata, key),
            clusters=None if clusters is None else adata.obs[clusters],
            slides=adata.obs.get("slide"),
            seed=seed,
            max_pool=max_pool,
        )

    @property
    def names(self) -> "pd.Categorical[str]":
        """The name (N,) of each named cell, missing for the others."""
        return pd.Categorical.from_codes(self._codes, pd.Index(self._names)).remove_unused_categories()

    def name(self, rows: int | Sequence[int] | np.ndarray, name: str) -> None:
        """Name one cell or several; "" removes their names.

        Raises
        ------
        InputError
            If the name is "unknown", which cells get that resemble nothing named.
        """
        some = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        self._codes[some] = self._code_of(name.strip())
        self._by_hand[some] = len(some) <= _FEW
        self._is_current = False

    def set_names(self, names: "pd.Categorical[Any] | pd.Series[Any]") -> None:
        """Set the names (N,) of all cells at once; missing for cells without a name."""
        given = pd.Categorical(names)
        if len(given) != len(self._codes):
            msg = f"`names` has {len(given):,} values; one for each of the {len(self._codes):,} cells is needed."
            raise InputError(msg)
        code_of = np.array([*(self._code_of(str(name).strip()) for name in given.categories), _UNNAMED], dtype=np.int16)
        self._codes[:] = code_of[given.codes]
        self._is_current = False

    def skip(self, row: int) -> None:
        """Never propose a cell again."""
        self._skipped[row] = True

    @property
    def classifier(self) -> CellClassifier | None:
        """The classifier from the names so far; None before any class has three cells."""
        if not self._is_current:
            self._classifier, self._is_current = self._train(), True
        return self._classifier

    def next(self, n: int = 1, *, only: str = "") -> list[Proposal]:
        """Return the cells to name next, the most useful first.

        Parameters
        ----------
        n
            Number of cells, fewer if the pool has no more.
        only
            Name of a class whose uncertain cells are wanted.
        """
        free = ~self._skipped[self._pool] & (self._codes[self._pool] == _UNNAMED)
        found: list[Proposal] = []
        p, names = self._probabilities()
        if only and only not in names[:-1]:
            msg = f"class {only!r} has no {MIN_NAMED} named cells yet."
            raise InputError(msg)
        makers = (self._uncertain,) if only else (self._rare, self._unlike, self._uncertain, self._unnamed_cluster)
        turn, failed = int((self._codes >= 0).sum()), 0
        while len(found) < n and failed < len(makers):
            place, why = makers[turn % len(makers)](p, free, only)
            turn, failed = turn + 1, failed + 1
            if place is not None:
                free[place], failed = False, 0
                code = p[place].argmax()
                found.append(Proposal(int(self._pool[place]), why, names[code], float(p[place, code])))
        return found

    def progress(self) -> str:
        """Return how many cells are named and unknown, as a sentence."""
        n, k = int((self._codes >= 0).sum()), len(self.names.categories)
        parts = [f"{n:,} cells named, {k} classes"]
        if self.classifier is not None:
            parts.append(f"{100 * self._predict_pool().share_unknown:.0f} % of the cells are unknown")
        return "; ".join(parts)

    @cached_property
    def _groups(self) -> Any:
        """Groups of similar cells of the pool, by k-means."""
        from sklearn.cluster import MiniBatchKMeans

        some = self._u[np.random.default_rng(self._seed).permutation(len(self._u))[:_GROUP_CELLS]]
        n = min(_N_GROUPS, max(1, len(some) // 3))
        return MiniBatchKMeans(n, random_state=self._seed, n_init=1, batch_size=2048).fit(some)

    @cached_property
    def _group(self) -> np.ndarray:
        """The group of each cell of the pool."""
        return np.asarray(self._groups.predict(self._u))

    @cached_property
    def _to_center(self) -> np.ndarray:
        """The distance of each cell of the pool to the centre of its group."""
        return np.asarray(np.linalg.norm(self._u - self._groups.cluster_centers_[self._group], axis=1))

    def _code_of(self, name: str) -> int:
        if name.casefold() == UNKNOWN:
            msg = f"{name!r} is what the classifier calls cells that resemble nothing named, so it cannot be a class."
            raise InputError(msg, 'Call cells of none of your classes "other", or leave them without a name.')
        if not name:
            return _UNNAMED
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def _train(self) -> CellClassifier | None:
        rows = self._training_rows()
        counts = np.bincount(self._codes[self._codes >= 0], minlength=len(self._names))
        names = sorted(name for name, count in zip(self._names, counts, strict=True) if count >= MIN_NAMED)
        count_of = {name: int(count) for name, count in zip(self._names, counts, strict=True)}
        if not names:
            return None
        number = np.array([names.index(name) if name in names else -1 for name in self._names])
        codes = number[self._codes[rows]]
        rows, codes = rows[codes >= 0], codes[codes >= 0]
        u = self._space(self._features(rows))
        fit = fit_classifier(u, codes, self._u, self._represented(u), self._seed)
        weights = self._space.projection @ fit.weights
        about: dict[str, Any] = {"mxsplicer": version("mxsplicer"), "date": datetime.now(UTC).date().isoformat()}
        if self._slides is not None:
            about["slides"] = sorted(map(str, self._slides[rows].unique()))
        if fit.balanced_accuracy is not None:
            about["balanced_accuracy"] = round(fit.balanced_accuracy, 4)
        return CellClassifier(
            classes=tuple(names),
            weights=rounded(weights),
            bias=rounded(fit.bias - self._space.center @ weights),
            counts={name: count_of[name] for name in names},
            class_weights=rounded(fit.class_weights),
            left_out={name: count for name, count in sorted(count_of.items()) if 0 < count < MIN_NAMED},
            center=self._space.center,
            projection=self._space.projection,
            reach=self._space.reach,
            about=about,
            **self._about,  # type: ignore[arg-type]
        )

    def _represented(self, u: np.ndarray) -> np.ndarray:
        """Return how many cells of the pool each named cell (n, m) stands for: its part of its group."""
        group = self._groups.predict(u)
        sizes, named = (np.bincount(one, minlength=self._groups.n_clusters) for one in (self._group, group))
        return np.asarray((sizes / np.maximum(named, 1))[group] + 1e-9)

    def _training_rows(self) -> np.ndarray:
        """Return named cells, of each class at most so many; first those named one by one, then those of the pool."""
        named = np.flatnonzero(self._codes >= 0)
        if len(named) <= _MOST_NAMED:
            return named
        in_pool = np.zeros(len(self._codes), dtype=bool)
        in_pool[self._pool] = True
        rank = np.random.default_rng(self._seed).random(len(named))
        rank += 2.0 * ~self._by_hand[named] + 1.0 * ~in_pool[named]
        kept = []
        for code in range(len(self._names)):
            own = np.flatnonzero(self._codes[named] == code)
            kept.append(named[own[np.argsort(rank[own])[:_MOST_NAMED]]])
        return np.sort(np.concatenate(kept))

    def _features(self, rows: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._pool, rows)
        place[place == len(self._pool)] = 0
        inside = self._pool[place] == rows
        missing = np.array([row for row in rows[~inside] if int(row) not in self._extra], dtype=np.int64)
        if len(missing):
            self._extra |= dict(zip(map(int, missing), np.asarray(self._read(missing), dtype=np.float32), strict=True))
        out = self._z[place]
        out[~inside] = [self._extra[int(row)] for row in rows[~inside]] if (~inside).any() else out[~inside]
        return out

    def _predict_pool(self) -> Any:
        assert self.classifier is not None
        return self.classifier.predict(self._z)

    def _probabilities(self) -> tuple[np.ndarray, list[str]]:
        """Return the probability of each class and of unknown for the pool, and their names."""
        if self.classifier is None:
            return np.ones((len(self._pool), 1)), [UNKNOWN]
        return self.classifier.probabilities(self._z), [*self.classifier.classes, UNKNOWN]

    def _rare(self, _p: np.ndarray, free: np.ndarray, _only: str) -> _Choice:
        """Return the cell most similar to the named ones of a class that has too few."""
        counts = np.bincount(self._codes[self._codes >= 0], minlength=len(self._names))
        few = [code for code in np.argsort(-counts, kind="stable") if 0 < counts[code] < MIN_NAMED]
        if not few or not free.any():
            return None, ""
        named = self._space(self._features(np.flatnonzero(self._codes == few[0])))
        distance = np.min([np.linalg.norm(self._u - one, axis=1) for one in named], axis=0)
        return int(np.where(free, distance, np.inf).argmin()), f"similar to {self._names[few[0]]}, which has few names"

    def _unlike(self, p: np.ndarray, free: np.ndarray, _only: str) -> _Choice:
        """Return the most typical cell of the group that is farthest from all groups with a named cell.

        Groups whose cells are mostly unknown come first; others, only until a third of all groups has a named cell. The
        first group is the largest.
        """
        n = self._groups.n_clusters
        touched = np.zeros(n, dtype=bool)
        touched[self._group[~free]] = True
        unknown = np.bincount(self._group, weights=p.argmax(axis=1) == p.shape[1] - 1, minlength=n)
        sizes = np.bincount(self._group, minlength=n)
        wanted = (sizes >= max(3, len(self._pool) // 5_000)) & ~touched
        if (wanted & (unknown > sizes / 2)).any() or touched.sum() > _ENOUGH_GROUPS * n:
            wanted &= unknown > sizes / 2
        if not wanted.any():
            return None, ""
        centers = self._groups.cluster_centers_
        far = sizes.astype(float)
        if touched.any():
            far = np.min([np.linalg.norm(centers - one, axis=1) for one in centers[touched]], axis=0)
        own = np.flatnonzero((self._group == np.where(wanted, far, -1).argmax()) & free)
        return int(own[self._to_center[own].argmin()]), "unlike all named cells"

    def _unnamed_cluster(self, _p: np.ndarray, free: np.ndarray, _only: str) -> _Choice:
        """Return a typical cell of the largest cluster in which no cell has a name."""
        if self._clusters is None:
            return None, ""
        clusters, names = self._clusters
        own_of, named = clusters[self._pool], clusters[self._codes >= 0]
        sizes = np.bincount(own_of[(own_of >= 0) & free], minlength=len(names))
        sizes[named[named >= 0]] = 0
        sizes[own_of[(own_of >= 0) & ~free]] = 0  # proposed or skipped
        if not sizes.any():
            return None, ""
        own = np.flatnonzero((own_of == sizes.argmax()) & free)
        distance = np.linalg.norm(self._u[own] - self._u[own].mean(axis=0), axis=1)
        return int(own[distance.argmin()]), f"cluster {names[sizes.argmax()]} has no named cell"

    def _uncertain(self, p: np.ndarray, free: np.ndarray, only: str) -> _Choice:
        """Return the most uncertain cell of a class, of each class in turn."""
        if self.classifier is None:
            return None, ""
        classes = self.classifier.classes
        order = np.argsort(p, axis=1)[:, ::-1]
        rows = np.arange(len(p))
        margin = np.where(free, p[rows, order[:, 0]] - p[rows, order[:, 1]], np.inf)
        best = p[:, :-1].argmax(axis=1)  # the most probable class, of unknown cells too
        for name in (only,) if only else sorted(classes, key=lambda name: self._asked.get(name, 0)):
            own = np.where(best == classes.index(name), margin, np.inf)
            if np.isfinite(own.min()):
                self._asked[name] = self._asked.get(name, 0) + 1
                place = int(own.argmin())
                first, second = ([*classes, UNKNOWN][code] for code in order[place, :2])
                return place, f"between {first} and {second}"
        return None, ""


def _codes_of(clusters: Any) -> tuple[np.ndarray, list[str]] | None:
    if clusters is None:
        return None
    given = pd.Categorical(clusters)
    kept = [not str(name).startswith("-") for name in given.categories]
    number = np.append(np.where(kept, np.arange(len(kept)), -1), -1)
    return number[given.codes], [str(name) for name in given.categories]
