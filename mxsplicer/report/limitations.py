"""The section "Limitations": what a careful reader should know before trusting the results, in sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from mxsplicer.images.markers import is_control
from mxsplicer.tl.clustering import cluster_profiles
from mxsplicer.tl.enrichment import enrichment_is_current
from mxsplicer.tl.fingerprints import clusters_changed
from mxsplicer.tl.representations import BUILT_IN, UNTRAINED, is_baseline, trained

_DOMINANT_SHARE = 0.4  # of the features that are correlated most strongly with one marker
_STRONG_R, _WEAK_R = 0.5, 0.15  # |r| from which a feature represents a marker, and below which none does
_SPILL_OVER_R = 0.3  # |r| from which a drop of the partial correlation is reported
_SMALL_CLUSTER_CELLS, _SMALL_CLUSTER_SHARE = 50, 0.002
_ONE_SLIDE_SHARE = 0.9  # of the cells of a cluster
_NEIGHBOURS, _NEIGHBOUR_SAMPLE = 15, 4000
_RECOGNISABLE = 0.25  # of the way from chance to certainty
_SMALLEST_GAIN = 0.02  # of balanced accuracy, over an untrained encoder
_FEW_CELLS = 2000


def limitations_section(
    adata: AnnData,
    cards: Sequence[dict[str, Any]],
    scores: pd.DataFrame | None,
    key: str | None,
    z: np.ndarray | None,
    rows: np.ndarray,
) -> list[str]:
    """Return one sentence or two for each limitation that the data shows.

    Parameters
    ----------
    adata
        Cells.
    cards
        Cards of the markers, as :func:`mxsplicer.report.markers.marker_cards` returns them.
    scores
        What :func:`mxsplicer.tl.probe` returned.
    key
        Key of the correlations in ``varm``.
    z, rows
        The representation (n, d) of some cells, and their rows in ``adata``.
    """
    return [
        *_of_markers(cards),
        *_of_cells(adata),
        *_of_clusters(adata),
        *(_of_correlations(adata, key) if key is not None else ()),
        *_of_slides(adata, z, rows),
        *_of_scores(scores),
    ]


def _of_markers(cards: Sequence[dict[str, Any]]) -> Iterator[str]:
    empty = [card["marker"] for card in cards if card["all_zero"]]
    if empty:
        yield f"Markers without any signal: {', '.join(empty)}. Nothing can be learned from them."
    partly = [card for card in cards if card["zero_in"] and not card["all_zero"]]
    if partly:
        listed = ", ".join(f"{card['marker']} ({card['zero_in']} of {card['n_slides']} slides)" for card in partly)
        yield (
            f"Markers without any signal on some slides: {listed}. Their absence there is technical, not biological."
        )


def _of_cells(adata: AnnData) -> Iterator[str]:
    if "at_border" in adata.obs and (n := int(adata.obs["at_border"].astype(bool).sum())):
        yield (
            f"{_cells(n, adata)} at the edge of the slide: part of the cell may lie outside the image, so that "
            "its size and shape are incomplete."
        )
    if "patch_valid_fraction" in adata.obs and (n := int((adata.obs["patch_valid_fraction"] < 1).sum())):
        yield (
            f"The patches of {_cells(n, adata)} extend beyond the slide and are filled with zeros there. Such cells "
            "may form groups on the UMAP for this reason alone."
        )
    larger = adata.uns.get("mxsplicer", {}).get("larger_cells", {})
    if n := sum(int(of_slide) for of_slide in larger.values()):
        yield (
            f"Parts of {_cells(n, adata)} lie outside their patches, and the encoder does not see them. Larger patches "
            "show these cells whole."
        )
    for warning in adata.uns.get("mxsplicer", {}).get("few_cells", {}).values():
        yield f"{str(warning)[:1].upper()}{str(warning)[1:]}".replace("`nuclear_marker`", "nuclear marker")
    if adata.n_obs < _FEW_CELLS:
        yield f"{adata.n_obs:,} cells are few: do not trust small clusters or small differences."


def _cells(n: int, adata: AnnData) -> str:
    return f"{n:,} cell{'' if n == 1 else 's'} ({n / adata.n_obs:.1%})"


def _of_clusters(adata: AnnData) -> Iterator[str]:
    if "leiden" not in adata.obs:
        return
    counts = adata.obs["leiden"].astype("category").value_counts()
    fewest = _SMALL_CLUSTER_SHARE * adata.n_obs
    if adata.n_obs < 25_000:
        fewest = min(_SMALL_CLUSTER_CELLS, max(10, fewest))
    small = sorted((str(name) for name in counts.index[(counts > 0) & (counts < fewest)]), key=lambda n: (len(n), n))
    if small:
        yield (
            f"Clusters with fewer than {fewest:,.0f} cells: {', '.join(small)}. They may be debris, tissue folds or "
            "segmentation errors; look at their cells before naming them."
        )
    clustered = adata.uns.get("mxsplicer_cluster", {}).get("n_clustered", adata.n_obs)
    if clustered < adata.n_obs and not clusters_changed(adata):
        yield (
            f"{int(clustered):,} of the {adata.n_obs:,} cells were clustered, a random sample; the others were "
            "assigned to the cluster of the most similar cells. Cell types rarer than one in several thousand cells "
            "may be missed."
        )
    if "leiden_nhood_enrichment" in adata.uns and not enrichment_is_current(adata):
        yield (
            "The neighbourhood enrichment is left out: it was computed for other cells or clusters. Run "
            "`mxsplicer.tl.enrich_neighbourhoods` again."
        )
    if "slide" in adata.obs and adata.obs["slide"].nunique() > 1:
        share = pd.crosstab(adata.obs["leiden"], adata.obs["slide"], normalize="index").max(axis=1)
        of_one_slide = [str(name) for name in share.index[share >= _ONE_SLIDE_SHARE]]
        if of_one_slide:
            yield (
                f"Clusters with 90 % or more of their cells on one slide: {', '.join(of_one_slide)}. Suspect staining "
                "before biology."
            )


def _of_correlations(adata: AnnData, key: str) -> Iterator[str]:
    r = np.abs(np.asarray(adata.varm[key], dtype=np.float64))
    names = [str(name) for name in adata.var_names]
    strongest = r.max(axis=1)
    if len(names) >= 4:
        share = np.bincount(r.argmax(axis=0), minlength=len(names)) / r.shape[1]
        first = int(share.argmax())
        if share[first] >= _DOMINANT_SHARE:
            yield (
                f"{share[first]:.0%} of the features are correlated with {names[first]} more strongly than with any "
                f"other marker{_dominance(adata, names[first])}."
            )
    is_control_channel = np.array([is_control(name) for name in names])
    controls = _where(names, is_control_channel & (strongest >= _STRONG_R))
    if controls:
        yield (
            f"Features are correlated (|r| of {_STRONG_R} or more) with channels without an antibody "
            f"({', '.join(controls)}): background is part of what they describe. Embed again without such "
            "channels."
        )
    weak = _where(names, ~is_control_channel & (strongest < _WEAK_R))
    if weak:
        yield (
            f"No feature represents {', '.join(weak)} (|r| below {_WEAK_R} for all): do not use the features to study "
            "these markers."
        )
    yield from _of_spill_over_and_significance(adata, key, names, strongest)


def _dominance(adata: AnnData, marker: str) -> str:
    """Return whether the clusters, too, differ mainly in one marker, to end a sentence with."""
    if "leiden" not in adata.obs:
        return ""
    profiles = cluster_profiles(adata)
    counts = adata.obs["leiden"].astype(str).value_counts().reindex(profiles.index.astype(str)).to_numpy()
    between = counts @ profiles.to_numpy() ** 2  # variance between clusters, of each standardised marker
    share = float(between[list(profiles.columns).index(marker)] / max(between.sum(), 1e-9))
    if share < _DOMINANT_SHARE:
        return ""
    return f", and it has {share:.0%} of the differences between clusters: they mainly reflect this marker"


def _of_spill_over_and_significance(adata: AnnData, key: str, names: list[str], strongest: np.ndarray) -> Iterator[str]:
    prefix = key.removesuffix("_correlation")
    if f"{prefix}_partial_correlation" in adata.varm:
        partial = np.abs(np.asarray(adata.varm[f"{prefix}_partial_correlation"])).max(axis=1)
        explained = _where(names, (strongest >= _SPILL_OVER_R) & (partial < strongest / 2))
        if explained:
            yield (
                f"Less than half of the correlation of the features with {', '.join(explained)} remains after "
                "controlling for neighbourhood intensity, nuclei and autofluorescence: spill-over could explain the "
                "rest."
            )
    if f"{prefix}_correlation_p" in adata.varm:
        limit = float(adata.uns.get(key, {}).get("p_5pct_fdr", 0.05))
        not_significant = _where(names, np.asarray(adata.varm[f"{prefix}_correlation_p"]).min(axis=1) > limit)
        if not_significant:
            yield (
                f"No feature is significantly correlated with {', '.join(not_significant)}, taking into account that "
                "neighbouring cells are similar."
            )


def _where(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [name for name, one in zip(names, chosen, strict=True) if one]


def _of_slides(adata: AnnData, z: np.ndarray | None, rows: np.ndarray) -> Iterator[str]:
    if "slide" not in adata.obs or adata.obs["slide"].nunique() == 1:
        yield "There is only one slide: nothing shows that the results hold for another patient or staining run."
        return
    if z is None:
        return
    slide = adata.obs["slide"].astype("category").cat.codes.to_numpy()[rows]
    some = np.random.default_rng(0).permutation(len(rows))[:_NEIGHBOUR_SAMPLE]
    nearest = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(some) - 1), algorithm="brute").fit(z[some])
    neighbours = nearest.kneighbors(return_distance=False)
    same = float((slide[some][neighbours] == slide[some][:, None]).mean())
    shares = np.bincount(slide[some]) / len(some)
    chance = float((shares**2).sum())
    if same > chance + _RECOGNISABLE * (1 - chance):
        yield (
            f"The slide of a cell can be recognised from the features: {same:.0%} of its nearest neighbours are from "
            f"the same slide, and {chance:.0%} would be if slides did not differ. Suspect staining before biology."
        )


def _of_scores(scores: pd.DataFrame | None) -> Iterator[str]:
    if scores is None or scores.empty:
        yield "No labels were given, so the features were not compared with other descriptions of the cells."
        return
    for label, rows in scores.groupby("label", sort=False):
        by_name = rows.set_index("representation")["balanced_accuracy"]
        name = trained(list(by_name.index))
        if is_baseline(name) or UNTRAINED not in by_name:
            continue
        gain = float(by_name[name] - by_name[UNTRAINED])
        if gain < _SMALLEST_GAIN:
            yield (
                f"{label}: an untrained encoder scores {abs(gain) * 100:.1f} points {'more' if gain < 0 else 'less'} "
                "than the trained one. This label does not show that training helped."
            )
    spread = scores["balanced_accuracy_sd"].max()
    if BUILT_IN not in set(scores["representation"]):
        yield (
            "Unless a pretrained model was used, the encoder was trained, without labels, on the same cells that are "
            "scored here; only the classifiers were cross-validated."
        )
    yield (
        f"The standard deviation of scores across folds is up to {spread * 100:.1f} points: smaller differences mean "
        "little."
    )
    if (scores["left_out"] != "").any():
        yield "Classes that are too rare to occur in every fold were left out of the scores; the scores list them."
