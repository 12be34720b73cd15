import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mxsplicer.errors import InputError
from mxsplicer.patches.store import NUCLEUS, OTHER_CELL, THIS_CELL
from mxsplicer.splicer.deconstruction import (
    DECONSTRUCTIONS,
    Component,
    by_compartment,
    by_group,
    combine,
    component_pixels,
    cut,
    omit,
    read_groups,
    stack_components,
)
from mxsplicer.testing import check_deconstruction

MARKERS = ["DAPI", "CD3e", "CD20"]
GROUPED = by_group({"T cells": ["CD3e", "CD8a"], "nuclei": ["DAPI"], "lymphocytes": ["CD20", "CD3e"]})


def example(seed: int = 0, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patches and what their pixels show."""
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randint(0, 3, (2, 8, 8), generator=generator, dtype=torch.uint8)
    return torch.randn(2, channels, 8, 8, generator=generator), regions


def shown_in(patches: torch.Tensor, regions: torch.Tensor, components: list[Component], *, hide: bool) -> torch.Tensor:
    return cut(patches, component_pixels(regions, components, hide=hide), components, hide=hide)


@pytest.mark.parametrize("deconstruct", [*DECONSTRUCTIONS.values(), GROUPED], ids=[*DECONSTRUCTIONS, "groups"])
def test_every_deconstruction_keeps_the_contract(deconstruct):
    check_deconstruction(deconstruct)


def test_components_by_marker_are_the_channels():
    patches, regions = example()
    components = DECONSTRUCTIONS["marker"](MARKERS)

    stacked = stack_components(shown_in(patches, regions, components, hide=False), components)

    torch.testing.assert_close(stacked, patches[:, :, None])


def test_components_by_marker_show_only_the_cell_if_surroundings_are_hidden():
    patches, regions = example()

    shown = shown_in(patches, regions, DECONSTRUCTIONS["marker"](MARKERS), hide=True)

    torch.testing.assert_close(shown, patches * (regions == 1)[:, None])


@pytest.mark.parametrize("name", ["regions", "cell", "mask", "halves", "sides"])
@given(seed=st.integers(0, 100), channels=st.sampled_from([1, 3]))  # a grey image, one in colour
@settings(max_examples=10, deadline=None)
def test_components_of_a_patch_sum_to_the_patch_and_do_not_overlap(name, seed, channels):
    patches, regions = example(seed, channels)
    components = DECONSTRUCTIONS[name]([f"channel {i}" for i in range(channels)])

    stacked = stack_components(shown_in(patches, regions, components, hide=True), components)  # (B, n, C, P, P)

    torch.testing.assert_close(stacked.sum(dim=1), patches)
    assert ((stacked != 0).sum(dim=1) <= 1).all()


def test_nucleus_and_cytoplasm_are_the_cell():
    patches, _ = example()
    regions = torch.tensor([THIS_CELL, NUCLEUS, OTHER_CELL, 0] * 2, dtype=torch.uint8).expand(2, 8, 8)

    nucleus, cytoplasm = (shown_in(patches, regions, [one], hide=True) for one in DECONSTRUCTIONS["nucleus"](MARKERS))
    cell, surroundings = (shown_in(patches, regions, [one], hide=True) for one in DECONSTRUCTIONS["cell"](MARKERS))

    torch.testing.assert_close(nucleus, patches * (regions == NUCLEUS)[:, None])
    torch.testing.assert_close(nucleus + cytoplasm, cell)
    torch.testing.assert_close(cell + surroundings, patches)


def test_halves_and_sides_are_where_their_names_say():
    patches, regions = example()
    halves, sides = DECONSTRUCTIONS["halves"](MARKERS), DECONSTRUCTIONS["sides"](MARKERS)

    torch.testing.assert_close(shown_in(patches, regions, halves[:1], hide=False)[:, :, :4], patches[:, :, :4])
    torch.testing.assert_close(shown_in(patches, regions, sides[1:], hide=False)[..., 4:], patches[..., 4:])
    assert [component.name for component in halves + sides] == ["upper", "lower", "left", "right"]


def test_regions_are_the_cell_its_neighbours_and_the_background():
    patches, regions = example()

    for value, component in zip((1, 2, 0), DECONSTRUCTIONS["regions"](MARKERS), strict=True):
        torch.testing.assert_close(
            shown_in(patches, regions, [component], hide=True), patches * (regions == value)[:, None]
        )


def test_groups_may_overlap_and_those_with_fewer_channels_are_padded_with_zeros():
    patches, regions = example()
    components = by_group({"pair": ["CD20", "DAPI"], "single": ["CD20"]})(MARKERS)

    stacked = stack_components(shown_in(patches, regions, components, hide=False), components)

    torch.testing.assert_close(stacked[:, 0], patches[:, [2, 0]])
    torch.testing.assert_close(stacked[:, 1, 0], patches[:, 2])
    assert not stacked[:, 1, 1].any()


def test_a_composite_has_the_components_of_all_in_order():
    both = combine([DECONSTRUCTIONS["marker"], DECONSTRUCTIONS["regions"]])
    patches, regions = example()

    components = both(MARKERS)

    assert [component.name for component in components] == [*MARKERS, "cell", "neighbours", "background"]
    stacked = stack_components(shown_in(patches, regions, components, hide=False), components)
    torch.testing.assert_close(stacked[:, 1, 0], patches[:, 1])
    torch.testing.assert_close(stacked[:, 3:].sum(dim=1), patches)


def test_two_components_of_one_name_raise():
    with pytest.raises(InputError, match="two components are called 'cell': cell, neighbours"):
        combine([DECONSTRUCTIONS["regions"], DECONSTRUCTIONS["cell"]])(MARKERS)


def test_an_unknown_marker_of_a_group_raises_and_the_closest_name_is_suggested():
    with pytest.raises(InputError, match=r"group 'T' names 'CD3', which is not a marker. Did you mean 'CD3e'"):
        by_group({"T": ["CD3"]})(MARKERS)


def test_no_component_shows_omitted_markers_and_omitted_components_are_gone():
    components = combine([DECONSTRUCTIONS["marker"], DECONSTRUCTIONS["regions"]])(MARKERS)

    kept = omit(components, MARKERS, ["CD3e", "background"])

    assert [component.name for component in kept] == ["DAPI", "CD20", "cell", "neighbours"]
    assert all(1 not in component.channels for component in kept)
    assert omit(components, MARKERS, []) == components
    with pytest.raises(InputError, match="Did you mean 'background'"):
        omit(components, MARKERS, ["back ground"])
    with pytest.raises(InputError, match="no component is left without DAPI, CD3e, CD20"):
        omit([Component("all", (0, 1, 2))], MARKERS, MARKERS)


def test_groups_are_read_from_yaml(tmp_path):
    file = tmp_path / "groups.yaml"
    file.write_text("T cells: [CD3e, CD8a]\nnuclei: DAPI\nHLA-DR/DP:\n  - CD20\n")

    assert read_groups(file) == {"T cells": ("CD3e", "CD8a"), "nuclei": ("DAPI",), "HLA-DR/DP": ("CD20",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- CD3e\n- CD8a\n", "contains no named groups"),
        ("", "contains no named groups"),
        ("T cells: {CD3e: 1}\n", "group 'T cells' is {'CD3e': 1}, not a list of markers"),
        ("T cells: []\n", "group 'T cells' is \\[\\], not a list"),
        ("T cells: [CD3e\n", "is not a YAML file"),
    ],
)
def test_a_file_without_groups_raises(tmp_path, text, message):
    (tmp_path / "groups.yaml").write_text(text)

    with pytest.raises(InputError, match=message):
        read_groups(tmp_path / "groups.yaml")


def test_compartments_are_the_outermost_two_pixels_of_the_cell_and_the_rest():
    regions = torch.zeros(1, 12, 12, dtype=torch.uint8)
    regions[0, 2:10, 1:11] = THIS_CELL
    regions[0, :2] = OTHER_CELL

    of_rim, of_interior = (
        shown_in(torch.ones(1, 1, 12, 12), regions, [c], hide=True)[0, 0] for c in by_compartment(["CD4"])
    )

    cell = (regions[0] == THIS_CELL).numpy()
    inside = ndimage.binary_erosion(cell, iterations=2)  # SciPy's, by the four neighbours
    np.testing.assert_array_equal(of_interior.numpy(), inside)
    np.testing.assert_array_equal(of_rim.numpy(), cell & ~inside)
