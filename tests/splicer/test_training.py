import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from mxsplicer.embedding.embed import embed
from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.splicer import loop, training
from mxsplicer.splicer.deconstruction import DECONSTRUCTIONS
from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.objectives import OBJECTIVES
from mxsplicer.splicer.projector import Projector
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run, untrained
from mxsplicer.testing import tiny_slide, tiny_store

CELLS = [(y, x) for y in range(8, 60, 6) for x in range(8, 60, 6)]  # 81 cells
SMALL = Recipe(deconstruction="marker", encoder_width=8, component_width=4, chunk_width=8, batch_size=16, epochs=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    slide, mask = tiny_slide(cells_at=CELLS)
    nuclei = np.where(np.indices(mask.shape)[0] % 2, mask, 0)  # of each cell every other row
    return extract_patches(slide, mask, tmp_path_factory.mktemp("s") / "s.zarr", patch_size_um=16, nuclei=nuclei)


def train(store, path, *, overwrite: bool = False, device: str = "cpu", **changes):
    """Train a small encoder for a few steps."""
    return training.train(store, path, recipe=replace(SMALL, **changes), device=device, overwrite=overwrite)


def weights(run) -> dict[str, torch.Tensor]:
    return run.encoder.state_dict()


@pytest.mark.parametrize("method", OBJECTIVES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_falls_for_every_method_and_loss(store, tmp_path, method, loss):
    run = train(store, tmp_path / "run", method=method, loss=loss, epochs=3)

    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(log) == run.settings["steps"] == 15
    assert np.mean([line["loss"] for line in log[-4:]]) < np.mean([line["loss"] for line in log[:4]])
    whole, components = ["whole"], ["DAPI", "CD3e", "CD20"]
    expected = {"joint": whole, "trident": whole + components}.get(method, components)
    assert list(log[0]["chunks"]) == expected
    assert log[0]["loss"] == pytest.approx(sum(chunk["loss"] for chunk in log[0]["chunks"].values()), rel=1e-4)


@pytest.mark.parametrize("method", OBJECTIVES)
@pytest.mark.parametrize("deconstruction", [*DECONSTRUCTIONS, "groups", "marker+regions"])
def test_every_method_trains_on_every_deconstruction(store, tmp_path, method, deconstruction):
    groups = {"pair": ("CD3e", "CD20"), "all": ("DAPI", "CD3e", "CD20")} if deconstruction == "groups" else {}
    recipe = replace(SMALL, method=method, deconstruction=deconstruction, groups=groups, surroundings="keep", epochs=1)
    names = [component.name for component in recipe.components(store.markers)]

    training.train(store, tmp_path / "run", recipe=recipe, device="cpu")

    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.isfinite([line["loss"] for line in log]).all()
    assert list(log[0]["chunks"]) == {"joint": ["whole"], "trident": ["whole", *names]}.get(method, names)
    assert load_run(tmp_path / "run").settings["components"] == names
    assert Recipe.from_settings(load_run(tmp_path / "run").settings) == replace(recipe, views=recipe.view_plan())


def test_chunks_have_their_own_widths_losses_and_weights(store, tmp_path):
    chosen = {"losses": {"CD20": "simclr"}, "weights": {"CD3e": 2.0}, "widths": {"CD20": 5}, "omit": ("DAPI",)}

    run = train(store, tmp_path / "run", **chosen)

    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert list(line["chunks"]) == run.settings["components"] == ["CD3e", "CD20"]
    assert run.settings["chunk_widths"] == [8, 5]
    assert line["chunks"]["CD20"]["cross_entropy"] > 0
    assert run.encoder(torch.zeros(1, 3, 32, 32)).shape == (1, run.features)  # DAPI is seen nonetheless


def test_equal_seeds_train_equal_weights_and_other_seeds_do_not(store, tmp_path):
    first, again, other = (train(store, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))

    for name, tensor in weights(first).items():
        torch.testing.assert_close(tensor, weights(again)[name], rtol=0, atol=0)
    assert not torch.allclose(weights(first)["learned.stem.0.weight"], weights(other)["learned.stem.0.weight"])


@pytest.mark.parametrize("loss", ["vicreg", "sigreg"])  # without and with random numbers in the loss
def test_an_interrupted_run_continues_with_the_numbers_it_would_have_had(store, tmp_path, monkeypatch, loss):
    whole = train(store, tmp_path / "whole", loss=loss)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    check = loop._check_finite

    def stop_at_step_7(terms, names, step):
        if step == 7:
            raise KeyboardInterrupt
        check(terms, names, step)

    monkeypatch.setattr(loop, "_check_finite", stop_at_step_7)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "cut", loss=loss)
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(loop, "_check_finite", check)
    resumed = train(store, tmp_path / "cut", loss=loss)

    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(resumed)[name], rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(10))
    assert {file.name for file in (tmp_path / "cut").iterdir()} == {
        "config.json",
        "model.safetensors",
        "projector.safetensors",
        "README.md",
        "log.jsonl",
        "log.csv",
    }


