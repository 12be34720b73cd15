import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.pl.training import last_losses, read_log
from mxsplicer.splicer import monitoring, training
from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.monitoring import Watch, effective_rank, measure
from mxsplicer.splicer.onlineprobe import OnlineProbe
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.testing import tiny_slide, tiny_store

CELLS = [(y, x) for y in range(8, 60, 6) for x in range(8, 90, 6)]  # 126 cells
SMALL = Recipe(deconstruction="marker", encoder_width=8, component_width=4, chunk_width=8, batch_size=20, epochs=3)


@pytest.fixture(scope="module")
def store():
    return tiny_store(cells_at=CELLS)


def train(store, path, recipe=SMALL, **options):
    return training.train(store, path, recipe=recipe, device="cpu", **options)


def lines(path):
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_a_chunk_that_explodes_is_named_once_with_what_to_do(store, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(store, tmp_path / "run", replace(SMALL, learning_rate=3.0))

    warnings = [message for message in caplog.messages if "chunk CD20 is exploding at step" in message]
    assert len(warnings) == 1
    assert "Use a lower learning rate" in warnings[0]
    assert [warning for line in lines(tmp_path / "run") for warning in line.get("warnings", [])] == caplog.messages


def test_a_chunk_that_collapses_is_named_once_with_what_to_do(store, tmp_path, caplog, monkeypatch):
    # Invariance alone is best served by the same embedding for every cell.
    monkeypatch.setitem(LOSSES, "vicreg", lambda: VICReg(variance_weight=0, covariance_weight=0))

    with caplog.at_level(logging.WARNING):
        train(store, tmp_path / "run", replace(SMALL, learning_rate=0.1, redundancy_weight=0, epochs=10))

    warnings = [message for message in caplog.messages if "chunk CD20 is collapsed at step" in message]
    assert len(warnings) == 1
    assert "all cells get the same embedding" in warnings[0]


def test_a_marker_that_shows_nothing_is_named_as_a_dead_chunk(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(monitoring, "_LEARNED_BY", 60)
    slide, mask = tiny_slide(cells_at=CELLS)
    slide.image[2] = 1000 * (mask == 0)  # between the cells alone, so the marker is not constant
    store = extract_patches(slide, mask, tmp_path / "patches.zarr", patch_size_um=16)

    with caplog.at_level(logging.WARNING):
        train(store, tmp_path / "run", replace(SMALL, epochs=15, encoder="resnet18+texture"))

    warnings = [message for message in caplog.messages if message.startswith("chunk CD20 is dead at step")]
    assert len(warnings) == 1
    assert "does not correlate with its component CD20" in warnings[0]


def test_a_chunk_that_follows_its_component_by_chance_alone_is_dead_after_a_while():
    generator = torch.Generator().manual_seed(0)
    z, e, other = (torch.randn(500, 8, generator=generator) for _ in range(3))
    measures = measure(z, [(e, other), (e, e + other)])
    watch = Watch(("noise", "CD8a"), 300, has_components=True)

    early, late, again = (watch.look(step, measures, [1.0, 1.0]) for step in (0, monitoring._LEARNED_BY, 400))

    assert early == again == []
    assert len(late) == 1
    assert late[0].startswith("chunk noise is dead at step")


@pytest.mark.parametrize(
    "changes", [{}, {"method": "joint"}, {"method": "trident"}, {"components_per_step": 1}], ids=str
)
def test_a_training_as_it_should_be_gets_no_warning(store, tmp_path, caplog, changes):
    with caplog.at_level(logging.WARNING):
        train(store, tmp_path / "run", replace(SMALL, **changes))

    assert caplog.messages == []


def test_a_chunk_that_is_not_trained_in_a_step_is_not_logged(store, tmp_path):
    train(store, tmp_path / "run", replace(SMALL, components_per_step=1))

    first, second = (
        {name: of["correlation"] for name, of in line["chunks"].items()} for line in lines(tmp_path / "run")[:2]
    )
    assert [name for name, value in first.items() if value is not None] == ["DAPI"]
    assert [name for name, value in second.items() if value is not None] == ["CD3e"]


def test_measures_are_what_numpy_says():
    generator = torch.Generator().manual_seed(0)
    z, e, other = (torch.randn(40, 6, generator=generator) for _ in range(3))

    measures = measure(z, [(e, other)])

    a, b = e.numpy(), other.numpy()
    assert float(measures.correlation[0]) == pytest.approx(
        np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(6)]), abs=1e-5
    )
    assert float(measures.spread[0]) == pytest.approx(np.sqrt(a.var(axis=0).mean()), rel=1e-5)
    share = np.linalg.svd(z.numpy(), compute_uv=False)
    share /= share.sum()
    assert measures.rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_the_rank_of_copies_of_one_feature_is_one():
    assert float(effective_rank(torch.arange(1.0, 9).view(8, 1).expand(8, 4))) == pytest.approx(1, abs=1e-3)


