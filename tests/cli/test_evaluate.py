"""`mxsplicer evaluate` shows scores and a verdict, prints JSON, and writes what was asked for."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def saved_cells(tmp_path):
    """Write cells of two types, which X_splicer separates, as cells.h5ad."""
    rng = np.random.default_rng(0)
    n = 500
    kind = rng.integers(0, 2, n)
    obs = pd.DataFrame(
        {"cell_id": np.arange(n), "slide": pd.Categorical(["S01"] * n), "kind": np.where(kind, "T", "B")},
        index=[f"S01_{i}" for i in range(n)],
    )
    z = rng.normal(size=(n, 8)).astype(np.float32) + 2 * kind[:, None]
    adata = anndata.AnnData(
        rng.gamma(2, 50, (n, 3)).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=["Hoechst", "CD3e", "CD20"]),
        obsm={"spatial": rng.uniform(0, 900, (n, 2)), "X_splicer": z},
    )
    adata.write_h5ad(tmp_path / "cells.h5ad")


def test_tables_and_a_verdict_are_shown_and_nothing_is_written(command, saved_cells):
    outcome = command("evaluate", "cells.h5ad", "--score", "kind", "--unsafe-random-split")

    assert (outcome.code, outcome.written) == (0, [])
    assert "kind: best by linear probe is SpliCER with " in outcome.out
    assert "; best by 20 nearest neighbours is SpliCER with " in outcome.out
    assert "Whether training was needed was not measured" in outcome.out
    assert "lead: how many points SpliCER is above this description" in outcome.out
    for part in ("macro-F1", "RankMe", "labels per class", "points lost without a marker", "leak", "chance"):
        assert part in outcome.out
    assert "Hoechst" in outcome.out
    assert "note: No patches were read" in outcome.out


def test_json_a_table_and_the_scores_in_the_file_hold_the_same(command, saved_cells, tmp_path):
    outcome = command("evaluate", "cells.h5ad", "--labels", "kind", "--json", "--out", "scores.csv", "--write")

    answer = json.loads(outcome.out)
    assert (outcome.code, outcome.written) == (0, [".scores.csv.made_from.json", "cells.h5ad", "scores.csv"])
    table = pd.read_csv(tmp_path / "scores.csv")
    kept = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["mxsplicer_probe"]
    gains = [row["gain"] for row in answer["scores"]]
    np.testing.assert_allclose(table["gain"], gains, atol=1e-9)
    np.testing.assert_allclose(kept["gain"], gains, atol=1e-9)
    assert set(answer) == {"verdicts", "notes", "scores", "efficiency", "spectrum", "reliance"}


def test_one_slide_trains_and_another_tests(command, saved_cells, tmp_path):
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    adata.obs["slide"] = pd.Categorical(np.where(np.arange(adata.n_obs) < 250, "S01", "S02"))
    adata.write_h5ad(tmp_path / "cells.h5ad")

    advised = command("evaluate", "cells.h5ad", "--score", "kind")
    outcome = command("evaluate", "cells.h5ad", "--score", "kind", "--train-on", "S01", "--test-on", "S02")

    assert "Pass --train-on S01 and --test-on S02" in advised.out
    assert outcome.code == 0
    assert "4 folds by quadrant of slide S02, trained on S01" in outcome.out
    assert "--train-on" not in outcome.out


def test_a_table_of_scores_is_complete_or_kept(command, saved_cells, tmp_path):
    arguments = ("evaluate", "cells.h5ad", "--score", "kind", "--no-images", "--out", "scores.csv")
    first, second = command(*arguments), command(*arguments)
    other = command(*arguments, "--seed", 1)

    assert (first.code, second.code, other.code) == (0, 0, 2)
    assert (second.out, second.written) == ("scores.csv is complete\n", [])
    assert "scores.csv exists and was made from something else (other seed)" in other.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone.h5ad", "--score", "kind"], "gone.h5ad not found"),
        (["cells.h5ad"], "no label was named"),
        (["cells.h5ad", "--score", "kind", "--fold-by", "patient"], "column 'patient' was not found"),
        (["cells.h5ad", "--score", "kind", "--train-on", "S07"], "slide 'S07' was not found; the cells are of S01."),
        (["cells.h5ad", "--score", "kind", "--train-on", "S01"], "no other slide is left to test on."),
        (
            ["cells.h5ad", "--score", "kind", "--out", "nowhere/scores.csv"],
            "folder nowhere of --out does not exist",
        ),
    ],
)
def test_what_cannot_be_scored_ends_with_2_and_one_sentence(command, saved_cells, arguments, sentence):
    outcome = command("evaluate", *arguments)

    assert (outcome.code, outcome.out, outcome.written) == (2, "", [])
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
