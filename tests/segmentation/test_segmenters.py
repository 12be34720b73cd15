"""Segmenters by name are called as their documentation says; what is missing is expected in one sentence.

The packages are played by modules of their names, with their signatures.
"""
# ruff: noqa: ARG002, D101, D102  (signatures are theirs)

import sys
from types import ModuleType

import numpy as np
import pytest
from skimage.measure import label

from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.segmentation.segment import segment
from mxsplicer.segmentation.segmenters import SEGMENTERS

PIXEL_UM = 0.25


def slide():
    image = np.full((3, 300, 300), 100, np.uint16)
    for y, x in np.stack(np.mgrid[30:300:60, 30:300:60], axis=-1).reshape(-1, 2):
        image[2, y - 12 : y + 12, x - 12 : x + 12] = 4000  # nuclei
        image[0, y - 20 : y + 20, x - 20 : x + 20] = 900  # membranes
    return Slide("S01", image, ("E-Cadherin", "CD3e", "DAPI"), PIXEL_UM)


class Tensor:
    """A torch tensor, as much of it as is used."""

    def __init__(self, values):
        self.values = values

    def cpu(self):
        return self.values


class CellposeModel:
    asked = ()

    def __init__(self, gpu=False, pretrained_model="cpsam", model_type=None, device=None):
        pass

    def eval(self, x, batch_size=8, channel_axis=None, normalize=True, diameter=None, min_size=15):
        CellposeModel.asked = (x.copy(), channel_axis, normalize, diameter)
        wanted = x[1] if x[1].any() else x[0]
        return label(wanted > 0.5).astype(np.uint16), [None, None, None], np.zeros(256)


class StarDist2D:
    asked = ()

    @classmethod
    def from_pretrained(cls, name_or_alias=None):
        print(f"Found model {name_or_alias!r}")  # noqa: T201
        return cls() if name_or_alias == "2D_versatile_fluo" else None

    def predict_instances(self, img, axes=None, normalizer=None, scale=None, n_tiles=None, show_tile_progress=True):
        StarDist2D.asked = (img.copy(), axes, scale)
        return label(img > 0.5).astype(np.int32), {"prob": np.ones(1)}


class InstanSeg:
    asked = ()

    def __init__(self, model_type="brightfield_nuclei", device=None, image_reader="auto", verbosity=1):
        assert model_type == "fluorescence_nuclei_and_cells"

    def eval_small_image(
        self, image, pixel_size=None, normalise=True, return_image_tensor=True, target="all_outputs", **options
    ):
        InstanSeg.asked = (image.copy(), pixel_size, normalise, target)
        assert not return_image_tensor
        wanted = image[1] if target == "cells" else image[0]
        return Tensor(label(wanted > 0.5).astype(np.float32)[None, None])


PLAYED = {
    "cellpose": ("cellpose.models", CellposeModel),
    "stardist": ("stardist.models", StarDist2D),
    "instanseg": ("instanseg", InstanSeg),
}


@pytest.fixture
def played(monkeypatch):
    for module_name, model in PLAYED.values():
        package = module_name.partition(".")[0]
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        module = ModuleType(module_name)
        setattr(module, model.__name__, model)
        monkeypatch.setitem(sys.modules, module_name, module)


def test_every_segmenter_is_tested_here():
    assert set(SEGMENTERS) == set(PLAYED)


@pytest.mark.parametrize("name", sorted(SEGMENTERS))
@pytest.mark.parametrize("tile_px", [128, 2048])
def test_a_named_segmenter_finds_nuclei_that_are_grown(tmp_path, played, capsys, name, tile_px):
    mask = segment(slide(), tmp_path / "mask.zarr", segmenter=name, expansion_um=1.0, tile_px=tile_px, halo_um=15)

    sizes = np.bincount(mask[:].ravel())[1:]
    assert len(sizes) == 25
    assert np.all((sizes > 28**2) & (sizes <= 32**2)), "24 pixels and 4 on each side, corners rounded"
    image = PLAYED[name][1].asked[0]
    nuclei = image if image.ndim == 2 else image[0]
    assert 0 <= nuclei.min() < nuclei.max() <= 1
    assert mask.attrs["mxsplicer"]["segmenter"] == name
    assert mask.attrs["mxsplicer"]["nuclear_marker"] == "DAPI"
    assert capsys.readouterr().out == "", "what packages print does not mix with what a command returns"


