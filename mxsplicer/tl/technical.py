"""Clusters that technical effects split from others: a seam, uneven illumination, blur, a slide or a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from anndata import AnnData

from mxsplicer.tl.features import feature_names
from mxsplicer.tl.marker_words import LARGE_EFFECT
from mxsplicer.tl.places import Places, find_seam, places_around, places_of_groups, shift_of_others
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import learned_key
from mxsplicer.tl.stability import sampled_rows

GROUPS = ("slide", "batch")
OUT_OF_FOCUS, SEAM, UNEVEN = "out of focus", "seam", "uneven illumination or staining"
_ONE_GROUP, _OTHER_GROUP = 0.95, 0.05  # of the cells of a cluster, and of its sibling
_OVERALL_EFFECT = 0.5  # median over markers
_DEGREE = 3  # of the polynomial in the level of a marker that predicts its spread


@dataclass(frozen=True)
class Technical:
    """What technical effect splits a cluster from another; ``kind`` is "" if none was found."""

    kind: str = ""
    other: str = ""  # the cluster that it is split from
    separated: float = np.nan  # AUROC of the places of the two clusters
    likewise: float = np.nan  # share of other cells that differ between these places in the same way
    reason: str = ""
    note: str = ""  # worth to be known of a cluster without such an effect


class TechnicalEffects:
    """A sample of clustered cells with their places, log intensities and sharpness."""

    def __init__(self, adata: AnnData, names: Sequence[str], codes: np.ndarray, standardized: np.ndarray) -> None:
        """Sample the cells.

        Parameters
        ----------
        adata
            All cells.
        names, codes
            The clusters, and the code of each cell; cells without a cluster have another code.
        standardized
            Log intensities (N, C), standardised over all clustered cells.
        """
        usable = codes < len(names)
        positions = np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2] if "spatial" in adata.obsm else None
        if positions is not None:
            usable &= np.isfinite(positions).all(axis=1)
        rows = sampled_rows(np.flatnonzero(usable))
        self.names, self.codes = names, codes[rows]
        self.points = None if positions is None else positions[rows]
        columns = {
            name: adata.obs[name].iloc[rows].astype(str).astype("category") for name in GROUPS if name in adata.obs
        }
        self.group_names = {name: column.cat.categories for name, column in columns.items()}
        self.groups = {name: column.cat.codes.to_numpy().astype(np.int64) for name, column in columns.items()}
        self.intensities = standardized[rows]
        self.sharpness = _sharpness(adata, rows)

    def of(self, k: int, similar: Sequence[int]) -> Technical:
        """Return the technical effect that splits a cluster from one of the most similar clusters.

        Parameters
        ----------
        k
            Code of the cluster.
        similar
            Codes of the most similar clusters, the nearest first.
        """
        note = ""
        for s in similar:
            first, second = self.codes == k, self.codes == s
            if first.sum() < 2 or second.sum() < 2:
                continue
            for places, group in self._places(first, second):
                found = self._compare(k, s, places, group)
                if found.kind:
                    return found
                note = note or found.note
        return Technical(note=note)

    def _places(self, first: np.ndarray, second: np.ndarray) -> list[tuple[Places, str]]:
        """Return how two clusters share positions, slides and batches, where these decide between them."""
        out = []
        if self.points is not None:
            slide = self.groups.get("slide", np.zeros(len(self.codes), dtype=np.int64))
            out.append((places_around(self.points, slide, first, second), ""))
        for name, codes in self.groups.items():
            if codes.max(initial=0) > 0:
                out.append((places_of_groups(codes, first, second), name))
        return [(places, group) for places, group in out if places.are_apart]

    def _compare(self, k: int, s: int, places: Places, group: str) -> Technical:
        first, second = self.codes == k, self.codes == s
        found = Technical(other=self.names[s], separated=places.separated)
        effects = _effect(self.intensities, first, second)
        if np.abs(effects).max() >= LARGE_EFFECT:
            shift = shift_of_others(places, self.intensities, self.codes, k, s)
            found = replace(found, likewise=shift.likewise)
            if shift.is_technical:
                seam = None if group else self._seam(first, second)
                found = replace(found, kind=group or (UNEVEN if seam is None else SEAM))
                return self._described(found, group, "" if seam is None else f" There is a straight border at {seam}.")
        if self.sharpness is not None and _effect(self.sharpness, first, second) <= -LARGE_EFFECT:
            values = np.column_stack([self.intensities, self.sharpness])
            shift = shift_of_others(places, values, self.codes, k, s, column=values.shape[1] - 1)
            if shift.is_technical:
                # Where all markers are brighter, a spread that is small for the level does not show blur.
                kind = UNEVEN if abs(np.median(effects)) >= _OVERALL_EFFECT else OUT_OF_FOCUS
                return self._described(replace(found, kind=kind, likewise=shift.likewise), group)
        if group and (one := self._one_group(first, second, group)):
            if np.isnan(found.likewise):  # there are too few other cells for a comparison
                return replace(found, kind=group, reason=f"{one}.")
            return replace(found, note=f"{one}; other cells there do not differ likewise")
        return found

    def _described(self, found: Technical, group: str, more: str = "") -> Technical:
        where = f"The {group}" if group else "The place"
        what = "less sharp" if found.kind == OUT_OF_FOCUS else "brighter or darker"
        reason = (
            f"{where} of a cell decides whether it is of this cluster or of cluster {found.other} (AUROC "
            f"{found.separated:.2f}), and {found.likewise:.0%} of all other cells there are {what} likewise.{more}"
        )
        return replace(found, reason=reason)

    def _seam(self, first: np.ndarray, second: np.ndarray) -> str | None:
        """Return the seam between two clusters on the slide that has most of their cells."""
        either = first | second
        slide = self.groups.get("slide", np.zeros(len(self.codes), dtype=np.int64))
        here = either & (slide == np.bincount(slide[either]).argmax())
        return find_seam(self.points[here], first[here]) if self.points is not None else None

    def _one_group(self, first: np.ndarray, second: np.ndarray, group: str) -> str:
        """Return a sentence if a cluster is of one slide or batch, and the other one is not."""
        codes = self.groups[group]
        counts = np.bincount(codes[first])
        share, of_other = counts.max() / counts.sum(), float((codes[second] == counts.argmax()).mean())
        if share < _ONE_GROUP or of_other > _OTHER_GROUP:
            return ""
        name = self.group_names[group][int(counts.argmax())]
        return (
            f"{share:.0%} of its cells are of {group} {name}, and {of_other:.0%} of those of the most similar cluster"
        )


def _sharpness(adata: AnnData, rows: np.ndarray) -> np.ndarray | None:
    """Return the spread of the markers within some cells compared with cells of equal level, standardised, or None.

    Blur spreads every marker more evenly over a cell and leaves its mean.
    """
    key = learned_key(adata)
    names = feature_names(adata, use_rep=key) if key in adata.obsm else []
    pairs = [
        (names.index(f"{marker} level"), names.index(f"{marker} spread"))
        for marker in adata.var_names.astype(str)
        if f"{marker} level" in names and f"{marker} spread" in names
    ]
    if not pairs:
        return None
    z = read_rows(adata.obsm[key], rows).astype(np.float64)
    total = np.zeros(len(rows))
    for level, spread in pairs:
        if z[:, level].std() > 0:
            expected = np.polynomial.Polynomial.fit(z[:, level], z[:, spread], _DEGREE)
            total += z[:, spread] - expected(z[:, level])
    return np.asarray((total - total.mean()) / max(total.std(), 1e-9))


def _effect(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Cohen's d of values in one cluster against another one."""
    variance = (values[first].var(axis=0) + values[second].var(axis=0)) / 2
    difference = values[first].mean(axis=0) - values[second].mean(axis=0)
    return np.asarray(np.where(variance > 1e-12, difference / np.sqrt(np.maximum(variance, 1e-12)), 0))
