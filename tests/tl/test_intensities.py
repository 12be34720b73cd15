"""Intensities that are not raw are used as they are, and the verdict reports it: no baseline is weakened in silence."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.evaluation import evaluate
from mxsplicer.tl.representations import LOG_INTENSITY, MEAN_INTENSITY, available, features_of, intensities_of


def three_levels(n=1500):
    """Return cells that are negative, dim or bright in one marker, and an embedding that is a blurred copy of it."""
    rng = np.random.default_rng(0)
    kind = rng.choice(3, n, p=[0.35, 0.3, 0.35])
    level = np.exp(np.array([1.0, 2.5, 6.0])[kind] + rng.normal(size=n) * 0.4)
    raw = np.column_stack([level, np.exp(rng.normal(size=n) * 0.3 + 3)]).astype("float32")
    return AnnData(
        raw,
        obs=pd.DataFrame({"type": np.array(["negative", "dim", "bright"])[kind]}, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=["CD45", "DAPI"]),
        obsm={
            "spatial": rng.uniform(0, 1000, (n, 2)),
            "X_mine": (np.log(raw) + rng.normal(size=raw.shape) * 0.5).astype("float32"),
        },
    )


def raw(adata):
    return adata.X


def log(adata):
    adata.uns["log1p"] = {"base": None}
    return np.log1p(adata.X)


def scaled(adata):
    z = np.log1p(adata.X)
    return (z - z.mean(axis=0)) / z.std(axis=0)


def clipped(adata):
    return np.clip(scaled(adata), -3, 3)


def background_subtracted(adata):
    return adata.X - np.array([3.0, 15.0], dtype="float32")


def outer_join(adata):
    x = scaled(adata)
    x[::7, 1] = np.nan
    return x


FORMS = [raw, log, scaled, clipped, background_subtracted, outer_join]


@pytest.mark.parametrize("form", FORMS)
def test_the_best_baseline_is_as_strong_as_on_raw_intensities(form):
    adata = three_levels()
    adata.X = form(adata)

    scores = tl.probe(adata, label="type", guard_um=0, representations=available(adata)).set_index("representation")
    of_intensity = scores.loc[[name for name in (MEAN_INTENSITY, LOG_INTENSITY) if name in scores.index]]

    assert of_intensity["balanced_accuracy"].max() > 0.95
    assert of_intensity["knn_balanced_accuracy"].max() > 0.95
    assert (LOG_INTENSITY in scores.index) == (form not in (raw, log))


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (raw, None),
        (log, "X is logarithmic already"),
        (scaled, "X has values below 0"),
        (background_subtracted, "X has values below 0"),
        (outer_join, r"X lacks values of 1 markers \(DAPI\)"),
    ],
)
def test_the_verdict_reports_what_the_intensities_are(tmp_path, form, sentence):
    adata = three_levels()
    adata.X = form(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")

    found = evaluate(tmp_path / "cells.h5ad", label=["type"], use_rep=["X_mine"], guard_um=0, images=False)

    (verdict,) = found.verdicts
    assert "best by linear probe is X_mine" not in verdict
    assert verdict.count("\n") == (1 if sentence is None else 2)
    if sentence is not None:
        pd.testing.assert_series_equal(pd.Series([verdict]).str.contains(sentence), pd.Series([True]))


def test_a_log_layer_does_not_make_raw_intensities_logarithmic():
    adata = three_levels()
    adata.uns["log1p"] = {}

    assert intensities_of(adata).form == "raw"


def test_a_marker_without_any_value_is_a_constant():
    adata = three_levels()
    adata.X[:, 1] = np.nan

    assert (features_of(adata, MEAN_INTENSITY, np.arange(10))[:, 1] == 0).all()


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_names_that_occur_twice_are_reported_in_one_sentence(tmp_path):
    markers, cells = three_levels(), three_levels()
    markers.var_names = ["CD45", "CD45"]
    markers.write_h5ad(tmp_path / "markers.h5ad")
    cells.obs_names = ["c1", "c1", *cells.obs_names[2:]]
    cells.write_h5ad(tmp_path / "cells.h5ad")

    arguments = {"label": ["type"], "use_rep": ["X_mine"], "guard_um": 0, "images": False}
    with pytest.raises(InputError, match=r"1 of 2 markers have the name of another one, such as 'CD45'\. Make"):
        evaluate(tmp_path / "markers.h5ad", **arguments)
    with pytest.raises(InputError, match=r"'c1' is there twice.*make them distinct"):
        evaluate(tmp_path / "cells.h5ad", compare=[tmp_path / "cells.h5ad"], **arguments)
    notes = evaluate(tmp_path / "cells.h5ad", **arguments).notes
    assert any("1 of 1,500 cells have the name" in note for note in notes)