def test_the_log_is_a_table_too(store, tmp_path):
    train(store, tmp_path / "run")

    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    log = lines(tmp_path / "run")
    assert len(rows) == 3 * len(log) == 3 * 18
    assert rows[1]["chunk"] == "CD3e"
    assert float(rows[1]["loss"]) == log[0]["chunks"]["CD3e"]["loss"]
    assert {"step", "epoch", "seconds", "learning_rate", "cells_per_second", "rank"} < set(rows[0])
    assert {"invariance", "variance", "covariance", "correlation", "spread", "chunk_rank"} < set(rows[0])
    assert set(last_losses(read_log(tmp_path / "run" / "log.jsonl")).index) == {"DAPI", "CD3e", "CD20"}


def test_tensorboard_gets_the_measures(store, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(store, tmp_path / "run", tensorboard=tmp_path / "board")

    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"loss", "rank", "learning_rate", "correlation/CD20", "variance/DAPI"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == list(range(18))


def test_watching_does_not_change_what_is_learned(store, tmp_path):
    plain = train(store, tmp_path / "plain")
    watched = train(store, tmp_path / "watched", labels=[["left", "right"] * 63], tensorboard=tmp_path / "board")

    for name, tensor in plain.encoder.state_dict().items():
        torch.testing.assert_close(watched.encoder.state_dict()[name], tensor, rtol=0, atol=0)
    probed = [line["probe"] for line in lines(tmp_path / "watched") if "probe" in line]
    assert len(probed) == 3
    assert watched.results["online probe of labels, balanced accuracy"] == probed[-1]
    assert "| online probe of labels, balanced accuracy |" in (tmp_path / "watched" / "README.md").read_text()


def test_a_probe_reads_what_is_there_and_not_what_is_not(store):
    bright = store.intensities[:, 1] > np.median(store.intensities[:, 1])
    random = np.random.default_rng(0).permutation(bright)

    def intensity(patches: np.ndarray, regions: np.ndarray) -> np.ndarray:
        return (patches * (regions == 1)[:, None]).mean(axis=(2, 3))

    seen, unseen = (
        OnlineProbe([store], [["bright" if one else "dim" for one in labels]]).score(intensity)
        for labels in (bright, random)
    )

    assert seen > 0.85
    assert 0.3 < unseen < 0.7


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "`labels` has 0 slides, but there are patches of 1"),
        ([["T"] * 5], "`labels` has 5 labels for slide 'tiny', which has 126 cells"),
        ([["T"] * 126], "1 of 1 classes of the labels have 5 cells in both halves"),
        ([[None] * 124 + ["T", "B"]], "0 of 2 classes of the labels have 5 cells"),
    ],
)
def test_labels_that_cannot_be_probed_are_refused_before_anything_is_written(store, tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        train(store, tmp_path / "run", labels=labels)
    assert list(tmp_path.iterdir()) == []
