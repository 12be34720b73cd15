import pytest
from napari_mxsplicer.opening import open_in

from mxsplicer import InputError


def test_a_table_without_an_image_asks_for_its_mask(sample):
    asked = r"cells.h5ad is a table without an image. Open its result, .*sample.mxs, or pass its label image as `mask`"
    with pytest.raises(InputError, match=asked):
        open_in(None, sample / "cells.h5ad")
