import anndata
import numpy as np
import pytest

from mxsplicer import InputError, open_result, open_result_slide, simulate_result


def test_the_same_seed_gives_the_same_result_and_another_seed_another(tmp_path):
    z = []
    for number, seed in enumerate((3, 3, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        z.append(anndata.read_h5ad(simulate_result(folder, size_px=256, seed=seed) / "cells.h5ad").obsm["X_splicer"])
    np.testing.assert_array_equal(z[0], z[1])
    assert z[0].shape != z[2].shape or not np.array_equal(z[0], z[2])


def test_the_slide_of_a_result_opens_by_its_name_with_its_mask(tmp_path):
    result = simulate_result(tmp_path, size_px=256)
    slide, mask = open_result_slide(result, "sample")
    assert slide.markers == tuple(open_result(result)["slides"][0]["markers"])
    assert slide.image.shape[1:] == mask.shape
    with pytest.raises(InputError, match=r"sample.mxs has no slide 'other'; it has sample"):
        open_result_slide(result, "other")
