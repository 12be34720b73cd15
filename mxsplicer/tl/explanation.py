"""What sets each cluster apart, and whether it is a kind of cell or an artefact of measurement."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import KDTree

from mxsplicer.errors import InputError
from mxsplicer.images.markers import is_control, is_nuclear
from mxsplicer.tl.clustering import cluster_codes
from mxsplicer.tl.defaults import N_NEIGHBORS, RESOLUTION
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.fingerprints import clusters_changed, fingerprint_each
from mxsplicer.tl.marker_words import LARGE_EFFECT, MOST_MARKERS, NOTHING, distinct_names, marker_words
from mxsplicer.tl.reading import read_rows, row_slices, rows_by_slide
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of, intensities_of, learned_key
from mxsplicer.tl.stability import SHARE, jaccard_of_clusters, sampled_rows
from mxsplicer.tl.technical import Technical, TechnicalEffects

REAL, SPILLOVER, UNSPECIFIC = "real", "spill-over", "unspecific staining"
TECHNICAL, UNSTABLE = "technical", "too small or unstable"

_N_NEIGHBOURS, _TIMES_BRIGHTER = 6, 2.0
_MIN_SPILLOVER = 0.5  # share of cells next to a brighter one
_MAX_CONTRAST = 0.2  # effect on the spread within the cell, below which a marker is raised evenly
_MAX_FOLD = 3.0  # unspecific staining varies less among clusters of one kind of cell
_MIN_CELLS = 20
_MOST_FURTHER = 2  # words for clusters that share a name
_MAX_CLUSTERS = 5_000  # a minute of processor time
_MIN_JACCARD = 0.5
_N_SIMILAR = 3  # clusters that are compared for technical effects
_MIN_BORDER, _BORDER_TIMES = 0.5, 5.0
_BORDER = "border of the slide"


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
    technical: str = ""  # which technical effect
    split_from: str = ""  # the cluster that it splits from
    separated: float = np.nan
    likewise: float = np.nan
    jaccard: float = np.nan
    reason: str = ""
    fingerprint: str = ""  # of its rows
    words: list[str] = field(default_factory=list)  # of the name


def explain_clusters(adata: AnnData, key: str = "leiden") -> pd.DataFrame:
    """Return what sets each cluster apart, a name made of it, and whether the cluster is real or an artefact.

    The sibling of a cluster is the cluster with the nearest mean of standardised log intensities, of those that have at
    least 20 cells. An effect is Cohen's d of log intensity: the difference of two means, divided by the root of the
    mean of the two variances. *The marker* is the one that is raised most against the sibling. Clusters that would
    share a name get the marker, or else the named feature, that sets them apart with an effect of at least 0.8: "PD-L1
    side high". The verdict is the first of these that holds:

    - ``"too small or unstable"``: fewer than 20 cells;
    - ``"technical"``: half of its cells, and five times the share of all cells, are at the border of the slide;
    - ``"spill-over"``: the marker has an effect of at least 0.8; and at least half of the cells, more than of the
      sibling's, have among their six nearest neighbours one with at least twice their own intensity in it, most often
      of another cluster;
    - ``"technical"``: a seam, uneven illumination or staining, blur, a slide or a batch. The place of a cell (its 20
      nearest cells of either cluster, its slide or its batch) separates the cluster from one of the three most similar
      clusters with an AUROC of at least 0.85; and at least 75 % of the other cells, of three or more clusters, differ
      between these places likewise, by 0.5 to 1.5 times as much, each compared with the five cells in the other places
      that agree with it in everything else. If one of the two clusters has 1.5 times the place of the other, only the
      smaller one is flagged. Blur is tested by the spread of all markers within the cell, compared with cells of equal
      level, which a cluster out of focus and other cells there lack (at least 0.25 times as much);
    - ``"unspecific staining"``: the marker has an effect of at least 0.8; and it is a channel without an antibody, or
      it is at most three times as bright as in the sibling and has no more contrast inside the cell (the effect on its
      column ``"CD4 spread"`` is below 0.2);
    - ``"too small or unstable"``: in random 80 % of at most 10,000 cells, clustered with other seeds, the most similar
      cluster has a mean Jaccard index below 0.5;
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
    from), ``spillover`` and ``spillover_sibling`` (shares of cells), ``contrast``, ``at_border``, ``technical`` (which
    effect), ``split_from``, ``separated`` (AUROC), ``likewise`` (share of other cells), ``jaccard``; ``fingerprint``,
    of the rows of its cells, by which the table is recognised as one of these clusters.

    Sets
    ----
    ``adata.uns["mxsplicer_clusters"]``
        The same table.

    Raises
    ------
    InputError
        If the column of clusters was not found, has no cluster, or more than 5,000.
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
    if table is None or key not in adata.obs or table.index.name not in (key, "cluster"):
        return None
    if "fingerprint" not in table:
        return None  # of an earlier version
    names, codes = cluster_codes(adata, key)
    counts = np.bincount(codes, minlength=len(names))[: len(names)]
    present = {
        name: value for name, value, n in zip(names, fingerprint_each(codes, len(names)), counts, strict=True) if n
    }
    known = dict(zip(table.index.astype(str), table["fingerprint"], strict=True))
    return pd.DataFrame(table) if known == present else None


