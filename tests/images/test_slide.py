"""A slide knows its channels, refuses what does not fit, and shows itself small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import complete_key
from mxsplicer.images.slide import Slide, overview
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.testing import tiny_slide


def test_a_marker_is_found_by_its_name_and_a_slip_is_answered_with_the_nearest():
    slide, _ = tiny_slide(markers=["DAPI", "CD3e", "CD20"])

    assert slide.channels_of(["CD20", "DAPI"]) == [2, 0]
    with pytest.raises(InputError, match=r"no marker 'CD3'\. Did you mean 'CD3e'\? Its markers: DAPI, CD3e, CD20"):
        slide.channels_of(["CD3"])


def test_names_and_channels_agree_in_number():
    with pytest.raises(InputError, match=r"3 channels but 2 marker names \(given\): DAPI, CD3e\..*`markers`"):
        Slide("S01", np.zeros((3, 4, 4)), ("DAPI", "CD3e"), 0.5)


def test_an_image_has_three_axes():
    with pytest.raises(InputError, match=r"has 2 axes; \(C, Y, X\) are needed"):
        Slide("S01", np.zeros((4, 4)), ("DAPI",), 0.5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    max_side_px=st.integers(1, 100),
    levels=st.integers(0, 2),
    tile_px=st.sampled_from([8, 32]),
)
def test_an_overview_is_every_nth_pixel_of_the_slide(shape, max_side_px, levels, tile_px):
    image = np.random.default_rng(0).integers(0, 99, (2, *(2**levels * n for n in shape)))
    pyramid = tuple(image[:, :: 2**level, :: 2**level] for level in range(1, levels + 1))
    slide = Slide("S01", image, ("A", "B"), 0.5, pyramid=pyramid, tile_px=(tile_px, tile_px))

    small, factor = overview(slide, max_side_px=max_side_px, channels=[1])

    assert max(small.shape[1:]) <= max_side_px
    np.testing.assert_array_equal(small, image[[1], ::factor, ::factor])


@pytest.mark.parametrize("key", [0, ..., (..., 3), (1, ...), (slice(2), 1), (slice(None), 1, 2), (1, 2, 3)])
def test_an_index_is_completed_as_numpy_reads_it(key):
    image = np.arange(60).reshape(3, 4, 5)

    np.testing.assert_array_equal(image[complete_key(key, 3)], image[key])


def test_a_fingerprint_follows_the_content_and_not_the_name(tmp_path):
    for name, content in [("a", b"x" * 99), ("b", b"x" * 99), ("c", b"x" * 98 + b"y")]:
        (tmp_path / name).write_bytes(content)

    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
    assert len(fingerprint(tmp_path / "a")) == 16
    assert len(fingerprint(tmp_path)) == 16
