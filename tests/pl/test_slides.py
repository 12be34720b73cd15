import numpy as np
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.images.slide import Slide
from mxsplicer.pl import colors


def test_a_slide_is_shown_with_the_outlines_of_its_cells():
    image = np.full((2, 40, 60), 100, np.uint16)
    mask = np.zeros((40, 60), np.uint32)
    mask[10:20, 10:20] = 7
    slide = Slide("S01", image, ("DAPI", "CD4"), pixel_size_um=0.5)

    axes = pl.slide(slide, markers=["DAPI"], mask=mask, window=(slice(0, 40), slice(0, 60)), ax=Figure().subplots())

    pixels = axes.images[0].get_array()
    assert pixels.shape == (40, 60, 3)
    assert (pixels[10, 10:20] == 255).all()
    assert (pixels[15, 15] != 255).any()


def test_channels_add_up_in_their_colours():
    image = np.array([[[0, 10]], [[10, 10]]])

    pixels = colors.composite(image, [(0, 10), (0, 10)], ["#ff0000", "#0000ff"])

    assert pixels.tolist() == [[[0, 0, 255], [255, 0, 255]]]
