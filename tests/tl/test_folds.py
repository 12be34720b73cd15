import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mxsplicer.errors import InputError
from mxsplicer.tl.folds import LEFT_OUT, fold_at_random, fold_by_group, fold_by_quadrant, fold_by_transfer


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(20, 300), st.integers(1, 6), st.integers(0, 5))
def test_a_patient_is_never_in_two_folds(n_groups, n, n_classes, seed):
    rng = np.random.default_rng(seed)
    patients = pd.Series([f"P{i}" for i in [*range(n_groups), *rng.integers(0, n_groups, n)]], name="patient")
    labels = np.array([f"type {i}" for i in rng.integers(0, n_classes, len(patients))], dtype=object)

    folds = fold_by_group(patients, labels, seed=seed)

    assert (pd.crosstab(patients, folds.of_cell) > 0).sum(axis=1).eq(1).all()
    assert folds.n == min(5, n_groups)
    for fold in range(folds.n):
        splits = folds.train_validate_test(fold)
        assert all(len(rows) for rows in splits)
        of_splits = [set(patients.iloc[rows]) for rows in splits]
        assert sum(map(len, of_splits)) == len(set.union(*of_splits))


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 300), st.floats(0, 80), st.integers(0, 5))
def test_cells_of_two_quadrants_are_separated_by_the_guard_band(cells, n, guard_um, seed):
    adata = cells(n, seed=seed)

    folds = fold_by_quadrant(adata, guard_um=guard_um)

    points = adata.obsm["spatial"]
    for fold in range(folds.n):
        train, validation, test = folds.train_validate_test(fold)
        for rows in (train, validation):
            if len(rows) and len(test):
                assert cdist(points[rows], points[test], "chebyshev").min() >= guard_um - 1e-9


def test_every_slide_is_cut_into_its_own_quadrants(cells):
    adata = cells(400, n_slides=2)
    adata.obsm["spatial"][(adata.obs["slide"] == "S01").to_numpy()] += 10_000

    folds = fold_by_quadrant(adata, guard_um=10)

    assert (pd.crosstab(adata.obs["slide"], folds.of_cell)[[0, 1, 2, 3]] > 10).all(axis=None)


def test_cells_without_a_patient_are_left_out():
    patients = pd.Series(["a", "b", "c", None] * 10, name="patient")

    folds = fold_by_group(patients, np.array(["x"] * 40, dtype=object))

    assert (folds.of_cell[patients.isna()] == LEFT_OUT).all()


def test_two_patients_raise():
    with pytest.raises(InputError, match=r"'patient' has 2 groups; 3 are needed .* `train_on` and `test_on`"):
        fold_by_group(pd.Series(["a", "b"] * 10, name="patient"), np.array(["x"] * 20, dtype=object))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(10, 80), st.integers(2, 4), st.integers(0, 5))
def test_random_folds_have_every_cell_once_and_are_stratified_by_class(n_folds, n, n_classes, seed):
    codes = np.repeat(np.arange(n_classes), n)

    folds = fold_at_random(codes, n_folds, seed=seed)

    assert folds.n == n_folds
    counts = pd.crosstab(codes, folds.of_cell)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert "random" in folds.by


@pytest.mark.parametrize(
    ("train_on", "test_on", "trained", "tested", "n_folds"),
    [
        (["S00"], ["S01"], {"S00"}, {"S01"}, 4),
        (["S00"], [], {"S00"}, {"S01", "S02", "S03"}, 3),
        ([], ["S02"], {"S00", "S01", "S03"}, {"S02"}, 4),
        (["S01"], ["S00", "S03"], {"S01"}, {"S00", "S03"}, 4),
    ],
)
def test_cells_of_some_slides_train_and_those_of_others_test(cells, train_on, test_on, trained, tested, n_folds):
    adata = cells(800, n_slides=4)
    slides = adata.obs["slide"].astype(str).to_numpy()

    folds = fold_by_transfer(adata, train_on=train_on, test_on=test_on, guard_um=10)

    assert folds.n == n_folds
    splits = [folds.train_validate_test(fold) for fold in range(folds.n)]
    for train, validation, test in splits:
        assert set(slides[train]) == set(slides[validation]) == trained
        assert set(slides[test]) <= tested
        assert not set(train) & set(validation)
    assert sorted(np.concatenate([test for _, _, test in splits])) == list(
        np.flatnonzero(np.isin(slides, list(tested)))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_on": ["S00"], "test_on": ["S00"]}, "slide 'S00' is to train and to test"),
        ({"train_on": ["S09"], "test_on": []}, "slide 'S09' was not found; the cells are of S00, S01"),
        ({"train_on": ["S00", "S01"], "test_on": []}, "no other slide is left to test on"),
        ({"train_on": ["P1"], "test_on": [], "column": "patient"}, "column 'patient' was not found"),
    ],
)
def test_slides_that_cannot_train_and_test_raise(cells, options, message):
    with pytest.raises(InputError, match=message):
        fold_by_transfer(cells(100, n_slides=2), guard_um=10, **options)
