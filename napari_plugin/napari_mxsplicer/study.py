"""The cells that the panel explores: a result of mxsplicer or any AnnData file, read one column at a time.

Features are not kept in memory: each is read when it is painted, from the feature-major copy if there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

import mxsplicer
from mxsplicer import PATCH_SIZE_UM, InputError, open_h5ad
from mxsplicer.tl import (
    CellClassifier,
    check_same_model,
    feature_names,
    features_by_marker,
    find_confounders,
    model_of,
    names_fit,
    neighbourhood_intensity,
)
from napari_mxsplicer.joining import CellIds, find_ids

CORRELATION_SUFFIXES = {"Pearson": "_correlation", "Spearman": "_spearman", "partial": "_partial_correlation"}
_ENOUGH = 25_000  # cells from which percentiles of a marker are estimated
_BRIGHT = 0.1  # share of the cells
_CLUSTERINGS = ("leiden", "louvain", "phenograph", "clusters", "cluster", "seurat_clusters")
_MOST_CLUSTERS = 200
_NO_FEATURES = ("spatial", "X_umap", "X_tsne")


@dataclass(frozen=True, eq=False)
class ChunkShares:
    """The share that each chunk of the study's embedding has in each feature; there is one chunk per component."""

    components: tuple[str, ...]
    share: np.ndarray  # (d, n), each row sums to 1

    @cached_property
    def leading(self) -> np.ndarray:
        """The chunk (d,) with the largest share in each feature."""
        return np.asarray(self.share.argmax(axis=1))

    def describe(self, feature: int) -> str:
        """Return the name of the leading chunk of a feature and its share."""
        chunk = self.leading[feature]
        share = self.share[feature, chunk]
        return f"chunk {self.components[chunk]} ({100 * share:.0f} %)" if share > 0 else "no chunk"

    def marker_numbers(self, markers: Sequence[str]) -> np.ndarray:
        """Return the number (d,) of the marker of each feature's leading chunk.

        A chunk that belongs to no single marker gets a number beyond the markers.
        """
        out = len(markers) + np.arange(len(self.components))
        for chunk, name in enumerate(self.components):
            matches = [marker for marker in markers if name == marker or name.startswith(f"{marker} ")]
            if matches:
                out[chunk] = markers.index(max(matches, key=len))
        return np.asarray(out[self.leading])


