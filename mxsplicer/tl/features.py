"""The names of features, and the features of one marker."""

from difflib import get_close_matches

import numpy as np
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.splicer.moment_names import columns_by_marker
from mxsplicer.tl.representations import learned_key, representation


def feature_names(adata: AnnData, *, use_rep: str | None = None) -> list[str]:
    """Return what each column of a representation is: "CD4 rim", or "feature 143" where it has no name.

    Encoders with ``+moments``, the default, name their columns in ``uns["mxsplicer"]["features"]``.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``.
    use_rep
        Key of the representation; by default that of the run that embedded the cells.

    Examples
    --------
    >>> feature_names(AnnData(obsm={"X_splicer": np.zeros((3, 2))}))
    ['feature 0', 'feature 1']
    """
    key = use_rep or learned_key(adata)
    return _own_names(adata, key) or [f"feature {number}" for number in range(representation(adata, key).shape[1])]


def features_of_marker(adata: AnnData, marker: str, *, use_rep: str | None = None) -> np.ndarray:
    """Return the columns that describe one marker: its level first, its patterns in the cell, and its pairs.

    Learned features belong to no single marker; :func:`mxsplicer.tl.partners` lists those that correlate with it.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm`` and the names of its columns in ``uns["mxsplicer"]["features"]``.
    marker
        Name of the marker.
    use_rep
        Key of the representation; by default that of the run that embedded the cells.

    Raises
    ------
    InputError
        If the columns have no names, or none is of this marker.

    Examples
    --------
    >>> names = np.array(["CD4 level", "CD8a level", "CD4 rim", "CD8a rim", "CD4 near CD8a", "learned 1"])
    >>> adata = AnnData(obsm={"X_splicer": np.zeros((3, 6))}, uns={"mxsplicer": {"features": names}})
    >>> features_of_marker(adata, "CD8a")
    array([1, 3, 4])
    """
    key = use_rep or learned_key(adata)
    columns = features_by_marker(adata, use_rep=key)
    if not columns:
        msg = f"the columns of {key!r} have no names, so which of them describe {marker!r} is unknown."
        raise InputError(msg, "`mxsplicer.tl.partners` lists the features that correlate most with a marker.")
    if marker not in columns:
        msg = f"{key!r} has no features of marker {marker!r}; it has features of {', '.join(columns)}."
        raise InputError(msg)
    return columns[marker]


def features_by_marker(adata: AnnData, *, use_rep: str | None = None) -> dict[str, np.ndarray]:
    """Return the columns that describe each marker, as :func:`features_of_marker` does; {} if columns have no names.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``.
    use_rep
        Key of the representation; by default that of the run that embedded the cells.
    """
    key = use_rep or learned_key(adata)
    representation(adata, key)
    return {name: np.array(columns) for name, columns in columns_by_marker(_own_names(adata, key)).items()}


def find_feature(adata: AnnData, feature: int | str, use_rep: str) -> int:
    """Return the column of a feature that is given by its number or its name.

    Raises
    ------
    InputError
        If there is no such feature, or several have this name.
    """
    names = feature_names(adata, use_rep=use_rep)
    text = str(feature)
    places = [place for place, name in enumerate(names) if name == text]
    if len(places) > 1:
        msg = f"features {', '.join(map(str, places))} are all called {text!r}."
        raise InputError(msg, "Give the number of one of them.")
    if places:
        return places[0]
    number = text.removeprefix("feature ")
    if number.isdecimal() and int(number) < len(names):
        return int(number)
    if number.removeprefix("-").isdecimal():
        msg = f"feature {number} was not found; the {len(names)} features are counted from 0."
        raise InputError(msg)
    close = get_close_matches(text, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = f"feature {text!r} was not found; the {len(names)} features are {names[0]!r} to {names[-1]!r}.{hint}"
    raise InputError(msg)


def _own_names(adata: AnnData, key: str) -> list[str]:
    """Return the names of features that the run gave to the columns of its representation, [] of another one."""
    about = adata.uns.get("mxsplicer", {})
    names = [str(name) for name in about.get("features", ())]
    is_of_run = key == f"X_{about.get('method', 'splicer')}" and len(names) == adata.obsm[key].shape[1]
    return names if is_of_run else []
