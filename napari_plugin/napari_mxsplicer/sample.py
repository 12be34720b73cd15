"""Sample data for napari: a small simulated result in a temporary folder; nothing is downloaded."""

import tempfile

import mxsplicer
from napari_mxsplicer.layers import LayerData
from napari_mxsplicer.reader import read_result


def sample_layers() -> list[LayerData]:
    """Simulate a small result and return its layers."""
    return read_result(str(mxsplicer.simulate_result(tempfile.mkdtemp(prefix="mxsplicer-"))))