class Study:
    """Cells with marker intensities and features, from a result or from an AnnData file."""

    def __init__(self, cells: Path, *, folder: Path | None = None, index: Mapping[str, Any] | None = None) -> None:
        self.cells, self.folder, self.index = cells, folder, index
        with open_h5ad(cells, needed=("obs", "var")) as file:
            self.markers = [str(name) for name in anndata.io.read_elem(file["var"]).index] if "X" in file else []
            obsm, varm = (file.get(key, {}) for key in ("obsm", "varm"))
            widths = {key: one.shape[1] for key, one in obsm.items() if hasattr(one, "shape") and one.ndim == 2}
            self.obs_names = list(file["obs"].attrs["column-order"])
            self.n_cells = len(_values_of(file["obs"][file["obs"].attrs["_index"]]))
            varm = {key: anndata.io.read_elem(one) for key, one in varm.items()}
        self.representation = _representation(widths)
        self.n_features = widths[self.representation] if self.representation else 0
        self.correlations, self.p_values = self._stored_correlations(varm)

    @property
    def name(self) -> str:
        """The name of the result or of the file."""
        return (self.folder or self.cells).name

    @cached_property
    def _ids(self) -> CellIds:
        attributes = self.read("uns/spatialdata_attrs") if self.has("uns/spatialdata_attrs") else {}
        return find_ids(self, attributes.get("instance_key"))

    @property
    def id_column(self) -> str:
        """The column of obs that holds the id of each cell in the label image; "" if the names of the cells do."""
        return self._ids.column

    @property
    def id_pattern(self) -> str:
        """The regular expression that extracts the id from a text; "" if the column holds numbers."""
        return self._ids.pattern

    @property
    def cell_ids(self) -> np.ndarray:
        """The id (N,) of each cell in the label image of its slide.

        Raises
        ------
        InputError
            If neither ``obs`` nor the names of the cells have ids.
        """
        return self._ids.ids

    @property
    def cell_names(self) -> Any:
        """The name (N,) of each cell, ``obs_names``."""
        with open_h5ad(self.cells, needed=()) as file:
            obs = file["obs"]
            return anndata.io.read_elem(obs[obs.attrs["_index"]])

    @cached_property
    def slides(self) -> Any:
        """The slide (N,) of each cell, a Categorical."""
        if "slide" not in self.obs_names:
            return pd.Categorical([self.cells.stem]).take(np.zeros(self.n_cells, dtype=np.int8))
        return pd.Categorical(self.read("obs/slide"))

    @property
    def slide_names(self) -> list[str]:
        """The slides, in the order of the result."""
        if self.index is not None:
            return [str(one["name"]) for one in self.index["slides"]]
        return [str(name) for name in self.slides.categories]

    def rows_of(self, slide: str) -> np.ndarray:
        """Return the rows of the cells of a slide, ascending.

        Raises
        ------
        InputError
            If no cell is of this slide.
        """
        names = [str(name) for name in self.slides.categories]
        if slide not in names:
            msg = f"{self.name} has no slide {slide!r}; it has {', '.join(names)}."
            raise InputError(msg)
        return np.flatnonzero(self.slides.codes == names.index(slide))

    @cached_property
    def xy_px(self) -> np.ndarray | None:
        """Centroids (N, 2), x then y, in pixels of the slide; None if unknown."""
        for x, y in (("x_px", "y_px"), ("X_centroid", "Y_centroid")):
            if x in self.obs_names and y in self.obs_names:
                columns = [np.asarray(self.read(f"obs/{name}"), dtype=np.float64) for name in (x, y)]
                return np.column_stack(columns)
        return None

    @cached_property
    def spatial_um(self) -> np.ndarray | None:
        """Centroids (N, 2), x then y, in micrometres; None if unknown."""
        return np.asarray(self.read("obsm/spatial"))[:, :2] if self.has("obsm/spatial") else None

    @cached_property
    def umap(self) -> np.ndarray | None:
        """Position of each cell in the UMAP (N, 2), float32, or in what replaces it; None if there is none."""
        if not self.umap_key:
            return None
        return np.asarray(self.read(f"obsm/{self.umap_key}"), dtype=np.float32)[:, :2]

    @cached_property
    def umap_key(self) -> str:
        """The key of obsm with the UMAP, else t-SNE or PCA; "" if there is none."""
        return next((key for key in ("X_umap", "X_tsne", "X_pca") if self.has(f"obsm/{key}")), "")

    @cached_property
    def _intensities(self) -> np.ndarray:
        """Mean intensities (markers, N), contiguous per marker."""
        x = self.read("X")
        return np.ascontiguousarray((x.toarray() if hasattr(x, "toarray") else x).T, dtype=np.float32)

    @property
    def intensities(self) -> np.ndarray:
        """Mean intensities (N, markers), float32."""
        return self._intensities.T

    @property
    def has_neighbourhood_intensity(self) -> bool:
        """Whether the neighbourhood intensity, which the partial correlation needs, can be computed."""
        return self.has("obsm/spatial") or self.has("layers/surroundings")

    @cached_property
    def neighbourhood_intensity(self) -> np.ndarray:
        """Intensity around each cell in each marker (N, markers), float32; slow.

        Raises
        ------
        InputError
            If the table has neither positions nor measured surroundings.
        """
        if not self.has_neighbourhood_intensity:
            needed = 'obsm["spatial"] or layers["surroundings"]'
            msg = f"the partial correlation needs {needed}, not found in {self.cells.name}."
            raise InputError(msg)
        cells = anndata.AnnData(
            obs=pd.DataFrame({"slide": self.slides}, index=pd.RangeIndex(self.n_cells).astype(str)),
            var=pd.DataFrame(index=self.markers),
        )
        if self.has("layers/surroundings"):
            cells.layers["surroundings"] = self.read("layers/surroundings")
        else:
            cells.obsm["spatial"] = self.spatial_um
        return neighbourhood_intensity(cells, self._intensities.T)[0]

    @cached_property
    def confounders(self) -> list[str]:
        """The markers that the partial correlation adjusts for: those of the stored one, else found by name."""
        key = f"uns/{self.representation.removeprefix('X_')}_correlation/given"
        return [str(one) for one in self.read(key)] if self.has(key) else find_confounders(self.markers)

    @cached_property
    def missing(self) -> str:
        """A sentence on what correlations need and the table lacks; "" if it has features and markers."""
        if self.n_features and self.markers:
            return ""
        lacks = "features in obsm" if self.markers else "intensities of markers in X"
        shown = "Markers and columns of obs" if self.markers else "Features and columns of obs"
        return f"{self.cells.name} has no {lacks}, so there is nothing to correlate. {shown} can colour the cells."

    @cached_property
    def _named(self) -> anndata.AnnData:
        """What names the features, in a table without cells."""
        keys = [key for key in ("method", "features", "fingerprints") if self.has(f"uns/mxsplicer/{key}")]
        about = {key: self.read(f"uns/mxsplicer/{key}") for key in keys}
        return anndata.AnnData(obsm={self.representation: np.empty((0, self.n_features))}, uns={"mxsplicer": about})

    @property
    def model(self) -> str:
        """The fingerprint of the weights of the encoder that computed the features; "" if unknown."""
        return model_of(self._named, self.representation)

    def check_classifier(self, classifier: CellClassifier) -> None:
        """Raise unless a classifier takes the features of this study.

        Raises
        ------
        InputError
            If it was trained on features of another model.
        """
        check_same_model(self._named, classifier)

    @cached_property
    def feature_names(self) -> list[str]:
        """What each feature is called: "CD4 rim", or "feature 143" without a name."""
        return feature_names(self._named, use_rep=self.representation) if self.n_features else []

    @cached_property
    def features_by_marker(self) -> dict[str, np.ndarray]:
        """The features that describe each marker, its level first; {} if features have no names."""
        return features_by_marker(self._named, use_rep=self.representation) if self.n_features else {}

    def is_of_markers(self, feature: int) -> bool:
        """Return whether a feature is computed from one or two markers, which its name contains."""
        return any(feature in columns for columns in self.features_by_marker.values())

    @cached_property
    def chunks(self) -> ChunkShares | None:
        """The shares of chunks in features; None if unknown, as for other methods."""
        key = "uns/mxsplicer/chunks"
        if self.representation != "X_splicer" or not self.has(f"{key}/share"):
            return None
        share = np.asarray(self.read(f"{key}/share"), dtype=np.float32)
        components = tuple(str(name) for name in self.read(f"{key}/component"))
        return ChunkShares(components, share) if share.shape == (self.n_features, len(components)) else None

    def warm(self) -> None:
        """Read what every widget needs, so that none of them has to wait for it."""
        _ = self._sorted_intensities, self.xy_px, self.slides, self._features
        for name in self.described_columns:
            self.column(name)

    def marker(self, name: str) -> np.ndarray:
        """Return the intensity (N,) of a marker in each cell, float32."""
        return np.asarray(self._intensities[self.markers.index(name)])

    @cached_property
    def _sorted_intensities(self) -> np.ndarray:
        """Intensities of every marker (markers, some cells), ascending."""
        return np.sort(self._intensities[:, :: max(1, self.n_cells // _ENOUGH)], axis=1)

    def brightest(self, row: int) -> list[tuple[str, float]]:
        """Return the markers in which a cell is among the brightest tenth, with its top fraction, brightest first."""
        return [(marker, share) for marker, share in self.ranked(row) if share <= _BRIGHT]

    def ranked(self, row: int) -> list[tuple[str, float]]:
        """Return all markers with the fraction of the cells that are brighter than a cell, its brightest first."""
        known, values = self._sorted_intensities, self._intensities[:, row]
        above = [1 - np.searchsorted(one, value) / len(one) for one, value in zip(known, values, strict=True)]
        return [(self.markers[place], above[place]) for place in np.argsort(above)]

    @cached_property
    def _features(self) -> Any:
        """The feature-major copy (d, N) in a result; None without one, or if its cells are not those of the table."""
        if self.folder is None or self.index is None:
            return None
        found = mxsplicer.open_features(self.folder, self.cell_names)
        return found if found is not None and found.shape == (self.n_features, self.n_cells) else None

    def feature(self, number: int) -> np.ndarray:
        """Return a feature (N,) of each cell, float32."""
        if self._features is not None:
            return np.asarray(self._features[number], dtype=np.float32)
        with open_h5ad(self.cells, needed=()) as file:
            return np.asarray(file["obsm"][self.representation][:, number], dtype=np.float32)

    def feature_block(self, first: int, last: int) -> np.ndarray:
        """Return some features (last - first, N) of all cells, float32."""
        if self._features is not None:
            return np.asarray(self._features[first:last], dtype=np.float32)
        with open_h5ad(self.cells, needed=()) as file:
            return np.asarray(file["obsm"][self.representation][:, first:last], dtype=np.float32).T

    def features(self, rows: slice) -> np.ndarray:
        """Return all features (rows, d) of some cells, float32."""
        with open_h5ad(self.cells, needed=()) as file:
            return np.asarray(file["obsm"][self.representation][rows], dtype=np.float32)

    def strongest(self) -> tuple[int, int]:
        """Return the marker and the feature with the strongest correlation; 0, 0 if no correlations are stored.

        Nuclear stain and autofluorescence do not count: what follows them is rarely what a user looks for first.
        """
        if not self.correlations:
            return 0, 0
        r = np.abs(next(iter(self.correlations.values())))
        others = ~np.isin(self.markers, self.confounders)
        r = np.where(others[:, None], r, 0) if others.any() else r
        marker, feature = np.unravel_index(int(np.nanargmax(r)), r.shape)
        return int(marker), int(feature)

    @cached_property
    def groupings(self) -> list[str]:
        """Categorical columns of obs with at most two hundred categories, those that usually hold clusters first."""
        left_out = {self.id_column, "slide", "region", *self._outdated_names}
        found = []
        with open_h5ad(self.cells, needed=()) as file:
            for name in self.obs_names:
                one = file["obs"][name]
                is_categorical = isinstance(one, h5py.Group) and one.attrs.get("encoding-type") == "categorical"
                if is_categorical and name not in left_out and not name.endswith("_name"):
                    found += [name] if 0 < len(_values_of(one["categories"])) <= _MOST_CLUSTERS else []
        return sorted(found, key=lambda name: _CLUSTERINGS.index(name) if name in _CLUSTERINGS else len(_CLUSTERINGS))

    @property
    def clustering(self) -> str:
        """The column of obs with the clusters; "" if there is none."""
        return self.groupings[0] if self.groupings else ""

    @cached_property
    def clusters(self) -> pd.Categorical:
        """The cluster (N,) of each cell."""
        return pd.Categorical(self.column(self.clustering))

    @cached_property
    def cluster_counts(self) -> dict[str, int]:
        """The number of cells of each cluster that has any, in the order of the clusters."""
        if not self.clustering:
            return {}
        counts = np.bincount(self.clusters.codes[self.clusters.codes >= 0], minlength=len(self.clusters.categories))
        return {str(name): int(n) for name, n in zip(self.clusters.categories, counts, strict=True) if n}

    def column(self, name: str) -> Any:
        """Return a column (N,) of obs: a Categorical or an array."""
        return _column(self.cells, self.cells.stat().st_mtime_ns, name)

    @cached_property
    def patch_size_um(self) -> float:
        """The side of the patches that the encoder was trained on, in micrometres; the default if it is not known."""
        known = self.has("uns/mxsplicer/patch_size_um")
        return float(self.read("uns/mxsplicer/patch_size_um")) if known else PATCH_SIZE_UM

    @cached_property
    def described_columns(self) -> list[str]:
        """Columns of obs that the description of a cell includes."""
        return [name for name in ("leiden", "area_um2") if name in self.obs_names]

    @property
    def paintable_columns(self) -> list[str]:
        """Columns of obs that can be painted: numbers and categories, but not ids and positions."""
        left_out = {self.id_column, "slide", "x_px", "y_px", "region", *self._outdated_names}
        return [name for name in self.obs_names if name not in left_out]

    @cached_property
    def _outdated_names(self) -> list[str]:
        """Columns with names of clusters that are not those in ``obs`` now, because cells were clustered again."""
        names = {f"{column}_name": column for column in self.obs_names if f"{column}_name" in self.obs_names}
        return [name for name, column in names.items() if not names_fit(self.column(column), self.column(name))]

    def _stored_correlations(self, varm: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        prefix = (self.representation or "").removeprefix("X_")
        shape = (len(self.markers), self.n_features)
        found = {key: np.asarray(one, dtype=np.float32) for key, one in varm.items() if np.shape(one) == shape}
        stored = {kind: found[prefix + end] for kind, end in CORRELATION_SUFFIXES.items() if prefix + end in found}
        return stored, found.get(f"{prefix}_correlation_p")

    def has(self, key: str) -> bool:
        """Return whether the file has an element."""
        with open_h5ad(self.cells, needed=()) as file:
            return key in file

    def read(self, key: str) -> Any:
        """Return an element of the file."""
        with open_h5ad(self.cells, needed=()) as file:
            return anndata.io.read_elem(file[key])


def feature_groups(study: Study) -> list[tuple[str, list[int]]]:
    """Return the features of a study under the headings of a list: levels, then each marker, then learned features.

    A pair of markers is under both. Features without names are all under "".
    """
    of_markers = study.features_by_marker
    if not of_markers:
        return [("", list(range(study.n_features)))]
    groups = [("Levels of markers", [int(columns[0]) for columns in of_markers.values()])]
    groups += [(f"Patterns of {marker}", columns[1:].tolist()) for marker, columns in of_markers.items()]
    listed = {column for _, columns in groups for column in columns}
    others = [column for column in range(study.n_features) if column not in listed]
    learned = [column for column in others if study.feature_names[column].startswith("learned ")]
    groups.append(("Shape of the cell", [column for column in others if column not in learned]))
    groups.append(("Learned features", learned))
    return [(heading, columns) for heading, columns in groups if columns]


def open_study(path: str | Path) -> Study:
    """Open a finished result by its folder or its ``mxsplicer.json``, or an AnnData file ``.h5ad``.

    Raises
    ------
    InputError
        If it does not exist, or lacks the file of cells that its index names.
    """
    path = Path(path)
    if path.suffix == ".h5ad":
        return Study(path)
    folder = mxsplicer.find_result(path) or path
    index = mxsplicer.open_result(folder)
    cells = folder / index["files"]["cells"]
    if not cells.is_file():
        msg = f"{folder} lacks {cells.name}, which its index names."
        raise InputError(msg, "Copy the whole folder again.")
    return Study(cells, folder=folder, index=index)


@lru_cache(maxsize=16)
def _column(cells: Path, _changed: int, name: str) -> Any:
    with open_h5ad(cells, needed=()) as file:
        found = anndata.io.read_elem(file["obs"][name])
    return pd.Categorical(found) if isinstance(found, pd.Categorical) or found.dtype.kind in "OUST" else found


def _values_of(strings: Any) -> Any:
    """Return the dataset of strings; those of pandas are a group with a mask."""
    return strings["values"] if isinstance(strings, h5py.Group) else strings


def _representation(widths: Mapping[str, int]) -> str:
    """Return the key of the study's features in obsm, or of the best substitute; "" if there are none."""
    known: Sequence[str] = ("X_splicer", "X_joint", "X_pca")
    others = [key for key, n in widths.items() if n > 2 and key not in _NO_FEATURES]
    return next((key for key in (*known, *others) if key in widths), "")
