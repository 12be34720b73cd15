import pytest
import torch

from mxsplicer.splicer.deconstruction import DECONSTRUCTIONS, Component, deconstruct
from mxsplicer.testing import check_deconstruction


@pytest.mark.parametrize("name", DECONSTRUCTIONS)
def test_every_deconstruction_keeps_the_contract(name):
    check_deconstruction(DECONSTRUCTIONS[name])


def test_components_by_marker_are_the_channels():
    patches = torch.randn(2, 3, 8, 8)

    parts = deconstruct(patches, DECONSTRUCTIONS["marker"](["DAPI", "CD3e", "CD20"]))

    torch.testing.assert_close(parts, patches[:, :, None])


def test_a_component_with_fewer_channels_is_filled_up_with_zeros():
    patches = torch.randn(2, 3, 8, 8)

    parts = deconstruct(patches, [Component("pair", (2, 0)), Component("single", (1,))])

    torch.testing.assert_close(parts[:, 0], patches[:, [2, 0]])
    torch.testing.assert_close(parts[:, 1, 0], patches[:, 1])
    assert not parts[:, 1, 1].any()
