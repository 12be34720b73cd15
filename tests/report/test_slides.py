import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer.report.slides import recognisable_batches, slides_section


def mixing(predictability):
    """Make what tl.measure_mixing returns for four slides."""
    return pd.DataFrame(
        {
            "batch": "slide",
            "representation": ["SpliCER", "mean intensity"],
            "learned": [True, False],
            "predictability": [predictability, 0.6],
            "predictability_sd": 0.02,
            "chance": 0.25,
        }
    )


@pytest.mark.parametrize(("predictability", "reported"), [(0.8, True), (0.45, True), (0.4, False), (0.25, False)])
def test_batches_far_above_chance_are_reported_next_to_mean_intensity(predictability, reported):
    sentences = recognisable_batches(mixing(predictability))

    assert len(sentences) == reported
    if reported:
        assert f"accuracy of {predictability:.0%}; chance is 25% and mean intensity reaches 60%." in sentences[0]


def test_slides_are_described_with_the_shares_of_their_clusters():
    obs = pd.DataFrame(
        {
            "slide": pd.Categorical(["A"] * 4 + ["B"] * 4),
            "leiden": pd.Categorical(list("00010111")),
            "patient": ["P1"] * 4 + ["P2"] * 4,
        },
        index=[str(i) for i in range(8)],
    )
    adata = AnnData(np.ones((8, 1), np.float32), obs=obs, uns={"mxsplicer": {"missing_markers": {"B": ["CD4", "CD8"]}}})

    section = slides_section(adata, {"C": "file not found"})

    assert section["failed"] == [("C", "file not found")]
    assert section["missing"] == [("B", "CD4, CD8")]
    first, second = section["slides"]
    assert (first["name"], first["n_cells"], first["about"]) == ("A", "4", [("patient", "P1")])
    assert [(row["name"], row["share"], row["everywhere"]) for row in first["clusters"]] == [
        ("0", "75.0%", "50.0%"),
        ("1", "25.0%", "50.0%"),
    ]
    assert [row["name"] for row in second["clusters"]] == ["1", "0"]


def test_a_single_slide_without_failures_has_no_section():
    adata = AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame({"slide": ["A", "A"]}, index=["0", "1"]))

    assert slides_section(adata, {}) is None
