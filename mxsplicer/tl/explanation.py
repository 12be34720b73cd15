"""What sets each cluster apart, and whether it is a kind of cell or an artefact of measurement."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import KDTree

from mxsplicer.errors import InputError
from mxsplicer.images.markers import is_control, is_nuclear
from mxsplicer.tl.clustering import NOTHING, cluster_codes
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.reading import read_rows, row_slices, rows_by_slide
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of, intensities_of, learned_key

REAL, SPILLOVER, UNSPECIFIC = "real", "spill-over", "unspecific staining"
TECHNICAL, UNSTABLE = "technical", "too small or unstable"

_N_NEIGHBOURS, _TIMES_BRIGHTER = 6, 2.0
_MIN_EFFECT = 0.8  # a large effect, in Cohen's terms
_MIN_SPILLOVER = 0.5  # share of cells next to a brighter one
_MAX_CONTRAST = 0.2  # effect on the spread within the cell, below which a marker is raised evenly
_MAX_FOLD = 3.0  # unspecific staining varies less among clusters of one kind of cell
_MIN_CELLS = 20
_MIN_OWN = 0.5  # share of the nearest neighbours in the representation that are of the same cluster
_N_SIMILAR, _MAX_SIMILAR_CELLS = 15, 10_000
_MIN_BORDER, _BORDER_TIMES = 0.5, 5.0
_ONE_SLIDE, _OTHER_SLIDE = 0.95, 0.05
_MOST_MARKERS = 3


@dataclass
class _Evidence:
    """What is known of one cluster; shares and effects that could not be measured are NaN."""

    count: int
    name: str = NOTHING
    sibling: str = ""
    markers: str = ""  # against all other cells
    markers_from_sibling: str = ""
    verdict: str = REAL
    marker: str = ""  # the one that is raised most against the sibling
    effect: float = np.nan
    source: str = ""  # the cluster that a marker spills over from
    spillover: float = np.nan
    spillover_sibling: float = np.nan
    contrast: float = np.nan
    at_border: float = np.nan
    own_neighbours: float = np.nan
    reason: str = ""


def explain_clusters(adata: AnnData, key: str = "leiden") -> pd.DataFrame:
    """Return what sets each cluster apart, a name made of it, and whether the cluster is real or an artefact.

    The sibling of a cluster is the cluster with the nearest mean of standardised log intensities, of those that have at
    least 20 cells. An effect is Cohen's d of log intensity: the difference of two means, divided by the root of the
    mean of the two variances. *The marker* is the one that is raised most against the sibling. The verdict is the first
    of these that holds:

    - ``"too small or unstable"``: fewer than 20 cells; or of the 15 nearest neighbours of its cells in the
      representation, less than half are of the cluster;
    - ``"technical"``: half of its cells, and five times the share of all cells, are at the border of the slide; or 95 %
      of its cells, and at most 5 % of its sibling's, are of one slide or batch;
    - ``"spill-over"``: the marker has an effect of at least 0.8; and at least half of the cells, more than of the
      sibling's, have among their six nearest neighbours one with at least twice their own intensity in it;
    - ``"unspecific staining"``: the marker has an effect of at least 0.8; and it is a channel without an antibody, or
      it is at most three times as bright as in the sibling and has no more contrast inside the cell (the effect on its
      column ``"CD4 spread"`` is below 0.2);
    - ``"real"``: none of them.

    Parameters
    ----------
    adata
        Cells with clusters in ``obs``, intensities in ``X`` and positions in ``obsm["spatial"]``.
    key
        Column of ``obs`` with the clusters. Cells without a cluster are left out.

    Returns
    -------
    One row per cluster: ``count``; ``name``; ``sibling``; ``markers``, the effects against all other cells, such as
    "CD3e+2.1 CD4+1.0"; ``markers_from_sibling``; ``verdict``; ``reason``, a sentence with the numbers and the tests
    that were not possible; and the numbers: ``marker``, ``effect``, ``source`` (the cluster that the marker spills over
    from), ``spillover`` and ``spillover_sibling`` (shares of cells), ``contrast``, ``at_border``, ``own_neighbours``.

    Sets
    ----
    ``adata.uns["mxsplicer_clusters"]``
        The same table.

    Raises
    ------
    InputError
        If the column of clusters was not found, or has no cluster.
    """
    table = _explain(adata, key)
    adata.uns["mxsplicer_clusters"] = table
    return table


def explanation_of(adata: AnnData, key: str = "leiden") -> pd.DataFrame:
    """Return the table that :func:`explain_clusters` stored, or a new one if it is not of the present clusters."""
    stored = stored_explanation(adata, key)
    return _explain(adata, key) if stored is None else stored


def stored_explanation(adata: AnnData, key: str = "leiden") -> pd.DataFrame | None:
    """Return the table that :func:`explain_clusters` stored; None without one, or if it is not of these clusters."""
    table = adata.uns.get("mxsplicer_clusters")
    if table is not None and key in adata.obs:
        counts = adata.obs[key].value_counts()
        present = {str(name): int(n) for name, n in counts.items() if n}
        if present == dict(zip(table.index.astype(str), table["count"], strict=True)):
            return pd.DataFrame(table)
    return None


def _explain(adata: AnnData, key: str) -> pd.DataFrame:
    cells = _Cells(adata, key)
    index = pd.Index([cells.names[k] for k in cells.present], name="cluster")
    return pd.DataFrame([vars(cells.judge(k)) for k in cells.present], index=index)


class _Cells:
    """Cells, their clusters, and the moments of markers and features in each cluster."""

    def __init__(self, adata: AnnData, key: str) -> None:
        self.adata = adata
        self.names, self.codes = cluster_codes(adata, key)
        self.n = len(self.names)
        self.counts = np.bincount(self.codes, minlength=self.n + 1)[: self.n]
        self.present = [int(k) for k in np.flatnonzero(self.counts)]
        if not self.present:
            msg = f"obs[{key!r}] has no cluster of any cell."
            raise InputError(msg, "Run mxsplicer.tl.cluster first.")
        self.markers = adata.var_names.astype(str).tolist()
        self.logged = features_of(adata, MEAN_INTENSITY, np.arange(adata.n_obs))  # (N, C)
        self.mean, self.variance = _moments([(slice(None), self.logged)], self.codes, self.counts)
        clustered = self.logged[self.codes < self.n]
        self.overall, self.sd = clustered.mean(axis=0, dtype=np.float64), clustered.std(axis=0, dtype=np.float64)
        self.features, self.feature_mean, self.feature_variance = self._patterns()
        self.neighbours = self._neighbours()
        self.own = self._own_neighbours()

    def judge(self, k: int) -> _Evidence:
        """Return the evidence on a cluster, its verdict and the reason."""
        effects = self._effects_on_others(k)
        found = _Evidence(int(self.counts[k]), markers=self._listed(effects), own_neighbours=self.own[k])
        found.at_border = self._at_border(self.codes == k)
        s = self._sibling(k)
        if s is not None:
            found.sibling = self.names[s]
            against = _cohen(self.mean, self.variance, k, s)
            found.markers_from_sibling = self._listed(against)
            raised = int(np.argmax(against))
            found.marker, found.effect = self.markers[raised], float(against[raised])
            found.spillover, found.source = self._spillover(k, raised)
            found.spillover_sibling = self._spillover(s, raised)[0]
            found.contrast = self._contrast(raised, k, s)
        found.verdict, found.reason = self._verdict(found, k, s)
        found.name = self._name(found, effects)
        return found

    def _verdict(self, found: _Evidence, k: int, s: int | None) -> tuple[str, str]:
        if found.count < _MIN_CELLS:
            return UNSTABLE, f"It has {found.count} cells; {_MIN_CELLS} are needed."
        if found.own_neighbours < _MIN_OWN:
            return UNSTABLE, f"Of the nearest neighbours of its cells, {found.own_neighbours:.0%} are of the cluster."
        if technical := self._technical(found, k, s):
            return TECHNICAL, technical
        if s is None:
            return REAL, "Not compared: it is the only cluster."
        return self._artefact(found, k, s) or (REAL, self._why_real(found, k, s))

    def _artefact(self, found: _Evidence, k: int, s: int) -> tuple[str, str] | None:
        if found.effect < _MIN_EFFECT:
            return None
        raised = _raised(found)
        if is_control(found.marker):
            return UNSPECIFIC, f"{raised}, a channel without an antibody."
        if self._is_spillover(found):
            return SPILLOVER, (
                f"{raised}; {found.spillover:.0%} of its cells have a neighbour twice as bright, mostly of cluster "
                f"{found.source} ({found.spillover_sibling:.0%} in cluster {found.sibling})."
            )
        if self._is_unspecific(found, k, s):
            return UNSPECIFIC, f"{raised}, but its contrast inside the cell is not (d = {found.contrast:.1f})."
        return None

    def _is_spillover(self, found: _Evidence) -> bool:
        # Cells that express the marker are brighter than the sibling's, so fewer of them have a brighter neighbour.
        return bool(found.spillover >= _MIN_SPILLOVER and found.spillover > found.spillover_sibling)

    def _is_unspecific(self, found: _Evidence, k: int, s: int) -> bool:
        j = self.markers.index(found.marker)
        fold = float(np.exp(self.mean[k, j] - self.mean[s, j]))
        return bool(found.contrast < _MAX_CONTRAST and fold <= _MAX_FOLD and not is_nuclear(found.marker))

    def _why_real(self, found: _Evidence, k: int, s: int) -> str:
        untested = []
        if np.isnan(found.spillover):
            untested.append("spill-over")
        if np.isnan(found.contrast):
            untested.append("unspecific staining")
        if np.isnan(found.own_neighbours):
            untested.append("stability")
        note = f" Not tested: {', '.join(untested)}." if untested else ""
        if found.effect >= _MIN_EFFECT:
            near = "" if np.isnan(found.spillover) else f"; {found.spillover:.0%} have a neighbour twice as bright"
            return f"{_raised(found)}{near}.{note}"
        against = _cohen(self.mean, self.variance, k, s)
        lowest = int(np.argmin(against))
        if against[lowest] <= -_MIN_EFFECT:
            low = f"{self.markers[lowest]} is lower than in cluster {found.sibling} (d = {against[lowest]:.1f})"
            return f"{low}, and no marker is raised.{note}"
        pattern = self._strongest_pattern(k, s)
        return f"No marker differs from cluster {found.sibling} by 0.8 standard deviations{pattern}.{note}"

    def _technical(self, found: _Evidence, k: int, s: int | None) -> str:
        at_border, everywhere = found.at_border, self._at_border(self.codes < self.n)
        if at_border >= max(_MIN_BORDER, _BORDER_TIMES * everywhere):
            return f"{at_border:.0%} of its cells are at the border of the slide ({everywhere:.0%} of all cells)."
        for column in ("slide", "batch"):
            if s is None or column not in self.adata.obs or self.adata.obs[column].nunique() < 2:
                continue
            of_cell = self.adata.obs[column].astype(str).to_numpy()
            values, counts = np.unique(of_cell[self.codes == k], return_counts=True)
            value, share = values[counts.argmax()], counts.max() / counts.sum()
            of_sibling = float((of_cell[self.codes == s] == value).mean())
            if share >= _ONE_SLIDE and of_sibling <= _OTHER_SLIDE:
                return (
                    f"{share:.0%} of its cells are of {column} {value} ({of_sibling:.0%} in cluster {found.sibling})."
                )
        return ""

    def _name(self, found: _Evidence, effects: np.ndarray) -> str:
        """Return the markers raised most against all cells, and that against the sibling, without an artefact's."""
        order = [self.markers[j] for j in np.argsort(-effects, kind="stable") if effects[j] >= _MIN_EFFECT]
        if found.effect >= _MIN_EFFECT:
            order = [*order[: _MOST_MARKERS - 1], found.marker] if found.marker not in order[:_MOST_MARKERS] else order
        artefact = {SPILLOVER: "spill-over", UNSPECIFIC: "unspecific"}.get(found.verdict, "")
        left_out = {found.marker} if artefact else set()
        usable = [m for m in order if m not in left_out and not is_nuclear(m) and not is_control(m)]
        name = " ".join(f"{marker}+" for marker in usable[:_MOST_MARKERS]) or NOTHING
        return f"{name} ({found.marker} {artefact})" if artefact else name

    def _effects_on_others(self, k: int) -> np.ndarray:
        """Return the effect (C,) of each marker in a cluster against all other cells that have a cluster."""
        rest = [j for j in self.present if j != k]
        if not rest:
            return np.zeros(len(self.markers))
        weights = self.counts[rest] / self.counts[rest].sum()
        mean = weights @ self.mean[rest]
        variance = weights @ (self.variance[rest] + (self.mean[rest] - mean) ** 2)
        return _divide(self.mean[k] - mean, np.sqrt((self.variance[k] + variance) / 2))

    def _listed(self, effects: np.ndarray) -> str:
        order = np.argsort(-np.abs(effects), kind="stable")[:_MOST_MARKERS]
        return " ".join(f"{self.markers[j]}{effects[j]:+.1f}" for j in order if abs(effects[j]) >= _MIN_EFFECT)

    def _sibling(self, k: int) -> int | None:
        others = [j for j in self.present if j != k]
        if not others:
            return None
        others = [j for j in others if self.counts[j] >= _MIN_CELLS] or others
        distance = (_divide(self.mean[others] - self.mean[k], self.sd) ** 2).sum(axis=1)
        return others[int(np.argmin(distance))]

    def _neighbours(self) -> np.ndarray | None:
        """Return the rows (N, 6) of the nearest neighbours on the same slide, or None if they cannot be compared."""
        if "spatial" not in self.adata.obsm or intensities_of(self.adata).form == "negative":
            return None
        points = np.asarray(self.adata.obsm["spatial"], dtype=np.float64)
        near = np.tile(np.arange(len(points))[:, None], _N_NEIGHBOURS)  # a cell without neighbours is its own
        known = np.asarray(np.isfinite(points).all(axis=1))
        for of_slide in rows_by_slide(self.adata).values():
            rows = of_slide[known[of_slide]]
            k = min(_N_NEIGHBOURS + 1, len(rows))
            if k > 1:
                near[rows, : k - 1] = rows[KDTree(points[rows]).query(points[rows], k=range(2, k + 1))[1]]
        return near

    def _spillover(self, k: int, marker: int) -> tuple[float, str]:
        """Return the share of a cluster's cells next to a twice as bright one, and the cluster most of those are of."""
        if self.neighbours is None:
            return np.nan, ""
        intensity = np.expm1(self.logged[:, marker])
        rows = np.flatnonzero(self.codes == k)
        near = self.neighbours[rows]
        brightest = near[np.arange(len(rows)), intensity[near].argmax(axis=1)]
        brighter = intensity[brightest] >= _TIMES_BRIGHTER * np.maximum(intensity[rows], 1e-9)
        sources = np.bincount(self.codes[brightest[brighter]], minlength=self.n + 1)[: self.n]
        return float(brighter.mean()), self.names[int(sources.argmax())] if sources.any() else ""

    def _patterns(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the named columns of the representation of the run, and their moments in each cluster."""
        key = learned_key(self.adata)
        names = feature_names(self.adata, use_rep=key) if key in self.adata.obsm else []
        columns = [j for j, name in enumerate(names) if not name.startswith(("learned ", "feature "))]
        if not columns:
            return [], np.zeros((self.n, 0)), np.zeros((self.n, 0))
        z = self.adata.obsm[key]
        parts = ((part, np.asarray(z[part], dtype=np.float32)[:, columns]) for part in row_slices(self.adata.n_obs))
        return [names[j] for j in columns], *_moments(parts, self.codes, self.counts)

    def _contrast(self, marker: int, k: int, s: int) -> float:
        """Return the effect on the spread of a marker within the cell, NaN if it was not measured."""
        name = f"{self.markers[marker]} spread"
        if name not in self.features:
            return np.nan
        return float(_cohen(self.feature_mean, self.feature_variance, k, s)[self.features.index(name)])

    def _strongest_pattern(self, k: int, s: int) -> str:
        if not self.features:
            return ""
        effects = _cohen(self.feature_mean, self.feature_variance, k, s)
        j = int(np.abs(effects).argmax())
        return f"; {self.features[j]} differs most (d = {effects[j]:+.1f})"

    def _own_neighbours(self) -> np.ndarray:
        """Return the mean share of the nearest neighbours in the representation that are of the same cluster."""
        from sklearn.neighbors import NearestNeighbors

        out = np.full(self.n, np.nan)
        about = self.adata.uns.get("mxsplicer_cluster", {})
        key = str(about.get("use_rep", learned_key(self.adata)))
        rows = np.flatnonzero(self.codes < self.n)
        if key not in self.adata.obsm or len(rows) <= _N_SIMILAR:
            return out
        if len(rows) > _MAX_SIMILAR_CELLS:
            rows = np.sort(np.random.default_rng(0).choice(rows, _MAX_SIMILAR_CELLS, replace=False))
        z, codes = read_rows(self.adata.obsm[key], rows), self.codes[rows]
        near = NearestNeighbors(n_neighbors=_N_SIMILAR).fit(z).kneighbors(return_distance=False)
        same = (codes[near] == codes[:, None]).mean(axis=1)
        for k in np.unique(codes):
            if (codes == k).sum() > _N_SIMILAR:  # fewer cannot fill a neighbourhood
                out[k] = same[codes == k].mean()
        return out

    def _at_border(self, inside: np.ndarray) -> float:
        if "at_border" not in self.adata.obs:
            return np.nan
        return float(self.adata.obs["at_border"].isin([True]).to_numpy()[inside].mean())


def _raised(found: _Evidence) -> str:
    return f"{found.marker} is raised against cluster {found.sibling} (d = {found.effect:.1f})"


def _moments(
    parts: Iterable[tuple[slice, np.ndarray]], codes: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (clusters, columns) in each cluster, from slices of the cells; 0 of an empty cluster."""
    sums = squares = np.zeros((len(counts), 1))
    for part, values in parts:
        of_part = codes[part]
        found = [(k, values[of_part == k].astype(np.float64)) for k in np.unique(of_part) if k < len(counts)]
        here, here_squared = np.zeros((2, len(counts), values.shape[1]))
        for k, of_cluster in found:
            here[k], here_squared[k] = of_cluster.sum(axis=0), (of_cluster**2).sum(axis=0)
        sums, squares = sums + here, squares + here_squared
    n = np.maximum(counts, 1)[:, None]
    mean = sums / n
    return mean, np.maximum(squares / n - mean**2, 0)


def _cohen(mean: np.ndarray, variance: np.ndarray, k: int, s: int) -> np.ndarray:
    """Return Cohen's d of each column in cluster ``k`` against cluster ``s``."""
    return _divide(mean[k] - mean[s], np.sqrt((variance[k] + variance[s]) / 2))


def _divide(difference: np.ndarray, by: np.ndarray) -> np.ndarray:
    constant = by < 1e-6  # a marker without variation, such as an empty channel
    return np.asarray(np.where(constant, 0, difference / np.where(constant, 1, by)))