def test_components_are_selected_round_robin(store, tmp_path):
    train(store, tmp_path / "run", components_per_step=1, redundancy_weight=0.0, epochs=1)

    log = [json.loads(line)["chunks"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    selected = [[name for name, chunk in chunks.items() if chunk["loss"] > 0] for chunks in log]
    assert selected == [["DAPI"], ["CD3e"], ["CD20"], ["DAPI"], ["CD3e"]]


def test_an_unfinished_run_with_other_settings_is_not_continued(store, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_check_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path / "run")

    with pytest.raises(InputError, match="other settings"):
        train(store, tmp_path / "run", seed=5)
    train(store, tmp_path / "run", seed=5, overwrite=True)


def test_a_run_folder_can_be_moved(store, tmp_path):
    run = train(store, tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")

    again = load_run(moved)

    assert again.markers == run.markers
    np.testing.assert_array_equal(embed(again, store).obsm["X_splicer"], embed(run, store).obsm["X_splicer"])


def test_a_constant_marker_is_left_out_by_name(tmp_path, caplog):
    slide, mask = tiny_slide(cells_at=CELLS)
    slide.image[2] = 0
    store = extract_patches(slide, mask, tmp_path / "patches.zarr", patch_size_um=16)

    with caplog.at_level(logging.WARNING):
        run = train(store, tmp_path / "run")

    assert "constant in every cell: CD20" in caplog.text
    assert run.settings["components"] == ["DAPI", "CD3e"]


def test_a_loss_that_is_not_finite_names_its_chunk(store, tmp_path):
    with pytest.raises(InputError, match=r"chunk .*CD20.* is not finite at step"):
        train(store, tmp_path / "run", learning_rate=1e30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method 'magic' not found. Choose `method` from splicer, joint"),
        ({"loss": "mse"}, "loss 'mse' not found. Choose `loss` from vicreg, simclr"),
        ({"surroundings": "hide", "deconstruction": "regions"}, "component neighbours shows more than the cell"),
        ({"losses": {"CD3": "simclr"}}, "`losses` names 'CD3', .* Did you mean 'CD3e'"),
        ({"weights": {"DAPI2": 2.0}}, "`weights` names 'DAPI2'"),
        ({"encoder": "vit"}, "encoder 'vit' not found"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_unknown_words_raise_before_anything_is_written(store, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(store, tmp_path / "run", **options)

    assert list(tmp_path.iterdir()) == []


def test_components_of_nuclei_need_patches_cut_with_nuclei(tmp_path):
    with pytest.raises(
        InputError, match=r"nucleus needs a mask of nuclei, .* were cut without. Cut them again with `nuclei`"
    ):
        train(tiny_store(cells_at=CELLS[:4]), tmp_path / "run", deconstruction="nucleus")


def test_an_existing_run_is_not_overwritten_by_default(store, tmp_path):
    train(store, tmp_path / "run")

    with pytest.raises(InputError, match="exists"):
        train(store, tmp_path / "run")


def test_an_untrained_copy_has_the_architecture_and_not_the_weights(store, tmp_path):
    run = train(store, tmp_path / "run")

    baseline = untrained(run)

    assert weights(baseline).keys() == weights(run).keys()
    assert not torch.allclose(weights(baseline)["learned.stem.0.weight"], weights(run)["learned.stem.0.weight"])


def test_shares_of_a_feature_are_what_it_adds_to_the_variance_of_each_chunk(store, tmp_path):
    run = train(store, tmp_path / "run", widths={"CD20": 3})
    z = embed(run, store).obsm["X_splicer"]
    projector = Projector(run.features, 8 + 8 + 3).double().eval()
    projector.load_state_dict(run.projector)

    with torch.no_grad():
        e, nothing = (projector(torch.from_numpy(one).double()).numpy() for one in (z, 0 * z[:1]))
        added = np.zeros((run.features, e.shape[1]))
        for feature in range(run.features):
            alone = np.zeros_like(z)
            alone[:, feature] = z[:, feature]
            brought = projector(torch.from_numpy(alone).double()).numpy() - nothing
            added[feature] = [np.cov(brought[:, r], e[:, r])[0, 1] for r in range(e.shape[1])]
    np.testing.assert_allclose(added.sum(axis=0), e.var(axis=0, ddof=1), rtol=1e-5)  # nothing else adds to it
    of_chunks = np.column_stack([np.maximum(part, 0).sum(axis=1) for part in np.split(added, [8, 16], axis=1)])
    vary = z.std(axis=0) > 0
    of_chunks[vary] /= of_chunks[vary].sum(axis=1, keepdims=True)
    of_chunks[~vary] = 0

    np.testing.assert_allclose(run.chunk_shares(z), of_chunks, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"method": "joint"}, {"method": "sigma"}, {"projector_layers": 1}, {}])
def test_features_have_no_shares_without_chunks_or_with_hidden_layers(store, tmp_path, changes):
    run = train(store, tmp_path / "run", epochs=1, **changes)
    z = np.random.default_rng(0).normal(size=(9, run.features))
    assert (run.chunk_shares(z) is None) == bool(changes)
    (tmp_path / "run" / "projector.safetensors").unlink()  # as in a folder that an earlier version wrote
    assert load_run(tmp_path / "run").chunk_shares(z) is None


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "projector.safetensors"])
def test_a_damaged_run_folder_raises_in_a_sentence(store, tmp_path, damage):
    train(store, tmp_path / "run")
    file = tmp_path / "run" / damage
    file.write_bytes(file.read_bytes()[:50])

    with pytest.raises(InputError, match="is damaged"):
        load_run(tmp_path / "run")


def test_networks_run_in_the_given_precision(store, tmp_path):
    single, half = (
        training.train(store, tmp_path / name, recipe=SMALL, device="cpu", precision=name)
        for name in ("32-true", "bf16-mixed")
    )

    losses = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])["loss"]
        for name in ("32-true", "bf16-mixed")
    ]
    assert (single.settings["precision"], half.settings["precision"]) == ("32-true", "bf16-mixed")
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
