"""What a careful reader should hold against the page, in sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from mxsplicer.images.markers import is_control
from mxsplicer.tl.representations import UNTRAINED, is_baseline, trained

_DOMINATED, _FOLLOWED, _UNFOLLOWED = 0.4, 0.5, 0.15
_TINY_CELLS, _TINY_SHARE = 50, 0.002
_NEIGHBOURS = 15
_FEW_CELLS = 2000


def doubts(
    adata: AnnData,
    panel: Sequence[dict[str, Any]],
    scores: pd.DataFrame | None,
    key: str | None,
    z: np.ndarray | None,
    rows: np.ndarray,
) -> list[str]:
    """Return the sentences.

    Parameters
    ----------
    panel
        Cards of the markers.
    key
        Of the correlations in ``varm``.
    z, rows
        The representation of some cells, and which these are.
    """
    return [
        *_of_markers(panel),
        *_of_cells(adata),
        *_of_clusters(adata),
        *_of_features(adata, key),
        *_of_slides(adata, z, rows),
        *_of_scores(scores),
    ]


def _of_markers(panel: Sequence[dict[str, Any]]) -> Iterator[str]:
    empty = [card["marker"] for card in panel if card["all_zero"]]
    if empty:
        yield f"Markers without any signal: {', '.join(empty)}. Nothing can be learned from them."
    partly = [card for card in panel if card["zero_in"] and not card["all_zero"]]
    if partly:
        listed = ", ".join(f"{card['marker']} ({card['zero_in']} of {card['n_slides']} slides)" for card in partly)
        yield f"Markers that are all zero on some slides: {listed}. There their absence is no biology."


def _of_cells(adata: AnnData) -> Iterator[str]:
    if "at_border" in adata.obs and (n := int(adata.obs["at_border"].astype(bool).sum())):
        yield f"{n:,} cells ({n / adata.n_obs:.1%}) touch the edge of the slide: their size and shape are cut."
    if "patch_valid_fraction" in adata.obs and (n := int((adata.obs["patch_valid_fraction"] < 1).sum())):
        yield (
            f"{n:,} patches ({n / adata.n_obs:.1%}) reach beyond the slide and are filled with zeros there; such cells "
            "may gather on the map for that reason alone."
        )
    if adata.n_obs < _FEW_CELLS:
        yield f"{adata.n_obs:,} cells are few for training: trust neither small clusters nor small differences."


def _of_clusters(adata: AnnData) -> Iterator[str]:
    if "leiden" not in adata.obs:
        return
    counts = adata.obs["leiden"].astype("category").value_counts()
    fewest = min(_TINY_CELLS, max(10, _TINY_SHARE * adata.n_obs)) if adata.n_obs < 25_000 else _TINY_SHARE * adata.n_obs
    tiny = sorted((str(name) for name in counts.index[(counts > 0) & (counts < fewest)]), key=lambda n: (len(n), n))
    if tiny:
        yield (
            f"Tiny clusters, of fewer than {fewest:,.0f} cells: {', '.join(tiny)}. They may be debris, folds of the "
            "tissue or badly outlined cells; look at their cells before naming them."
        )
    clustered = adata.uns.get("mxsplicer_cluster", {}).get("n_clustered", adata.n_obs)
    if clustered < adata.n_obs:
        yield (
            f"{int(clustered):,} of the {adata.n_obs:,} cells were clustered, drawn at random; the others joined the "
            "cluster of the cells most like them. A type of fewer than one cell in some thousands can be missed so."
        )
    if "slide" in adata.obs and adata.obs["slide"].nunique() > 1:
        share = pd.crosstab(adata.obs["leiden"], adata.obs["slide"], normalize="index").max(axis=1)
        own = [str(name) for name in share.index[share >= 0.9]]
        if own:
            yield f"Clusters of which 90 % or more lie on one slide: {', '.join(own)}. Suspect staining first."


def _of_features(adata: AnnData, key: str | None) -> Iterator[str]:
    if key is None:
        return
    r = np.abs(np.asarray(adata.varm[key], dtype=np.float64))
    names = [str(name) for name in adata.var_names]
    if len(names) >= 4:
        share = np.bincount(r.argmax(axis=0), minlength=len(names)) / r.shape[1]
        first = int(share.argmax())
        if share[first] >= _DOMINATED:
            yield (
                f"{share[first]:.0%} of the features follow {names[first]} more than any other marker: what the "
                "clusters and the map show is mostly that one."
            )
    strongest = r.max(axis=1)
    glow = [name for name, best in zip(names, strongest, strict=True) if is_control(name) and best >= _FOLLOWED]
    if glow:
        yield (
            f"Features follow channels that stain nothing ({', '.join(glow)}), with |r| of {_FOLLOWED} or more: "
            "autofluorescence is a part of what was learned. Leave such channels out by --drop."
        )
    unfollowed = [
        name for name, best in zip(names, strongest, strict=True) if best < _UNFOLLOWED and not is_control(name)
    ]
    if unfollowed:
        listed = ", ".join(unfollowed)
        yield f"Hardly any feature follows {listed} (|r| below {_UNFOLLOWED}): do not look for them here."
    prefix = key.removesuffix("_correlation")
    if f"{prefix}_partial_correlation" in adata.varm:
        partial = np.abs(np.asarray(adata.varm[f"{prefix}_partial_correlation"])).max(axis=1)
        gone = [
            name for name, best, left in zip(names, strongest, partial, strict=True) if best >= 0.3 and left < best / 2
        ]
        if gone:
            yield (
                "Once the light around a cell, nuclei and autofluorescence are held fixed, less than half is left of "
                f"how closely features follow {', '.join(gone)}: spill-over would explain the rest."
            )
    if f"{prefix}_correlation_p" in adata.varm:
        limit = float(adata.uns.get(key, {}).get("p_5pct_fdr", 0.05))
        least = np.asarray(adata.varm[f"{prefix}_correlation_p"]).min(axis=1)
        chance = [name for name, p in zip(names, least, strict=True) if p > limit]
        if chance:
            yield (
                f"No feature follows {', '.join(chance)} more closely than chance would have it in a tissue where "
                "neighbouring cells are alike."
            )


def _of_slides(adata: AnnData, z: np.ndarray | None, rows: np.ndarray) -> Iterator[str]:
    if "slide" not in adata.obs or adata.obs["slide"].nunique() == 1:
        yield "There is one slide: nothing here shows that the result holds for another patient or staining run."
        return
    if z is None:
        return
    slide = adata.obs["slide"].astype("category").cat.codes.to_numpy()[rows]
    some = np.random.default_rng(0).permutation(len(rows))[:4000]
    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(some) - 1), algorithm="brute").fit(z[some])
    neighbours = near.kneighbors(return_distance=False)
    same = float((slide[some][neighbours] == slide[some][:, None]).mean())
    shares = np.bincount(slide[some]) / len(some)
    chance = float((shares**2).sum())
    if same > chance + 0.25 * (1 - chance):
        yield (
            f"The slide can be read from the features: of the cells most like a cell, {same:.0%} are of the same "
            f"slide, where {chance:.0%} would be if slides did not matter. Suspect staining."
        )


def _of_scores(scores: pd.DataFrame | None) -> Iterator[str]:
    if scores is None or scores.empty:
        yield "No labels were given, so nothing here measures whether the features are better than mean intensity."
        return
    for label, rows in scores.groupby("label", sort=False):
        by_name = rows.set_index("representation")["balanced_accuracy"]
        name = trained(list(by_name.index))
        if is_baseline(name) or UNTRAINED not in by_name:
            continue
        gain = float(by_name[name] - by_name[UNTRAINED])
        if gain < 0.02:
            yield (
                f"{label}: an encoder that never learned scores {abs(gain) * 100:.1f} points "
                f"{'more' if gain < 0 else 'less'} than the trained one; what the training added, this label does not "
                "show."
            )
    spread = scores["balanced_accuracy_sd"].max()
    yield (
        "The encoder was trained, without labels, on the same cells that are scored here unless a trained model was "
        f"given; only the probes are kept apart by folds. Their spread goes up to {spread * 100:.1f} points: smaller "
        "differences mean little."
    )
    if (scores["left_out"] != "").any():
        yield "Classes too rare to stand in every fold were left out of the scores; they are named beside them."
