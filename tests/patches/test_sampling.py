import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.cells.measure import Cells
from mxsplicer.cells.selection import choose_ids, read_ids
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import order_cells
from mxsplicer.patches.sampling import _allocate, choose_sample, find_strata, spread_sample


def tissue(n=20_000, n_rare=100):
    """Return cells of noise in three markers, of which a few, in one corner, are bright in the second."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1000, (2, n))
    intensities = rng.normal(100, 10, (n, 3)).astype(np.float32)
    intensities[:n_rare, 1] = 500
    x[:n_rare] /= 10
    intensities[n // 2 :, 2] = 900  # half of the tissue: nothing rare
    table = pd.DataFrame({"cell_id": np.arange(n, dtype=np.uint32) * 3 + 7, "x_px": x, "y_px": y})
    return Cells(table, intensities, {"in mask": n, "kept": n}, ("DAPI", "FOXP3", "CD3e"))


def test_rare_bright_cells_are_the_stratum_of_their_marker():
    stratum = find_strata(tissue().intensities)

    assert (stratum[:100] == 2).all()
    assert not stratum[100:].any()


def test_samples_of_any_size_contain_rare_bright_cells():
    cells = tissue()

    found = {size: (choose_sample(cells, size).intensities[:, 1] > 300).sum() for size in (100, 1000, 10_000)}

    assert found[100] == 7  # in proportion to √100 and √19,900; space alone would give 0.5
    assert found[1000] == 66
    assert found[10_000] == 100  # all of them


def test_the_rest_of_a_sample_is_spread_over_the_tissue():
    sample = choose_sample(tissue(), 1600).table

    counts = np.histogram2d(sample["x_px"], sample["y_px"], bins=4)[0]
    assert (counts[1:] / (1600 / 16)).min() > 0.75


def test_a_sample_is_determined_by_its_seed():
    cells = tissue()

    one, again, other = (choose_sample(cells, 500, seed=seed).table["cell_id"].to_numpy() for seed in (1, 1, 2))

    np.testing.assert_array_equal(one, again)
    assert len(np.setdiff1d(one, other)) > 300


def test_without_rare_cells_the_sample_is_spread_over_space_only():
    cells = tissue(n_rare=0)
    order = order_cells(cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy())

    sample = choose_sample(cells, 500, seed=3)

    expected = cells.table["cell_id"].to_numpy()[np.sort(order[spread_sample(len(cells), 500, seed=3)])]
    np.testing.assert_array_equal(sample.table["cell_id"], expected)


def test_empty_markers_and_a_single_cell_have_no_strata():
    assert not find_strata(np.zeros((10, 2), np.float32)).any()
    assert not find_strata(np.ones((1, 2), np.float32)).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.data())
def test_the_allocation_adds_up_and_never_exceeds_a_stratum(counts, data):
    size = data.draw(st.integers(1, sum(counts)))

    shares = np.array(_allocate(np.array(counts), size))

    assert shares.sum() == size
    assert (shares <= counts).all()
    assert (shares >= 0).all()


def test_cells_are_chosen_by_id_and_the_others_are_recorded_in_the_ledger():
    cells = tissue(n=10, n_rare=0)

    chosen = choose_ids(cells, [13, 7, 7])

    assert chosen.table["cell_id"].tolist() == [7, 13]
    assert chosen.ledger == {"in mask": 10, "kept": 2, "not chosen": 8}
    with pytest.raises(InputError, match=r"2 of the 3 cells asked for are not among the 10 cells .*: 1, 2\. "):
        choose_ids(cells, [1, 2, 7])
    with pytest.raises(InputError, match="list of cells is empty"):
        choose_ids(cells, [])


@pytest.mark.parametrize(
    "text",
    ["7\n13\n\n", "\ufeffcell_id\n7\n13\n", "area,CellID\n3,7\n4,13\n", "CellID;x\n7.0;2\n13.0;1\n"],
)
def test_lists_of_cells_are_read_as_people_write_them(tmp_path, text):
    (tmp_path / "cells.csv").write_text(text)

    assert read_ids(tmp_path / "cells.csv").tolist() == [7, 13]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7\nT cell\n", "holds 'T cell', which is not a whole number"),
        ("id,area\n7,3\n", "has the columns id, area, but no column cell_id"),
        ("area,cell_id\n7\n", "holds ''"),
        ("-7\n", "holds '-7'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "cells.csv").write_text(text)

    with pytest.raises(InputError, match=message):
        read_ids(tmp_path / "cells.csv")
    with pytest.raises(InputError, match=r"list of cells .* not found"):
        read_ids(tmp_path / "absent.csv")


def test_a_stratum_without_a_share_has_an_empty_sample():
    assert spread_sample(100, 0, seed=0).tolist() == []
