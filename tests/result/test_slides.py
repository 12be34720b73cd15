"""The record of a slide opens the slide again as it was opened."""

import numpy as np
import tifffile

from mxsplicer.result.slides import SlideRecord

IMAGE = np.random.default_rng(0).integers(0, 999, (2, 40, 50), dtype=np.uint16)


def test_a_record_knows_which_image_of_its_file_it_is(tmp_path):
    path = tmp_path / "S01.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels in (("scene 1", IMAGE), ("scene 2", IMAGE[:, ::-1])):
            meta = {"axes": "CYX", "Name": name, "Channel": {"Name": ["DAPI", "CD3e"]}, "PhysicalSizeX": 0.5}
            writer.write(pixels, photometric="minisblack", metadata=meta)
    record = SlideRecord.of_image(path, image_in_file="scene 2", mask=tmp_path / "mask.tif")

    again = SlideRecord.from_index(record.as_opened(record.open_image()).to_index(tmp_path), tmp_path)

    np.testing.assert_array_equal(again.open_image().image[...], IMAGE[:, ::-1])
