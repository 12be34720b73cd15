import json

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError

KINDS = ("B cell", "T cell", "macrophage", "tumour", "vessel")
SHARES = (0.3, 0.3, 0.1, 0.25, 0.05)


def make_tissue(n=1500, *, seed=0, model="f00d"):
    """Return cells of five types that lie apart in eight of twenty features; the other features are noise."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(KINDS), n, p=SHARES)
    centers = np.random.default_rng(7).normal(size=(len(KINDS), 8)) * 2.5
    z = rng.normal(size=(n, 20)).astype(np.float32)
    z[:, :8] += centers[kind]
    obs = pd.DataFrame({"kind": np.array(KINDS)[kind], "slide": pd.Categorical(["S1"] * n)})
    obs.index = [f"S1_{i}" for i in range(n)]
    uns = {"mxsplicer": {"fingerprints": {"weights": model}, "features": np.array([f"f{i}" for i in range(20)])}}
    return AnnData(obs=obs, obsm={"X_splicer": z}, uns=uns)


def named(adata, kinds, n=30, seed=0):
    """Return the names of ``n`` random cells of each of some kinds, missing for all others."""
    rng = np.random.default_rng(seed)
    names = pd.Series(index=adata.obs_names, dtype=object)
    for kind in kinds:
        rows = rng.choice(np.flatnonzero(adata.obs["kind"] == kind), n, replace=False)
        names.iloc[rows] = kind
    return names


def balanced_accuracy(names, kinds):
    return np.mean([(np.asarray(names)[kinds == kind] == kind).mean() for kind in np.unique(kinds)])


@pytest.fixture(scope="module")
def tissue():
    return make_tissue()


@pytest.fixture(scope="module")
def of_two(tissue):
    return tl.train_classifier(tissue, named(tissue, ("B cell", "tumour")))


def test_cells_of_classes_without_a_name_are_unknown(tissue, of_two):
    names = np.asarray(of_two.predict(tissue.obsm["X_splicer"]).names)

    kinds = tissue.obs["kind"].to_numpy()
    is_named = np.isin(kinds, of_two.classes)
    assert (names[~is_named] == tl.UNKNOWN).mean() >= 0.95
    assert (names[is_named] == kinds[is_named]).mean() >= 0.85


def test_confidence_is_the_share_of_names_that_are_right(tissue, of_two):
    predictions = of_two.predict(tissue.obsm["X_splicer"])

    kinds = tissue.obs["kind"].to_numpy()
    right = np.asarray(predictions.names) == np.where(np.isin(kinds, of_two.classes), kinds, tl.UNKNOWN)
    bins = np.minimum((predictions.confidence * 10).astype(int), 9)
    error = sum(abs(predictions.confidence[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / len(right)
    assert error <= 0.05


def test_accuracy_is_reported_for_the_named_classes_only(of_two):
    assert "among the named classes" in of_two.describe()
    assert "classes that have no name yet" in of_two.describe()


def test_cells_unlike_all_that_the_classifier_has_seen_are_unknown(tissue, of_two):
    far = tissue.obsm["X_splicer"][:50] * 40

    assert (of_two.predict(far).codes == -1).all()


def test_cells_of_a_rare_class_get_its_name_where_it_overlaps_a_frequent_one():
    rng = np.random.default_rng(0)
    kind = rng.choice(["frequent", "rare"], 3000, p=[0.95, 0.05])
    z = rng.normal(size=(3000, 10)).astype(np.float32)
    z[:, 0] += 2.5 * (kind == "rare")
    adata = AnnData(obs=pd.DataFrame({"kind": kind}, index=[f"S1_{i}" for i in range(3000)]), obsm={"X_splicer": z})
    names = named(adata, ("rare",), n=40)
    names.iloc[:300] = kind[:300]

    classifier = tl.train_classifier(adata, names)

    is_rare = kind == "rare"
    is_most_probable = classifier.probabilities(z).argmax(axis=1) == classifier.classes.index("rare")
    found = (np.asarray(classifier.predict(z).names)[is_rare] == "rare").mean()
    assert found >= 0.85
    assert found >= is_most_probable[is_rare].mean() + 0.05


def test_one_class_alone_can_be_named(tissue):
    classifier = tl.train_classifier(tissue, named(tissue, ("tumour",)))

    names = np.asarray(classifier.predict(tissue.obsm["X_splicer"]).names)
    is_tumour = (tissue.obs["kind"] == "tumour").to_numpy()
    assert (names[is_tumour] == "tumour").mean() >= 0.9
    assert (names[~is_tumour] == "tumour").mean() <= 0.1


def test_other_is_a_class_and_unknown_is_not(tissue):
    names = named(tissue, ("B cell", "vessel")).replace("vessel", tl.OTHER)

    assert tl.train_classifier(tissue, names).classes == ("B cell", "other")
    with pytest.raises(InputError, match='"other"'):
        tl.train_classifier(tissue, names.replace(tl.OTHER, "unknown"))


def test_classes_with_too_few_cells_are_left_out_and_listed(tissue):
    names = named(tissue, ("B cell", "tumour"))
    names.iloc[np.flatnonzero(tissue.obs["kind"] == "vessel")[:2]] = "vessel"

    classifier = tl.train_classifier(tissue, names)

    assert classifier.classes == ("B cell", "tumour")
    assert "vessel (2)" in classifier.describe()
    with pytest.raises(InputError, match=r"vessel \(2\)"):
        tl.train_classifier(tissue, names.where(names == "vessel"))


def test_the_queue_needs_few_answers_and_fewer_than_random_cells(tissue):
    kinds = tissue.obs["kind"].to_numpy()
    z = tissue.obsm["X_splicer"]
    queue = tl.NamingQueue.of(tissue)
    asked = []

    while len(asked) < 40:
        for proposal in queue.next(5):
            asked.append(proposal.row)
            queue.name(proposal.row, kinds[proposal.row])

    at_random = tl.NamingQueue.of(tissue)
    for row in np.random.default_rng(0).choice(len(kinds), 40, replace=False):
        at_random.name(row, kinds[row])
    found, by_chance = (balanced_accuracy(one.classifier.predict(z).names, kinds) for one in (queue, at_random))
    assert len(set(asked)) == 40
    assert found >= 0.95
    assert found > by_chance


def test_named_and_skipped_cells_are_not_proposed(tissue):
    queue = tl.NamingQueue.of(tissue)
    first = [one.row for one in queue.next(9)]
    queue.name(first[:8], "B cell")
    queue.skip(first[8])

    assert not {one.row for one in queue.next(1400)} & set(first)


def test_a_name_is_undone(tissue):
    queue = tl.NamingQueue.of(tissue)
    queue.name(range(10), "B cell")
    assert queue.classifier is not None

    queue.name(range(10), "")

    assert queue.classifier is None
    assert queue.names.isna().all()


def test_clusters_without_a_name_are_proposed(tissue):
    adata = tissue.copy()
    adata.obs["leiden"] = pd.Categorical(np.where(adata.obs["kind"] == "vessel", "1", "0"))
    queue = tl.NamingQueue.of(adata, clusters="leiden")
    queue.name(np.flatnonzero(adata.obs["leiden"] == "0")[:19], "B cell")

    found = queue.next(4)

    of_cluster = [one for one in found if one.why == "cluster 1 has no named cell"]
    assert "1" in [adata.obs["leiden"].iloc[one.row] for one in found]
    assert [adata.obs["leiden"].iloc[one.row] for one in of_cluster] == ["1"]


def test_features_on_disk_give_the_same_classifier(tissue, of_two, tmp_path):
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file.create_dataset("z", data=tissue.obsm["X_splicer"], chunks=(64, 5))
        on_disk = tissue.copy()
        on_disk.obsm["X_splicer"] = file["z"]

        found = tl.train_classifier(on_disk, named(tissue, ("B cell", "tumour")))

        np.testing.assert_array_equal(found.weights, of_two.weights)
        predictions = tl.annotate(on_disk, found)
    np.testing.assert_array_equal(predictions.codes, of_two.predict(tissue.obsm["X_splicer"]).codes)
    assert on_disk.obs["predicted"].value_counts().to_dict() == predictions.counts()


def test_a_saved_classifier_predicts_the_same(tissue, of_two, tmp_path):
    path = tl.save_classifier(of_two, tmp_path / "classifier.json")

    loaded = tl.load_classifier(path)

    z = tissue.obsm["X_splicer"]
    np.testing.assert_array_equal(loaded.predict(z).codes, of_two.predict(z).codes)
    np.testing.assert_allclose(loaded.predict(z).confidence, of_two.predict(z).confidence, atol=1e-3)
    assert json.loads(path.read_text())["counts"] == {"B cell": 30, "tumour": 30}
    assert loaded.about["slides"] == ["S1"]
    with pytest.raises(InputError, match="exists"):
        tl.save_classifier(of_two, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pickle"}, "not a classifier"),
        ({"version": 99}, "another version"),
        ({"weights": [[1.0]]}, "weights"),
        ({"bias": [float("nan")] * 3}, "not finite"),
        ({"classes": ["a", "a"]}, "distinct"),
        ({"class_weights": [1.0]}, "class_weights"),
        ({"reach": "far"}, "damaged"),
        ({"reach": float("inf")}, "not finite"),
        ({"projection": 3}, "projection"),
    ],
)
def test_a_damaged_classifier_is_refused_by_name(of_two, tmp_path, change, message):
    path = tl.save_classifier(of_two, tmp_path / "classifier.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(InputError, match=message) as error:
        tl.load_classifier(path)
    assert "classifier.json" in str(error.value)


def test_cells_of_another_model_are_refused(tissue, of_two):
    with pytest.raises(InputError, match="another model"):
        tl.annotate(make_tissue(50, model="beef"), of_two)
    fewer = AnnData(obsm={"X_splicer": np.zeros((9, 3), dtype=np.float32)})
    with pytest.raises(InputError, match="3 instead of 20"):
        tl.annotate(fewer, of_two)


def test_columns_are_not_replaced_without_being_asked(tissue, of_two):
    adata = tissue.copy()
    tl.annotate(adata, of_two)

    with pytest.raises(InputError, match="'predicted'"):
        tl.annotate(adata, of_two)
    tl.annotate(adata, of_two, overwrite=True)
    tl.annotate(adata, of_two, key_added="again")
    assert {"predicted", "predicted_confidence", "again", "again_confidence"} <= set(adata.obs)


def test_cells_whose_features_are_not_numbers_get_no_name(tissue, of_two):
    adata = tissue.copy()
    adata.obsm["X_splicer"][3, 2] = np.nan

    with pytest.raises(InputError, match="not finite in 1 cells"):
        tl.annotate(adata, of_two)
    with pytest.raises(InputError, match="not finite in 1 cells"):
        tl.NamingQueue.of(adata)
    assert "predicted" not in adata.obs
