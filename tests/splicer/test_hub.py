"""A folder stands in for the hub; its calls are checked against the signatures of the real client."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from mxsplicer.errors import InputError
from mxsplicer.splicer import training
from mxsplicer.splicer.hub import pull, push
from mxsplicer.splicer.moment_names import MOMENTS
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.testing import tiny_store

CELLS = [(y, x) for y in range(8, 60, 12) for x in range(8, 60, 12)]


class Hub:
    """A folder of repositories with the calls of ``HfApi``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: dict[str, bool] = {}

    def create_repo(self, *arguments, **options):
        """Make a folder."""
        given = self._as_client("create_repo", arguments, options)
        self.private.setdefault(given["repo_id"], given["private"])
        (self.folder / given["repo_id"]).mkdir(parents=True, exist_ok=given["exist_ok"])

    def upload_folder(self, *arguments, **options):
        """Copy files into a folder."""
        given = self._as_client("upload_folder", arguments, options)
        for name in given["allow_patterns"]:
            if (given["folder_path"] / name).exists():
                shutil.copy(given["folder_path"] / name, self.folder / given["repo_id"])

    def list_repo_files(self, *arguments, **options):
        """Return the files of a folder, and the one that every repository has."""
        folder = self.folder / self._as_client("list_repo_files", arguments, options)["repo_id"]
        if not folder.is_dir():
            msg = "404 Client Error."
            raise OSError(msg)
        files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        return [".gitattributes", *files]

    def hf_hub_download(self, *arguments, **options):
        """Copy a file, and leave notes next to it as the client does."""
        given = self._as_client("hf_hub_download", arguments, options)
        (given["local_dir"] / ".cache").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / given["repo_id"] / given["filename"], given["local_dir"])

    @staticmethod
    def _as_client(name, arguments, options):
        return inspect.signature(getattr(HfApi, name)).bind(None, *arguments, **options).arguments


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path / "hub")


@pytest.fixture(
    scope="module",
    params=[Recipe(component_width=4, batch_size=8, epochs=1), Recipe(encoder=MOMENTS)],
    ids=["trained", "built-in"],
)
def run(request, tmp_path_factory):
    recipe = request.param
    return training.train(
        tiny_store(cells_at=CELLS), tmp_path_factory.mktemp("hub") / "run", recipe=recipe, device="cpu"
    )


def test_a_run_that_was_pushed_is_the_same_when_it_is_pulled(run, hub, tmp_path):
    assert push(run.path, "lab/cells", hub=hub) == "lab/cells"
    pulled = pull("lab/cells", tmp_path / "pulled", hub=hub)

    assert hub.private == {"lab/cells": True}
    assert {file.name for file in pulled.path.iterdir()} == {file.name for file in run.path.iterdir()}
    assert pulled.markers == run.markers
    assert pulled.settings == run.settings
    for name, tensor in run.encoder.state_dict().items():
        torch.testing.assert_close(pulled.encoder.state_dict()[name], tensor, rtol=0, atol=0)
    assert pulled.fingerprint() == run.fingerprint()


def test_a_repository_is_public_only_where_that_is_asked_for(run, hub):
    push(run.path, "lab/cells", public=True, hub=hub)

    assert hub.private == {"lab/cells": False}


@pytest.mark.parametrize("strange", ["train.py", "pytorch_model.bin", "deep/config.json", "config.json.pkl"])
def test_a_repository_with_anything_but_a_run_is_refused_and_nothing_fetched(run, hub, tmp_path, strange):
    push(run.path, "lab/cells", hub=hub)
    (tmp_path / "hub/lab/cells" / strange).parent.mkdir(exist_ok=True)
    (tmp_path / "hub/lab/cells" / strange).write_bytes(b"import os")

    with pytest.raises(InputError, match=f"do not belong to a run: {strange}. Nothing was downloaded"):
        pull("lab/cells", tmp_path / "pulled", hub=hub)
    assert [file.name for file in tmp_path.iterdir()] == ["hub"]


def test_a_repository_without_a_run_is_refused(hub, tmp_path):
    hub.create_repo("lab/empty", private=True, exist_ok=True)

    with pytest.raises(InputError, match=r"lacks config\.json and model\.safetensors"):
        pull("lab/empty", tmp_path / "pulled", hub=hub)


def test_a_damaged_run_is_refused_and_leaves_nothing(run, hub, tmp_path):
    push(run.path, "lab/cells", hub=hub)
    weights = tmp_path / "hub/lab/cells/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])

    with pytest.raises(InputError, match="is damaged"):
        pull("lab/cells", tmp_path / "pulled", hub=hub)
    assert [file.name for file in tmp_path.iterdir()] == ["hub"]


def test_a_run_that_names_a_class_is_not_imported(run, hub, tmp_path):
    push(run.path, "lab/cells", hub=hub)
    file = tmp_path / "hub/lab/cells/config.json"
    config = json.loads(file.read_text())
    config["settings"]["encoder"] = "antigravity:Encoder"
    file.write_text(json.dumps(config))

    with pytest.raises(InputError, match="no code is run because a file names it"):
        pull("lab/cells", tmp_path / "pulled", hub=hub)


def test_a_refusal_of_the_hub_is_reported_in_one_sentence(hub, tmp_path):
    with pytest.raises(InputError, match=r"the hub refused repository 'nobody/nothing' \(OSError: 404 Client Error\)"):
        pull("nobody/nothing", tmp_path / "pulled", hub=hub)


def test_an_existing_folder_is_not_replaced_unasked(run, hub, tmp_path):
    push(run.path, "lab/cells", hub=hub)
    (tmp_path / "pulled").mkdir()

    with pytest.raises(InputError, match="exists"):
        pull("lab/cells", tmp_path / "pulled", hub=hub)
    assert pull("lab/cells", tmp_path / "pulled", overwrite=True, hub=hub).path == tmp_path / "pulled"


OWN = """
from torch import nn

class Shallow(nn.Sequential):
    def __init__(self, n_markers, patch_px):
        super().__init__(nn.Conv2d(n_markers, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
"""


def test_a_run_whose_encoder_is_someones_own_is_pushed_and_pulled_where_that_is_named(hub, tmp_path, monkeypatch):
    (tmp_path / "own_of_hub.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    named = "own_of_hub:Shallow"
    recipe = Recipe(encoder=named, component_width=4, batch_size=8, epochs=1)
    run = training.train(tiny_store(cells_at=CELLS), tmp_path / "run", recipe=recipe, device="cpu")
    with pytest.raises(InputError, match=f"pass `encoder={named!r}`"):
        push(run.path, "lab/cells", hub=hub)
    push(run.path, "lab/cells", encoder=named, hub=hub)

    with pytest.raises(InputError, match=f"pass `encoder={named!r}`"):
        pull("lab/cells", tmp_path / "pulled", hub=hub)
    pulled = pull("lab/cells", tmp_path / "pulled", encoder=named, hub=hub)

    assert pulled.fingerprint() == run.fingerprint()


def test_a_folder_without_a_run_is_not_pushed(hub, tmp_path):
    (tmp_path / "notes").mkdir()

    with pytest.raises(InputError, match="is not a run folder"):
        push(tmp_path / "notes", "lab/cells", hub=hub)
    assert hub.private == {}
