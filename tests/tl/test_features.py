"""Names of features, and the features of one marker."""

import numpy as np
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.splicer.moment_names import KINDS, SHAPES, columns_by_marker, names_of_moments
from mxsplicer.tl.features import find_feature

PAIRS = {"together": [(0, 1), (1, 2)], "near": [(0, 2)], "along": [(0, 1)]}
MARKERS = {
    "of one word": ["DAPI", "CD4", "CD45RO"],
    "of which one begins like another": ["CD4", "CD45", "CD4 rim"],
    "of several words": ["Ki 67", "67", "HLA-DR/DP (1:100)"],
    "with the words between pairs": ["with", "near with", "level"],
}


def named(names, **more):
    z = np.zeros((4, len(names)), dtype=np.float32)
    about = {"method": "splicer", "features": np.array(names)}
    return AnnData(obsm={"X_splicer": z, "X_joint": z, "X_narrow": z[:, :2]}, uns={"mxsplicer": about | more})


@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
def test_a_marker_has_its_moments_and_its_pairs_whatever_it_is_called(markers):
    names = [*names_of_moments(markers, PAIRS), "learned 1", "learned 2"]
    adata = named(names)
    n = len(KINDS) * 3

    found = {marker: tl.features_of_marker(adata, marker).tolist() for marker in markers}

    assert found[markers[0]] == [*range(0, n, 3), n, n + 2, n + 3]
    assert found[markers[1]] == [*range(1, n, 3), n, n + 1, n + 3]
    assert found[markers[2]] == [*range(2, n, 3), n + 1, n + 2]
    assert [names[columns[0]] for columns in found.values()] == [f"{marker} level" for marker in markers]


def test_the_features_of_a_marker_are_those_that_its_moments_are_computed_into():
    from mxsplicer.splicer.moments import Moments

    moments = Moments(5)
    markers = [f"M{number}" for number in range(5)]

    names = moments.names(markers)

    assert len(names) == moments.out_features
    columns = columns_by_marker(names)
    assert list(columns) == markers
    of_markers = {column for some in columns.values() for column in some}
    assert [name for column, name in enumerate(names) if column not in of_markers] == list(SHAPES)


@pytest.mark.parametrize(
    ("use_rep", "about"),
    [("X_joint", {}), ("X_splicer", {"method": "joint"}), ("X_splicer", {"features": np.array(["CD4 level"])})],
    ids=["of another representation", "of another method", "of another width"],
)
def test_features_without_a_name_have_their_number(use_rep, about):
    adata = named(["CD4 level", "CD4 rim"], **about)

    assert tl.feature_names(adata, use_rep=use_rep) == ["feature 0", "feature 1"]
    assert tl.feature_names(named(["CD4 level", "CD4 rim"])) == ["CD4 level", "CD4 rim"]
    with pytest.raises(InputError, match=r"the columns of 'X_.*' have no names.*partners"):
        tl.features_of_marker(adata, "CD4", use_rep=use_rep)


@pytest.mark.parametrize("feature", [1, np.int64(1), "1", "feature 1", "CD4 rim"])
def test_a_feature_is_found_by_its_number_and_by_its_name(feature):
    assert find_feature(named(["CD4 level", "CD4 rim", "learned 1"]), feature, "X_splicer") == 1


@pytest.mark.parametrize(
    ("feature", "sentence"),
    [
        (3, "feature 3 was not found; the 3 features are counted from 0"),
        (-1, "feature -1 was not found"),
        ("CD4 Rim", "'CD4 level' to 'learned 1'. Did you mean 'CD4 rim'"),
        ("zzz", "feature 'zzz' was not found; the 3 features are 'CD4 level' to 'learned 1'.$"),
    ],
)
def test_a_feature_that_does_not_exist_is_reported(feature, sentence):
    with pytest.raises(InputError, match=sentence):
        find_feature(named(["CD4 level", "CD4 rim", "learned 1"]), feature, "X_splicer")


def test_a_name_that_several_features_have_is_refused():
    with pytest.raises(InputError, match=r"features 0, 1 are all called 'A with B with C'\. Give the number"):
        find_feature(named(["A with B with C", "A with B with C"]), "A with B with C", "X_splicer")


def test_a_marker_without_features_is_reported_with_those_that_have_some():
    with pytest.raises(InputError, match="'X_splicer' has no features of marker 'CD8'; it has features of CD4, CD20"):
        tl.features_of_marker(named(["CD4 level", "CD20 level"]), "CD8")
