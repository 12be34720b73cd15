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
_UNNAMED = -1


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
        if self.classifier is None:
            return self._of_groups(free, n)
        return self._by_classifier(free, n, only)

    def progress(self) -> str:
        """Return how many cells are named and unknown, as a sentence."""
        n, k = int((self._codes >= 0).sum()), len(self.names.categories)
        parts = [f"{n:,} cells named, {k} classes"]
        if self.classifier is not None:
            parts.append(f"{100 * self._predict_pool().share_unknown:.0f} % of the cells are unknown")
        return "; ".join(parts)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        return _group(self._u, self._seed)

    @property
    def _group(self) -> np.ndarray:
        return self._groups[0]

    @property
    def _to_center(self) -> np.ndarray:
        return self._groups[1]

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
        fit = fit_classifier(u, codes, self._u, self._seed)
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
            left_out={name: count for name, count in sorted(count_of.items()) if 0 < count < MIN_NAMED},
            center=self._space.center,
            projection=self._space.projection,
            reach=self._space.reach,
            about=about,
            **self._about,  # type: ignore[arg-type]
        )

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

    def _of_groups(self, free: np.ndarray, n: int) -> list[Proposal]:
        """Return the most typical cell of each group without a named cell, the largest group first."""
        named = self._codes[self._pool] >= 0
        sizes = np.bincount(self._group, minlength=_N_GROUPS).astype(float)
        sizes[np.unique(self._group[named])] *= 1e-3
        found = []
        for group in np.argsort(-sizes, kind="stable")[:n]:
            own = np.flatnonzero((self._group == group) & free)
            if len(own):
                place = own[self._to_center[own].argmin()]
                found.append(Proposal(int(self._pool[place]), "typical of a group of similar cells"))
        return found

    def _by_classifier(self, free: np.ndarray, n: int, only: str) -> list[Proposal]:
        assert self.classifier is not None
        p = self.classifier.probabilities(self._z)
        codes = p.argmax(axis=1)
        found: list[Proposal] = []
        taken = ~free
        makers = (self._uncertain,) if only else (self._unlike, self._uncertain, self._unnamed_cluster, self._uncertain)
        turn = int((self._codes >= 0).sum())
        for step in range(4 * n):
            if len(found) == n:
                break
            place, why = makers[(turn + step) % len(makers)](p, codes, taken, only)
            if place is not None:
                taken = taken | (np.arange(len(taken)) == place) | ((self._group == self._group[place]) & (n > 1))
                guess = [*self.classifier.classes, UNKNOWN][codes[place]]
                found.append(Proposal(int(self._pool[place]), why, guess, float(p[place].max())))
        return found

    def _unlike(self, p: np.ndarray, codes: np.ndarray, taken: np.ndarray, _only: str) -> tuple[int | None, str]:
        """Return the most typical cell of the group with most unknown cells."""
        unknown = (codes == p.shape[1] - 1) & ~taken
        if not unknown.any():
            return None, ""
        sizes = np.bincount(self._group[unknown], minlength=_N_GROUPS).astype(float)
        named = self._group[self._codes[self._pool] >= 0]
        sizes /= 1 + 3 * np.bincount(named, minlength=_N_GROUPS)
        own = np.flatnonzero(unknown & (self._group == sizes.argmax()))
        return int(own[self._to_center[own].argmin()]), "unlike all named cells"

    def _unnamed_cluster(
        self, _p: np.ndarray, _codes: np.ndarray, taken: np.ndarray, _only: str
    ) -> tuple[int | None, str]:
        """Return a cell of the largest cluster in which no cell has a name."""
        if self._clusters is None:
            return None, ""
        clusters, names = self._clusters
        own_of = clusters[self._pool]
        named = np.unique(clusters[self._codes >= 0])
        sizes = np.bincount(own_of[(own_of >= 0) & ~taken], minlength=len(names)).astype(float)
        sizes[named[named >= 0]] = 0
        if not sizes.any():
            return None, ""
        own = np.flatnonzero((own_of == sizes.argmax()) & ~taken)
        center = self._u[own].mean(axis=0)
        return int(own[((self._u[own] - center) ** 2).sum(axis=1).argmin()]), (
            f"cluster {names[sizes.argmax()]} has no named cell"
        )

    def _uncertain(self, p: np.ndarray, codes: np.ndarray, taken: np.ndarray, only: str) -> tuple[int | None, str]:
        """Return the most uncertain cell of the class with the fewest named cells."""
        assert self.classifier is not None
        classes = [*self.classifier.classes, UNKNOWN]
        top = np.sort(p, axis=1)
        margin = np.where(taken, np.inf, top[:, -1] - top[:, -2])
        if only:
            if only not in self.classifier.classes:
                msg = f"class {only!r} has no {MIN_NAMED} named cells yet."
                raise InputError(msg)
            margin[codes != classes.index(only)] = np.inf
        if not np.isfinite(margin).any():
            return None, ""
        place = int(margin.argmin())
        first, second = np.argsort(-p[place])[:2]
        return place, f"between {classes[first]} and {classes[second]}"


def _codes_of(clusters: Any) -> tuple[np.ndarray, list[str]] | None:
    if clusters is None:
        return None
    given = pd.Categorical(clusters)
    kept = [not str(name).startswith("-") for name in given.categories]
    number = np.append(np.where(kept, np.arange(len(kept)), -1), -1)
    return number[given.codes], [str(name) for name in given.categories]


def _group(u: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the group (n,) of similar cells of each cell, and its distance (n,) to the centre of the group."""
    from sklearn.cluster import MiniBatchKMeans

    some = u[np.random.default_rng(seed).permutation(len(u))[:_GROUP_CELLS]]
    n = min(_N_GROUPS, max(1, len(some) // 3))
    model = MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=2048).fit(some)
    distance = model.transform(u)
    group = distance.argmin(axis=1)
    return group, distance[np.arange(len(u)), group]
