"""The queue of cells to name next, as the panel uses it: without a window."""

import numpy as np
import pytest
from napari_mxsplicer.clusters import read_clusters
from napari_mxsplicer.layers import open_slide
from napari_mxsplicer.names import Names
from napari_mxsplicer.naming_session import NamingSession, key_markers, training_names
from napari_mxsplicer.study import open_study

from mxsplicer import InputError
from mxsplicer.tl import UNKNOWN


@pytest.fixture
def study(own_clustered):
    return open_study(own_clustered)


def test_a_queue_learns_from_answers_and_from_clusters_with_a_name(study, returned):
    names = Names(study)
    session = NamingSession(study, names)
    first = session.propose(4)
    assert len(first.proposals) == 4
    assert first.classifier is None
    assert first.describe() == ""
    answered = set()
    for one in first.proposals:
        session.answer(one.row, "T cell")
        names.name_cells(np.array([one.row]), "T cell")
        answered.add(one.row)
    names.name_cluster("3", "B cell")
    session.take_names()
    after = session.propose(4)
    assert after.classifier.classes == ("B cell", "T cell")
    assert 16 <= after.n_of_clusters <= 20  # the answered ones may be among them
    assert "does not count cells of classes that have no name" in after.describe()
    assert "agreement with the clusters" in after.describe()
    assert not answered & {one.row for one in after.proposals}
    found = returned(session.predict(after.classifier))
    assert len(found.codes) == study.n_cells
    assert list(found.names.categories) == ["B cell", "T cell", UNKNOWN]


def test_a_skipped_cell_is_not_proposed_again(study):
    session = NamingSession(study, Names(study))
    first = session.propose(1).proposals[0]
    session.skip(first.row)
    assert session.propose(1).proposals[0].row != first.row


def test_cells_of_a_named_cluster_train_and_can_still_be_proposed(study):
    names = Names(study)
    names.name_cluster("0", "B cell")
    rows = np.flatnonzero(np.asarray(study.clusters) == "0")
    names.name_cells(rows[:1], "T cell")
    training = training_names(names)
    assert (training == "B cell").sum() in (19, 20)
    assert training[rows[0]] == "T cell"
    assert training[rows].isna().sum() == len(rows) - (training.codes >= 0).sum()


def test_a_classifier_of_another_model_is_refused(study, sample, returned):
    names = Names(study)
    names.name_cells(np.arange(9), "B cell")
    classifier = NamingSession(study, names).propose(1).classifier
    other = type(classifier)(**(vars(classifier) | {"feature_names": ("strange",), "weights": classifier.weights[:1]}))
    with pytest.raises(InputError, match="other features"):
        returned(NamingSession(study, names).predict(other))


def test_a_cell_is_shown_with_its_brightest_markers_and_each_alone(study):
    opened = open_slide(study, study.slide_names[0])
    markers = key_markers(read_clusters(study)[0], study)
    assert 4 <= len(markers) <= 8
    row = int(study.marker("CD20").argmax())
    [(shown, view)] = NamingSession(study, Names(study)).view([row], opened, ["CD20", "CD3e", "SMA"])
    assert shown == row
    assert view.markers[:2] == ("Hoechst", "CD20")
    assert [marker for marker, _ in view.single] == ["CD20", "CD3e", "SMA"]
    bright, dark = (image.astype(float).mean() for _, image in view.single[:2])
    assert bright > dark
