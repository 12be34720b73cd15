"""The arena's table, on tiny data in which one description is known to win."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

ARENA = Path(__file__).parents[2] / "workflows/arena"
MODULES = ("arena", "cellprofiler", "descriptions", "learned", "robustness", "scores", "sets")
SIDE = 16


@pytest.fixture
def arena(monkeypatch):
    """Return the arena's module; its folder is on the path as it is for the command."""
    monkeypatch.syspath_prepend(str(ARENA))
    import arena

    yield arena
    for name in MODULES:
        sys.modules.pop(name, None)


def make_cells(arena, n=240):
    """Return cells with one marker, whose rim or interior is bright at the same mean, in 4 groups."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    inside = np.hypot(y, x) < 6
    rim = inside & (np.hypot(y, x) > 4)
    state = np.arange(n) % 2
    pixels = np.zeros((n, 2, SIDE, SIDE))
    for cell in range(n):
        bright = rim if state[cell] else inside & ~rim
        pixels[cell, 0] = 100 * inside + bright * 100 * inside.sum() / bright.sum()
        pixels[cell, 1] = 200
    pixels *= rng.normal(1, 0.1, pixels.shape) * rng.lognormal(0, 0.3, (n, 2, 1, 1))
    obs = pd.DataFrame(
        {
            "state": pd.array(np.array(["interior", "rim"])[state], dtype="string"),
            "group": rng.permutation(np.arange(n) % 4).astype(str),
            "slide": "one",
            "cell_id": np.arange(n) + 1,
        },
        index=[str(i) for i in range(n)],
    )
    table = AnnData(obs=obs, var=pd.DataFrame(index=["a", "b"]), obsm={"spatial": rng.uniform(0, 100, (n, 2))})
    return arena.sets.Cells(pixels.astype(np.uint16), np.repeat(inside[None], n, axis=0), table)


def score_all(arena, cells, tmp_path):
    data = arena.sets.DataSet("tiny", (), ("state",), 16.0, fold_by="group", clusters="state")
    given = arena.arguments().parse_args(
        ["--classical-only", "--cells-of-cp-measure", "0", "--work", str(tmp_path), "--size-px", "0"]
    )
    found = list(arena.describe(data, cells, given))
    winner = np.eye(2)[(cells.table.obs["state"] == "rim").to_numpy().astype(int)]
    found.append(arena.Described("oracle", np.arange(len(winner)), winner, 1.0, 1.0))
    folds = [row for one in found for row in arena.score_labels(data, cells, one)]
    about = [arena.describe_costs(data, cells, one) for one in found]
    return arena.tabulate(pd.DataFrame(folds), pd.DataFrame(about))


def test_the_table_has_every_description_and_what_must_win_wins(arena, tmp_path):
    table = score_all(arena, make_cells(arena), tmp_path).set_index("description")

    assert set(table.index) == {*arena.descriptions.DESCRIPTIONS, "oracle"}
    assert table.loc["oracle", ["linear", "neighbours", "few_labels", "ari_best"]].min() == 1
    assert table.loc["compartments", "linear"] > 0.95
    assert table.loc["mean", "linear"] < 0.65  # the means are equal
    assert table.loc["oracle", "linear_best_classical"] in {name for name in table.index if "compartments" in name}
    assert table.loc["mean", "linear_difference"] < -0.3
    assert table.loc["mean", "linear_p"] < 0.05
    assert (table[["training_s", "embedding_s", "dimensions"]] >= 0).all(axis=None)


def test_what_was_measured_is_read_again(arena, tmp_path):
    calls = []
    for _ in range(2):
        made, seconds = arena.kept(tmp_path / "one.pickle", lambda: calls.append(1) or "made")
        assert made == "made"
        assert seconds >= 0
    assert calls == [1]


def test_a_description_of_changed_cells_uses_the_scales_of_the_reference(arena):
    cells = make_cells(arena)
    reference = arena.descriptions.measure_reference(cells)
    statistics = arena.descriptions.measure(cells, reference)
    brighter = arena.sets.Cells(cells.pixels * np.array([2, 1])[:, None, None].astype(np.uint16), *_rest(cells))
    transform = arena.descriptions.fit("mean", statistics)

    moved = transform(arena.descriptions.measure(brighter, reference)) - transform(statistics)

    spread = statistics["mean"].std(axis=0)
    np.testing.assert_allclose(moved[:, 0], np.log(2) / spread[0], rtol=0.05)
    np.testing.assert_allclose(moved[:, 1], 0, atol=1e-5)


def _rest(cells):
    return cells.inside, cells.table


def test_changes_of_a_mask_move_borders_by_one_pixel(arena):
    mask = np.zeros((9, 9), dtype=np.uint32)
    mask[3:6, 3:6] = 7

    assert (arena.robustness.erode(mask) > 0).sum() == 1
    assert (arena.robustness.dilate(mask) > 0).sum() == 9 + 12
    np.testing.assert_array_equal(np.argwhere(arena.robustness.shift(mask))[0], [4, 4])


def test_cells_that_change_their_label_are_counted(arena):
    rng = np.random.default_rng(0)
    names = np.array(["B cell", "T cell"])[np.arange(40) % 2]
    table = pd.DataFrame({"lineage": names, "t_cell_subtype": names})
    features = (np.arange(40) % 2)[:, None] + rng.normal(0, 0.01, (40, 1))
    flipped = features.copy()
    flipped[:10] = 1 - flipped[:10]
    changed = pd.concat([table.assign(cell_id=range(40), change=name) for name in ("untouched", "CD3 x 2")])

    rows = arena.robustness.score(features, table, np.concatenate([features, flipped]), changed)

    of_lineage = pd.DataFrame(rows).query("label == 'lineage'").set_index("change")
    assert of_lineage.loc["CD3 x 2", "flipped"] == pytest.approx(0.25)
    assert of_lineage.loc["CD3 x 2", "loss"] == pytest.approx(0.25)
    assert of_lineage.loc["untouched", "flipped"] == 0
    summary = arena.robustness.summarise(pd.DataFrame(rows).assign(description="mean"))
    assert set(summary["kind"]) == {"untouched", "gain x 2"}


def test_missing_public_data_are_left_out_with_a_line(arena, tmp_path, capsys):
    chosen = arena.sets.choose(["mibi", "tissue3"], tmp_path, None, 256)

    assert [name for name, _ in chosen] == ["tissue3"]
    assert "without mibi" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="unknown"):
        arena.sets.choose(["nothing"], tmp_path, None, 256)


def test_cells_of_a_simulated_slide_have_their_states(arena, tmp_path):
    ((_, load),) = arena.sets.choose(["arrangements0"], tmp_path, None, 384)

    cells = arena.sets.read_cells(load())

    assert cells.pixels.shape[1] == 15
    assert len(cells.pixels) == len(cells.inside) == cells.table.n_obs > 50
    assert cells.inside.any(axis=(1, 2)).all()
    assert set(cells.table.obs["docking"].dropna()) <= {"docked", "apart", ""}


def test_cp_measure_describes_every_cell(arena):
    pytest.importorskip("cp_measure")
    cells = make_cells(arena, n=24)

    features = arena.cellprofiler.measure(cells)

    assert len(features) == 24
    assert np.isfinite(features).all()
    assert features.shape[1] > 20
