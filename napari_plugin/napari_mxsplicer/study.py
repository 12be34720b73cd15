"""The cells that a panel explores: a result of mxsplicer, or any AnnData file, read a column at a time.

Nothing of the learned features is held: one is read when it is painted, from the feature-major copy where there is one.
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
import zarr

import mxsplicer
from mxsplicer import InputError
from mxsplicer.tl import find_confounders, neighbourhood_intensity

_ID_COLUMNS = ("cell_id", "CellID", "label", "cell", "instance_id", "object_id", "ObjectNumber")
MAP_ENDINGS = {"Pearson": "_correlation", "Spearman": "_spearman", "partial": "_partial_correlation"}
_ENOUGH = 25_000  # cells that tell how bright a marker is
_BRIGHT = 0.1  # share of the cells
_NO_FEATURES = ("spatial", "X_umap", "X_tsne")


@dataclass(frozen=True, eq=False)
class Chunks:
    """How each feature is shared out among the chunks of the embedding, one chunk to a component."""

    components: tuple[str, ...]
    share: np.ndarray  # (d, n), each row sums to 1

    @cached_property
    def most(self) -> np.ndarray:
        """The number of the chunk (d,) that draws most upon each feature."""
        return np.asarray(self.share.argmax(axis=1))

    def told(self, feature: int) -> str:
        """Return in words which chunk draws most upon a feature, and its share."""
        chunk = self.most[feature]
        share = self.share[feature, chunk]
        return f"chunk {self.components[chunk]} ({100 * share:.0f} %)" if share > 0 else "no chunk"

    def shown(self, markers: Sequence[str]) -> np.ndarray:
        """Return of each feature (d,) the number of the marker that its chunk shows, or one beyond the markers."""
        out = len(markers) + np.arange(len(self.components))
        for chunk, name in enumerate(self.components):
            shown = [marker for marker in markers if name == marker or name.startswith(f"{marker} ")]
            if shown:
                out[chunk] = markers.index(max(shown, key=len))
        return np.asarray(out[self.most])


class Study:
    """Cells with marker intensities and learned features, wherever they lie."""

    def __init__(self, cells: Path, *, folder: Path | None = None, index: Mapping[str, Any] | None = None) -> None:
        self.cells, self.folder, self.index = cells, folder, index
        with h5py.File(cells, "r") as file:
            self.markers = [str(name) for name in anndata.io.read_elem(file["var"]).index]
            wide = {key: one.shape[1] for key, one in file["obsm"].items() if hasattr(one, "shape") and one.ndim == 2}
            self.obs_names = list(file["obs"].attrs["column-order"])
            self.n_cells = len(file["obs"][file["obs"].attrs["_index"]])
            maps = {key: anndata.io.read_elem(file["varm"][key]) for key in file.get("varm", {})}
        self.representation = _representation(wide)
        self.n_features = wide[self.representation] if self.representation else 0
        self.maps, self.p_values = self._of_representation(maps)

    @property
    def name(self) -> str:
        """What to call it."""
        return (self.folder or self.cells).name

    @cached_property
    def id_column(self) -> str:
        """The column of obs that holds the id of each cell in the label image."""
        attributes = self._read("uns/spatialdata_attrs") if self._has("uns/spatialdata_attrs") else {}
        for name in (attributes.get("instance_key"), *_ID_COLUMNS):
            if name in self.obs_names:
                return str(name)
        msg = (
            f"{self.cells.name} has no column of cell ids in obs; one of {', '.join(_ID_COLUMNS)} is needed to join it "
            "with a label image."
        )
        raise InputError(msg)

    @cached_property
    def cell_ids(self) -> np.ndarray:
        """The id (N,) of each cell in the label image of its slide."""
        return np.asarray(self._read(f"obs/{self.id_column}")).astype(np.int64)

    @cached_property
    def slides(self) -> Any:
        """The slide (N,) of each cell, a Categorical."""
        if "slide" not in self.obs_names:
            return pd.Categorical([self.cells.stem]).take(np.zeros(self.n_cells, dtype=np.int8))
        return pd.Categorical(self._read("obs/slide"))

    @property
    def slide_names(self) -> list[str]:
        """The slides, in the order of the result."""
        if self.index is not None:
            return [str(one["name"]) for one in self.index["slides"]]
        return [str(name) for name in self.slides.categories]

    def rows_of(self, slide: str) -> np.ndarray:
        """Return the rows of the cells of a slide, ascending."""
        codes = self.slides.codes
        return np.flatnonzero(codes == self.slides.categories.get_loc(slide))

    @cached_property
    def xy_px(self) -> np.ndarray | None:
        """Centroids (N, 2), x then y, in pixels of the slide; None where the table does not say."""
        for x, y in (("x_px", "y_px"), ("X_centroid", "Y_centroid")):
            if x in self.obs_names and y in self.obs_names:
                columns = [np.asarray(self._read(f"obs/{name}"), dtype=np.float64) for name in (x, y)]
                return np.column_stack(columns)
        return None

    @cached_property
    def spatial_um(self) -> np.ndarray | None:
        """Centroids (N, 2), x then y, in micrometres; None where the table does not say."""
        return np.asarray(self._read("obsm/spatial"))[:, :2] if self._has("obsm/spatial") else None

    @cached_property
    def umap(self) -> np.ndarray | None:
        """Place of each cell on the map (N, 2), float32; None where there is none."""
        if not self.umap_key:
            return None
        return np.asarray(self._read(f"obsm/{self.umap_key}"), dtype=np.float32)[:, :2]

    @cached_property
    def umap_key(self) -> str:
        """The key of obsm that the map is of; "" where there is none."""
        return next((key for key in ("X_umap", "X_tsne", "X_pca") if self._has(f"obsm/{key}")), "")

    @cached_property
    def _intensities(self) -> np.ndarray:
        """Mean intensities, (markers, N): one marker of all cells lies together."""
        x = self._read("X")
        return np.ascontiguousarray((x.toarray() if hasattr(x, "toarray") else x).T, dtype=np.float32)

    @property
    def has_light(self) -> bool:
        """Whether it is known how bright it is around each cell, which the partial correlation asks for."""
        return self._has("obsm/spatial") or self._has("layers/surroundings")

    @cached_property
    def light(self) -> np.ndarray:
        """How bright it is around each cell in each marker (N, markers), float32; it takes a while.

        Raises
        ------
        InputError
            If the table says neither where the cells lie nor what surrounds them.
        """
        if not self.has_light:
            msg = f'{self.cells.name} has neither obsm["spatial"] nor layers["surroundings"]: no partial correlation.'
            raise InputError(msg)
        cells = anndata.AnnData(
            obs=pd.DataFrame({"slide": self.slides}, index=pd.RangeIndex(self.n_cells).astype(str)),
            var=pd.DataFrame(index=self.markers),
        )
        if self._has("layers/surroundings"):
            cells.layers["surroundings"] = self._read("layers/surroundings")
        else:
            cells.obsm["spatial"] = self.spatial_um
        return neighbourhood_intensity(cells, self._intensities.T)[0]

    @cached_property
    def confounders(self) -> list[str]:
        """The markers that the partial correlation holds fixed: those of the stored one, else told by their names."""
        key = f"uns/{self.representation.removeprefix('X_')}_correlation/given"
        return [str(one) for one in self._read(key)] if self._has(key) else find_confounders(self.markers)

    @cached_property
    def chunks(self) -> Chunks | None:
        """How features are shared out among chunks; None where that is not known, as for other methods."""
        key = "uns/mxsplicer/chunks"
        if self.representation != "X_splicer" or not self._has(f"{key}/share"):
            return None
        share = np.asarray(self._read(f"{key}/share"), dtype=np.float32)
        components = tuple(str(name) for name in self._read(f"{key}/component"))
        return Chunks(components, share) if share.shape == (self.n_features, len(components)) else None

    def warm(self) -> None:
        """Read what every view will ask for, so that none of them waits for it."""
        _ = self._sorted_intensities, self.xy_px, self.slides, self._features
        for name in self.told_columns:
            self.column(name)

    def marker(self, name: str) -> np.ndarray:
        """Return the intensity (N,) of a marker in each cell, float32."""
        return np.asarray(self._intensities[self.markers.index(name)])

    @cached_property
    def _sorted_intensities(self) -> np.ndarray:
        """Intensities of every marker (markers, some cells), ascending: a sample that tells what is bright."""
        return np.sort(self._intensities[:, :: max(1, self.n_cells // _ENOUGH)], axis=1)

    def brightest(self, row: int) -> list[tuple[str, float]]:
        """Return the markers in which a cell is among the brightest tenth, with its share from the top, best first."""
        known, values = self._sorted_intensities, self._intensities[:, row]
        above = [1 - np.searchsorted(one, value) / len(one) for one, value in zip(known, values, strict=True)]
        return [(self.markers[place], above[place]) for place in np.argsort(above) if above[place] <= _BRIGHT]

    @cached_property
    def _features(self) -> Any:
        """The feature-major copy (d, N) in a result, or None."""
        if self.folder is None or self.index is None:
            return None
        path = self.folder / self.index["files"].get("features", "features.zarr")
        found = zarr.open_array(path, mode="r") if path.exists() else None
        return found if found is not None and found.shape == (self.n_features, self.n_cells) else None

    def feature(self, number: int) -> np.ndarray:
        """Return a learned feature (N,) of each cell, float32."""
        if self._features is not None:
            return np.asarray(self._features[number], dtype=np.float32)
        with h5py.File(self.cells, "r") as file:
            return np.asarray(file["obsm"][self.representation][:, number], dtype=np.float32)

    def feature_block(self, first: int, last: int) -> np.ndarray:
        """Return some features (last - first, N) of all cells, float32."""
        if self._features is not None:
            return np.asarray(self._features[first:last], dtype=np.float32)
        with h5py.File(self.cells, "r") as file:
            return np.asarray(file["obsm"][self.representation][:, first:last], dtype=np.float32).T

    def features(self, rows: slice) -> np.ndarray:
        """Return all learned features (rows, d) of some cells, float32."""
        with h5py.File(self.cells, "r") as file:
            return np.asarray(file["obsm"][self.representation][rows], dtype=np.float32)

    def column(self, name: str) -> Any:
        """Return a column (N,) of obs: a Categorical or an array."""
        return _column(self.cells, self.cells.stat().st_mtime_ns, name)

    @cached_property
    def patch_size_um(self) -> float:
        """The side of what the encoder saw of a cell, in micrometres."""
        return float(self._read("uns/mxsplicer/patch_size_um")) if self._has("uns/mxsplicer/patch_size_um") else 24.0

    @cached_property
    def told_columns(self) -> list[str]:
        """Columns of obs whose value is told of a cell that is pointed at."""
        return [name for name in ("leiden", "area_um2") if name in self.obs_names]

    @property
    def paintable_columns(self) -> list[str]:
        """Columns of obs that can be painted: numbers and categories, not the names of things."""
        left_out = {self.id_column, "slide", "x_px", "y_px", "region"}
        return [name for name in self.obs_names if name not in left_out]

    def _of_representation(self, varm: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        prefix = (self.representation or "").removeprefix("X_")
        shape = (len(self.markers), self.n_features)
        found = {key: np.asarray(one, dtype=np.float32) for key, one in varm.items() if np.shape(one) == shape}
        maps = {name: found[prefix + ending] for name, ending in MAP_ENDINGS.items() if prefix + ending in found}
        return maps, found.get(f"{prefix}_correlation_p")

    def _has(self, key: str) -> bool:
        with h5py.File(self.cells, "r") as file:
            return key in file

    def _read(self, key: str) -> Any:
        with h5py.File(self.cells, "r") as file:
            return anndata.io.read_elem(file[key])


def open_study(path: str | Path) -> Study:
    """Open a finished result by its folder or its ``mxsplicer.json``, or an AnnData file ``.h5ad``.

    Raises
    ------
    InputError
        If there is none, or its cells are not where its index says.
    """
    path = Path(path)
    if path.suffix == ".h5ad":
        if not path.is_file():
            msg = f"there is no file {path}."
            raise InputError(msg)
        return Study(path)
    folder = path.parent if path.name == "mxsplicer.json" else path
    index = mxsplicer.open_result(folder)
    cells = folder / index["files"]["cells"]
    if not cells.is_file():
        msg = f"{folder} lacks {cells.name}, which its mxsplicer.json names. Copy the whole folder again."
        raise InputError(msg)
    return Study(cells, folder=folder, index=index)


@lru_cache(maxsize=16)
def _column(cells: Path, _changed: int, name: str) -> Any:
    with h5py.File(cells, "r") as file:
        found = anndata.io.read_elem(file["obs"][name])
    return pd.Categorical(found) if isinstance(found, pd.Categorical) or found.dtype.kind in "OUST" else found


def _representation(wide: Mapping[str, int]) -> str:
    """Return the key of what was learned, or of the next best thing; "" where there are no features."""
    known: Sequence[str] = ("X_splicer", "X_joint", "X_pca")
    others = [key for key, n in wide.items() if n > 2 and key not in _NO_FEATURES]
    return next((key for key in (*known, *others) if key in wide), "")