@pytest.mark.parametrize("name", ["cellpose", "instanseg"])
def test_with_a_membrane_marker_whole_cells_are_found(tmp_path, played, name):
    mask = segment(slide(), tmp_path / "mask.zarr", segmenter=name, membrane_marker="E-Cadherin")

    assert np.bincount(mask[:].ravel())[1:].tolist() == [40**2] * 25
    image = PLAYED[name][1].asked[0]
    assert image[0].sum() < image[1].sum(), "the nuclei come first"
    assert mask.attrs["mxsplicer"]["membrane_marker"] == "E-Cadherin"


def test_each_segmenter_receives_the_scale_in_its_own_units(tmp_path, played):
    for name in SEGMENTERS:
        segment(slide(), tmp_path / f"{name}.zarr", segmenter=name, nucleus_diameter_um=6.0)

    assert CellposeModel.asked[0].shape[0] == 3
    assert CellposeModel.asked[1:] == (0, False, 24.0)  # channel axis, no normalisation of its own, diameter in pixels
    assert StarDist2D.asked[1:] == ("YX", 0.5)
    assert InstanSeg.asked[1:] == (PIXEL_UM, False, "nuclei")


def test_what_a_named_segmenter_finds_does_not_depend_on_the_tiles(tmp_path, played):
    whole, tiled = (
        segment(slide(), tmp_path / f"{side}.zarr", segmenter="stardist", tile_px=side, halo_um=20)[:]
        for side in (4096, 128)
    )

    np.testing.assert_array_equal(tiled, whole)


def test_stardist_with_a_membrane_marker_is_refused(tmp_path, played):
    with pytest.raises(InputError, match="nuclei only"):
        segment(slide(), tmp_path / "mask.zarr", segmenter="stardist", membrane_marker="E-Cadherin")


@pytest.mark.parametrize("segmenter", [None, "numpy:squeeze"])
def test_a_membrane_marker_without_a_segmenter_that_uses_it_is_refused(tmp_path, segmenter):
    with pytest.raises(InputError, match="`membrane_marker`"):
        segment(slide(), tmp_path / "mask.zarr", segmenter=segmenter, membrane_marker="E-Cadherin")


@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(InputError, match=rf'pip install "mxsplicer\[{name}\]"'):
        segment(slide(), tmp_path / "mask.zarr", segmenter=name)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_weights_that_cannot_be_fetched_are_reported_in_one_sentence(tmp_path, played, monkeypatch, name):
    def fail(*args, **options):
        reason = "<urlopen error [Errno -2] Name or service not known>\nand more"
        raise OSError(reason)

    model = PLAYED[name][1]
    monkeypatch.setattr(model, "from_pretrained" if name == "stardist" else "__init__", fail)

    with pytest.raises(InputError, match=rf"{name} could not load its weights.*Name or service not known"):
        segment(slide(), tmp_path / "mask.zarr", segmenter=name)


def test_a_function_of_the_users_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "bright_spots.py").write_text(
        "from skimage.measure import label\ndef find(image):\n    return label(image[2] > 2000)\nnumber = 3\n"
    )
    (tmp_path / "faulty_spots.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)

    mask = segment(slide(), tmp_path / "mask.zarr", segmenter="bright_spots:find")

    assert np.bincount(mask[:].ravel())[1:].tolist() == [24**2] * 25
    assert mask.attrs["mxsplicer"]["segmenter"] == "bright_spots:find"
    for wrong, expected in [
        ("bright_spots:number", "has no 'number' to call as a segmenter"),
        ("no_such_module:find", "cannot be imported"),
        ("faulty_spots:find", "ZeroDivisionError"),
        ("celpose", "cellpose, instanseg, stardist, or module:function"),
        (":find", "module:function"),
    ]:
        with pytest.raises(InputError, match=expected):
            segment(slide(), tmp_path / "other.zarr", segmenter=wrong)
    assert "bright_spots" in sys.modules
    for name in ("bright_spots", "faulty_spots"):
        sys.modules.pop(name, None)
