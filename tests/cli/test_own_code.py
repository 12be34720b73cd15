"""A method developer's own file, from the command line: trained with, scored, verified, and refused where it fails."""

import sys

import anndata
import pytest

from mxsplicer.simulation import simulate_slide

OWN = """
from torch import nn
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.objectives.splicer import Splicer

class Mine(Splicer):
    "SpliCER by another name."

class Stiff(VICReg):
    def __init__(self):
        super().__init__(invariance_weight=50.0)

class Shallow(nn.Sequential):
    def __init__(self, n_markers, patch_px, width):
        super().__init__(nn.Conv2d(n_markers, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())

class Flat(nn.Module):
    def forward(self, x):
        return x
"""
OPTIONS = ("--patch-size-um", 8, "--component-width", 2, "--epochs", 1, "--encoder-width", 8, "--device", "cpu")


@pytest.fixture
def slide(tmp_path):
    (tmp_path / "own_file.py").write_text(OWN)
    yield simulate_slide(tmp_path / "S01.ome.tiff", size_px=320, seed=1)
    sys.modules.pop("own_file", None)


def test_an_own_method_loss_and_encoder_are_trained_scored_and_verified(command, slide):
    own = ("--method", "own_file:Mine", "--loss", "own_file:Stiff", "--encoder", "own_file:Shallow")

    done = command(
        "embed", slide.image, *own, *OPTIONS, "--mask", slide.mask, "--labels", slide.truth, "--score", "lineage"
    )

    assert done.code == 0, done.err
    adata = anndata.read_h5ad("S01.mxs/cells.h5ad")
    assert adata.obsm["X_mine"].shape == (adata.n_obs, 32)
    assert adata.uns["mxsplicer"]["chunks"]["component"][0] != "whole"  # those of a subclass of SpliCER are chunks
    scored = command("evaluate", "S01.mxs", "--labels", "lineage", "--encoder-class", "own_file:Shallow")
    assert scored.code == 0, scored.err
    assert "X_mine" in scored.out
    assert "untrained encoder" in scored.out
    assert command("verify", "S01.mxs", "--encoder-class", "own_file:Shallow").code == 0
    assert "--encoder-class own_file:Shallow" in command("verify", "S01.mxs").err


@pytest.mark.parametrize(
    ("option", "name", "sentence"),
    [
        ("--loss", "own_file:Gone", "has no 'Gone' to call as a loss"),
        ("--method", "own_file:Stiff", "is not a subclass of"),
        ("--encoder", "own_file:Flat", "encoder 'own_file:Flat'"),
    ],
)
def test_a_failure_in_own_code_is_reported_before_anything_is_written(command, slide, option, name, sentence):
    done = command("embed", slide.image, option, name, *OPTIONS, "--mask", slide.mask)

    assert (done.code, [name for name in done.written if "__pycache__" not in name]) == (2, [])
    assert sentence in done.err
