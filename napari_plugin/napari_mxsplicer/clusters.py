"""The clusters of a study: their counts, verdicts and example cells."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd

from mxsplicer import find_nuclear_marker, open_h5ad
from mxsplicer.tl import REAL, explain_clusters, stored_explanation
from napari_mxsplicer.exemplars import cut_images
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.study import Study

_MOST_DRAWN = 64  # cells of a cluster
_EXPLAINING = ("slide", "batch", "at_border")  # columns of obs that a verdict may need


@dataclass(frozen=True)
class Cluster:
    """One cluster with its verdict, "" while it is not known."""

    name: str
    code: int  # among the categories of its column
    count: int
    suggested: str = ""  # a name made of markers
    verdict: str = ""
    reason: str = ""
    markers: tuple[str, ...] = ()  # to show next to the nuclei: the first and the last of the suggested name

    @property
    def is_flagged(self) -> bool:
        """Whether the verdict is that of an artefact."""
        return self.verdict not in ("", REAL)


def read_clusters(study: Study) -> tuple[list[Cluster], bool]:
    """Return the clusters of a study, and whether their verdicts are known."""
    if not study.clustering:
        return [], True
    table = None
    if study.has("uns/mxsplicer_clusters"):
        obs = pd.DataFrame({study.clustering: study.clusters}, index=pd.RangeIndex(study.n_cells).astype(str))
        uns = {"mxsplicer_clusters": study.read("uns/mxsplicer_clusters")}
        table = stored_explanation(anndata.AnnData(obs=obs, uns=uns), study.clustering)
    return _clusters(study, table), table is not None


def judge_clusters(study: Study) -> list[Cluster]:
    """Compute the verdicts, and return the clusters with them; slow."""
    with open_h5ad(study.cells) as file:
        columns = [name for name in _EXPLAINING if name in study.obs_names]
        obs = pd.DataFrame(
            {study.clustering: study.clusters} | {name: study.column(name) for name in columns},
            index=pd.RangeIndex(study.n_cells).astype(str),
        )
        obsm = {study.representation: file["obsm"][study.representation]} if study.representation else {}
        uns = {key: study.read(f"uns/{key}") for key in ("mxsplicer", "mxsplicer_cluster") if study.has(f"uns/{key}")}
        adata = anndata.AnnData(study.intensities, obs=obs, var=pd.DataFrame(index=study.markers), obsm=obsm, uns=uns)
        if study.spatial_um is not None:
            adata.obsm["spatial"] = study.spatial_um
        return _clusters(study, explain_clusters(adata, study.clustering))


def _clusters(study: Study, table: pd.DataFrame | None) -> list[Cluster]:
    codes = {str(name): code for code, name in enumerate(study.clusters.categories)}
    found = []
    for name, count in study.cluster_counts.items():
        about: dict[Any, Any] = {} if table is None else table.loc[name, ["name", "verdict", "reason"]].to_dict()
        suggested = about.get("name", "")
        found.append(
            Cluster(
                name,
                codes[name],
                count,
                suggested=suggested,
                verdict=about.get("verdict", ""),
                reason=about.get("reason", ""),
                markers=_ends(markers_in(suggested, study.markers)),
            )
        )
    return found


def markers_in(name: str, markers: Sequence[str]) -> tuple[str, ...]:
    """Return the markers in the suggested name of a cluster, in its order.

    Examples
    --------
    >>> markers_in("CD3e+ CD4+ (CD163 spill-over)", ["CD163", "CD3", "CD3e", "CD4"])
    ('CD3e', 'CD4', 'CD163')
    """
    places = {marker: place for marker in markers if (place := _place(name, marker)) >= 0}
    return tuple(sorted(places, key=lambda marker: places[marker]))


def words_of(name: str, markers: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return the words of a suggested name, and which of ``markers`` each is, None for others.

    Examples
    --------
    >>> words_of("CD20+ CD45+ (CD163 spill-over)", ["CD20", "CD163"])
    [('CD20+', 0), ('CD45+', None), ('(CD163', 1), ('spill-over)', None)]
    """
    words: list[tuple[str, int | None]] = []
    at = 0
    for number, marker in sorted(enumerate(markers), key=lambda one: _place(name, one[1])):
        place = _place(name, marker)
        if place >= at:
            words += [(word, None) for word in name[at:place].split()]
            at = place + len(marker) + 1
            words.append((name[place:at].rstrip(), number))
    return words + [(word, None) for word in name[at:].split()]


def shorten(words: Sequence[tuple[str, int | None]], fits: Callable[[str], bool]) -> Sequence[tuple[str, int | None]]:
    """Leave out words of a cluster's suggested name until it fits: those other than markers of the example cells.

    Examples
    --------
    >>> words = words_of("CD20+ CD45+ CD68+ (CD163 spill-over)", ["CD20", "CD163"])
    >>> " ".join(word for word, _ in shorten(words, lambda text: len(text) < 30))
    'CD20+ … (CD163 spill-over)'
    """
    words = list(words)
    while not fits(" ".join(word for word, _ in words)):
        left_out = [place for place, (word, marker) in enumerate(words) if marker is None and word != "…"]
        if not left_out:
            break
        words[left_out[0]] = ("…", None)
        words = [one for place, one in enumerate(words) if place == 0 or (one, words[place - 1]) != (("…", None),) * 2]
    return words


def _place(name: str, marker: str) -> int:
    """Return where a marker stands in the suggested name of a cluster, -1 if it does not."""
    found = (f" {name}".find(f" {form}") for form in (f"{marker}+", f"{marker}-", f"({marker} "))
    return max(found)


def _ends(markers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first and the last marker of a name: the last one sets the cluster apart from its sibling."""
    return tuple(dict.fromkeys((*markers[:1], *markers[-1:])))


def draw_examples(study: Study, code: int, rows: np.ndarray | None, n: int, *, seed: int = 0) -> np.ndarray:
    """Draw cells (n,) or fewer of a cluster at random, among ``rows`` or all; the first are the same for any ``n``."""
    codes = study.clusters.codes
    members = np.flatnonzero(codes == code) if rows is None else rows[codes[rows] == code]
    if not len(members):
        return np.asarray(members)
    drawn = np.random.default_rng(seed).integers(0, len(members), max(_MOST_DRAWN, 2 * n)).tolist()
    rest = range(len(members)) if len(members) <= _MOST_DRAWN else ()
    return np.asarray(members[list(dict.fromkeys([*drawn, *rest]))[:n]])


def cut_examples(
    study: Study, opened: OpenedSlide, clusters: Sequence[Cluster], n: int
) -> Generator[tuple[str, np.ndarray], None, None]:
    """Yield the name of each cluster with images (n, P, P, 3) of example cells on this slide, at one contrast."""
    for one in clusters:
        rows = draw_examples(study, one.code, opened.rows, n)
        yield one.name, cut_images(study, opened, rows, shown_markers(opened, one.markers))


def shown_markers(opened: OpenedSlide, markers: Sequence[str]) -> list[str]:
    """Return the markers to show in images of cells: the nuclei first, and those of a name that the slide has."""
    assert opened.slide is not None
    nuclear = find_nuclear_marker(opened.slide.markers)
    wanted = dict.fromkeys([nuclear, *markers])
    return [one for one in wanted if one in opened.slide.markers] or [opened.slide.markers[0]]