def _explain(adata: AnnData, key: str) -> pd.DataFrame:
    cells = _Cells(adata, key)
    found = [cells.judge(k) for k in cells.present]
    names = distinct_names({cells.names[k]: one.words for k, one in zip(cells.present, found, strict=True)})
    table = pd.DataFrame([vars(one) for one in found], index=pd.Index(names.index, name=key)).drop(columns="words")
    table["name"] = _distinct(names.tolist(), found, cells)
    return table


def _distinct(names: list[str], found: "list[_Evidence]", cells: "_Cells") -> list[str]:
    """Return the names of the clusters with their artefacts, and a further word or two for those that share one."""
    artefacts = [_artefact(one) for one in found]
    words = [[] if name == NOTHING else [name] for name in names]
    for _ in range(_MOST_FURTHER):
        groups: dict[tuple[str, ...], list[int]] = {}
        for place, artefact in enumerate(artefacts):
            groups.setdefault((*words[place], artefact), []).append(place)
        for group in groups.values():
            if len(group) > 1:
                used = {word.rpartition(" ")[0] for word in words[group[0]]}
                used |= {found[place].marker for place in group if artefacts[place]}
                further = cells.differences([cells.present[place] for place in group], used)
                for place, word in zip(group, further, strict=True):
                    words[place] += [word] if word else []
    return [f"{', '.join(of_it) or NOTHING}{artefact}" for of_it, artefact in zip(words, artefacts, strict=True)]


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
        if len(self.present) > _MAX_CLUSTERS:
            msg = f"obs[{key!r}] has {len(self.present):,} clusters; at most {_MAX_CLUSTERS:,} can be explained."
            raise InputError(msg, "Cluster with a lower `resolution`, or choose another column.")
        self.fingerprints = fingerprint_each(self.codes, self.n)
        self.markers = adata.var_names.astype(str).tolist()
        self.logged = features_of(adata, MEAN_INTENSITY, np.arange(adata.n_obs))  # (N, C)
        self.mean, self.variance = _moments([(slice(None), self.logged)], self.codes, self.counts)
        clustered = self.logged[self.codes < self.n]
        self.against_others = np.zeros_like(self.mean)
        self.against_others[self.present] = self._against_rest(self.present, self.mean, self.variance)
        self.overall, self.sd = clustered.mean(axis=0, dtype=np.float64), clustered.std(axis=0, dtype=np.float64)
        self.features, self.feature_mean, self.feature_variance = self._patterns()
        self.neighbours = self._neighbours()
        self.at_border = self._at_border()
        self.at_border_everywhere = float(self.at_border[self.codes < self.n].mean())
        self.technical = TechnicalEffects(adata, self.names, self.codes, _divide(self.logged - self.overall, self.sd))
        self.jaccard = self._jaccard(key)

    def judge(self, k: int) -> _Evidence:
        """Return the evidence on a cluster, its verdict and the reason."""
        effects = self.against_others[k]
        found = _Evidence(int(self.counts[k]), markers=self._listed(effects), jaccard=float(self.jaccard[k]))
        found.fingerprint = self.fingerprints[k]
        found.at_border = float(self.at_border[self.codes == k].mean())
        similar = self._similar(k)
        s = similar[0] if similar else None
        if s is not None:
            found.sibling = self.names[s]
            against = _cohen(self.mean, self.variance, k, s)
            found.markers_from_sibling = self._listed(against)
            raised = int(np.argmax(against))
            found.marker, found.effect = self.markers[raised], float(against[raised])
            found.spillover, found.source = self._spillover(k, raised)
            found.spillover_sibling = self._spillover(s, raised)[0]
            found.contrast = self._contrast(raised, k, s)
        technical = self.technical.of(k, similar) if found.count >= _MIN_CELLS else Technical()
        found.technical, found.split_from = technical.kind, technical.other
        found.separated, found.likewise = technical.separated, technical.likewise
        found.verdict, found.reason = self._verdict(found, k, s, technical)
        found.words = self._words(found, effects)
        return found

    def _verdict(self, found: _Evidence, k: int, s: int | None, technical: Technical) -> tuple[str, str]:
        if limited := self._too_few_or_at_border(found):
            return limited
        if s is None:
            return REAL, "Not compared: it is the only cluster."
        if artefact := self._artefact(found, k, s, technical):
            return artefact
        if found.jaccard < _MIN_JACCARD:
            return UNSTABLE, (
                f"Other seeds and random {SHARE:.0%} of the cells give other clusters (Jaccard {found.jaccard:.2f})."
            )
        return REAL, self._why_real(found, k, s, technical.note)

    def _too_few_or_at_border(self, found: _Evidence) -> tuple[str, str] | None:
        if found.count < _MIN_CELLS:
            return UNSTABLE, f"It has {found.count} cells; {_MIN_CELLS} are needed."
        everywhere = self.at_border_everywhere
        if not found.at_border >= max(_MIN_BORDER, _BORDER_TIMES * everywhere):
            return None
        found.technical = _BORDER
        return TECHNICAL, (
            f"{found.at_border:.0%} of its cells are at the border of the slide ({everywhere:.0%} of all cells)."
        )

    def _artefact(self, found: _Evidence, k: int, s: int, technical: Technical) -> tuple[str, str] | None:
        if self._is_spillover(found, self.names[k]):
            return SPILLOVER, (
                f"{_raised(found)}; {found.spillover:.0%} of its cells have a neighbour twice as bright, mostly of "
                f"cluster {found.source} ({found.spillover_sibling:.0%} in cluster {found.sibling})."
            )
        if technical.kind:
            return TECHNICAL, technical.reason
        if unspecific := self._unspecific(found, k, s):
            return UNSPECIFIC, unspecific
        return None

    def _is_spillover(self, found: _Evidence, name: str) -> bool:
        # Cells that express the marker are brighter than the sibling's, so fewer of them have a brighter neighbour.
        if found.effect < LARGE_EFFECT or is_control(found.marker) or found.source == name:
            return False  # where counts are low, cells of one cluster are often twice as bright as each other
        return bool(found.spillover >= _MIN_SPILLOVER and found.spillover > found.spillover_sibling)

    def _unspecific(self, found: _Evidence, k: int, s: int) -> str:
        """Return why the staining of a cluster is unspecific, "" if it is not."""
        if found.effect < LARGE_EFFECT:
            return ""
        if is_control(found.marker):
            return f"{_raised(found)}, a channel without an antibody."
        j = self.markers.index(found.marker)
        fold = float(np.exp(self.mean[k, j] - self.mean[s, j]))
        if found.contrast < _MAX_CONTRAST and fold <= _MAX_FOLD and not is_nuclear(found.marker):
            return f"{_raised(found)}, but its contrast inside the cell is not (d = {found.contrast:.1f})."
        return ""

    def _why_real(self, found: _Evidence, k: int, s: int, seen: str) -> str:
        untested = []
        if np.isnan(found.spillover):
            untested.append("spill-over")
        if np.isnan(found.contrast):
            untested.append("unspecific staining")
        if self.technical.sharpness is None:
            untested.append("focus")
        if np.isnan(found.jaccard):
            untested.append("stability")
        note = (f" {seen}." if seen else "") + (f" Not tested: {', '.join(untested)}." if untested else "")
        if found.effect >= LARGE_EFFECT:
            near = "" if np.isnan(found.spillover) else f"; {found.spillover:.0%} have a neighbour twice as bright"
            return f"{_raised(found)}{near}.{note}"
        against = _cohen(self.mean, self.variance, k, s)
        lowest = int(np.argmin(against))
        if against[lowest] <= -LARGE_EFFECT:
            low = f"{self.markers[lowest]} is lower than in cluster {found.sibling} (d = {against[lowest]:.1f})"
            return f"{low}, and no marker is raised.{note}"
        pattern = self._strongest_pattern(k, s)
        return f"No marker differs from cluster {found.sibling} by {LARGE_EFFECT} standard deviations{pattern}.{note}"

    def _words(self, found: _Evidence, effects: np.ndarray) -> list[str]:
        """Return the words of the name: markers raised against all cells and the sibling, without an artefact's."""
        distinct = [found.marker] if found.effect >= LARGE_EFFECT else []
        artefact = distinct if found.verdict in (SPILLOVER, UNSPECIFIC) else []
        of_marker = dict(zip(self.markers, effects.tolist(), strict=True))
        return marker_words(of_marker, also=[] if artefact else distinct, without=artefact)

    def differences(self, group: list[int], without: set[str]) -> list[str]:
        """Return what sets each cluster of a group apart from the others of it: a marker, else a named feature.

        Parameters
        ----------
        group
            Codes of the clusters.
        without
            Markers and features that are not used.

        Returns
        -------
        Words such as "PD-L1 side high"; "" where nothing differs by 0.8.
        """
        words = [""] * len(group)
        for names, mean, variance in (
            (self.markers, self.mean, self.variance),
            (self.features, self.feature_mean, self.feature_variance),
        ):
            effects = self._against_rest(group, mean, variance)
            effects[:, [name in without or is_control(name) for name in names]] = 0
            for place, of_one in enumerate(effects):
                if not words[place] and np.abs(of_one).max(initial=0) >= LARGE_EFFECT:
                    j = int(np.abs(of_one).argmax())
                    words[place] = f"{names[j]} {'high' if of_one[j] > 0 else 'low'}"
        return words

    def _against_rest(self, group: list[int], mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return Cohen's d (clusters, columns) of each cluster of a group against all others of the group together."""
        mean, variance, n = mean[group], variance[group], self.counts[group][:, None].astype(np.float64)
        if len(group) < 2:
            return np.zeros_like(mean)
        mean = mean - (n * mean).sum(axis=0) / n.sum()
        squares, rest = variance + mean**2, n.sum() - n
        of_rest = -n * mean / rest  # all means are relative to that of the group
        variance_of_rest = ((n * squares).sum(axis=0) - n * squares) / rest - of_rest**2
        return _divide(mean - of_rest, np.sqrt((variance + np.maximum(variance_of_rest, 0)) / 2))

    def _listed(self, effects: np.ndarray) -> str:
        order = np.argsort(-np.abs(effects), kind="stable")[:MOST_MARKERS]
        return " ".join(f"{self.markers[j]}{effects[j]:+.1f}" for j in order if abs(effects[j]) >= LARGE_EFFECT)

    def _similar(self, k: int) -> list[int]:
        """Return the clusters most similar to one, of those with enough cells if there are any; the sibling first."""
        others = [j for j in self.present if j != k]
        others = [j for j in others if self.counts[j] >= _MIN_CELLS] or others
        if not others:
            return []
        distance = (_divide(self.mean[others] - self.mean[k], self.sd) ** 2).sum(axis=1)
        return [others[i] for i in np.argsort(distance, kind="stable")[:_N_SIMILAR]]

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
        rows = np.flatnonzero(self.codes == k)
        near = self.neighbours[rows]
        of_near = np.expm1(self.logged[near, marker])
        brightest = near[np.arange(len(rows)), of_near.argmax(axis=1)]
        own = np.expm1(self.logged[rows, marker])
        brighter = of_near.max(axis=1) >= _TIMES_BRIGHTER * np.maximum(own, 1e-9)
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

    def _jaccard(self, key: str) -> np.ndarray:
        """Return how well Leiden finds each cluster again; NaN where it cannot be tested."""
        about = self.adata.uns.get("mxsplicer_cluster", {})
        representation = str(about.get("use_rep", learned_key(self.adata)))
        out = np.full(self.n, np.nan)
        if key != "leiden" or clusters_changed(self.adata) or representation not in self.adata.obsm:
            return out  # clusters of another method or of unknown settings
        rows = sampled_rows(np.flatnonzero(self.codes < self.n))
        found = jaccard_of_clusters(
            read_rows(self.adata.obsm[representation], rows),
            self.codes[rows],
            resolution=float(about.get("resolution", RESOLUTION)),
            n_neighbors=int(about.get("n_neighbors", N_NEIGHBORS)),
        )
        out[: len(found)] = found
        return out

    def _at_border(self) -> np.ndarray:
        """Return 1 for each cell (N,) at the border of the slide and 0 for the others, NaN if it is not known."""
        if "at_border" not in self.adata.obs:
            return np.full(self.adata.n_obs, np.nan)
        return np.asarray(self.adata.obs["at_border"].isin([True]), dtype=np.float64)


def _artefact(found: _Evidence) -> str:
    """Return what the name of a cluster ends with if it is an artefact, "" if not."""
    artefact = {
        SPILLOVER: f"{found.marker} spill-over",
        UNSPECIFIC: f"{found.marker} unspecific",
        TECHNICAL: found.technical,
    }.get(found.verdict)
    return f" ({artefact})" if artefact else ""


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
