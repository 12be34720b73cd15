"""The mask doctor finds each fault, says its size and likely cause, and does not cry wolf."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from scipy.spatial import cKDTree
from skimage.measure import label

from mxsplicer.images.opening import open_slide
from mxsplicer.images.slide import Slide
from mxsplicer.masks.doctor import examine
from mxsplicer.masks.files import open_mask
from mxsplicer.masks.findings import nuclei_findings


def tissue(shape=(400, 480), seed=0, spacing=16):
    """Return a slide whose nuclei lie in the middle of irregular cells, its mask, and the mask of the nuclei."""
    rng = np.random.default_rng(seed)
    y, x = (np.arange(spacing / 2, n, spacing) for n in shape)
    centres = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    centres = centres[rng.random(len(centres)) < 0.85]
    centres += rng.uniform(-0.3 * spacing, 0.3 * spacing, centres.shape)
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], -1).reshape(-1, 2)
    distance, nearest = cKDTree(centres).query(pixels)
    mask = np.where(distance < 0.55 * spacing, nearest + 1, 0).reshape(shape).astype(np.uint32)
    distance = distance.reshape(shape)
    image = rng.poisson(40 + 900 * np.exp(-((distance / (0.25 * spacing)) ** 2)))[None].astype(np.uint16)
    return Slide("S01", image, ("DAPI",), pixel_size_um=0.5), mask, np.where(distance < 4, mask, 0)


SLIDE, MASK, NUCLEI = tissue()
SQUARE, SQUARE_MASK, _ = tissue((400, 400), seed=1)


def moved(labels, down, right):
    out = np.zeros_like(labels)
    height, width = labels.shape
    out[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = labels[
        max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
    ]
    return out


def cut(labels, rows=(), columns=()):
    """Return labels in which each tile numbers its cells apart from those of the next."""
    tile = np.searchsorted(rows, np.arange(labels.shape[0]), side="right")[:, None] * (len(columns) + 1)
    tile = tile + np.searchsorted(columns, np.arange(labels.shape[1]), side="right")[None]
    return np.where(labels > 0, labels + tile * labels.max(), 0).astype(np.uint32)


def names(diagnosis, *, wrong=True):
    return [finding.name for finding in diagnosis.findings if finding.wrong == wrong]


def figures(diagnosis, name):
    return next(finding.figures for finding in diagnosis.findings if finding.name == name)


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_mask_is_healthy(seed):
    slide, mask, nuclei = tissue((300, 420), seed=seed)

    diagnosis = examine(slide, mask, nuclei=nuclei)

    assert diagnosis.healthy
    assert names(diagnosis, wrong=False) == ["nuclei"]
    assert diagnosis.n_cells == len(np.unique(mask)) - 1
    assert 6 < diagnosis.median_diameter_um < 9


FAULTS = {
    "other level": MASK[::2, ::2],
    "transposed": MASK.T,
    "other shape": MASK[:, :-30],
    "upside down": MASK[::-1],
    "mirrored": MASK[:, ::-1],
    "rotated by 180°": MASK[::-1, ::-1],
    "shifted": moved(MASK, 9, -5),
    "binary": MASK > 0,
    "empty": MASK * 0,
    "background is not 0": MASK + 1,
    "intensities": SLIDE.image[0],
    "wrapped": MASK % 256,
    "repeated ids": np.where(MASK > 0, (MASK - 1) % 400 + 1, 0),
    "seams": cut(MASK, rows=[128, 256], columns=[200]),
    "missing along seams": np.where(np.isin(MASK, MASK[[199, 200]]), 0, MASK),
    "interpolated": np.round(zoom(MASK[::2, ::2].astype(float), 2, order=1)),
    "fragments": np.where(np.add.outer(np.arange(400), np.arange(480)) % 30 < 28, MASK, 0),
}


@pytest.mark.parametrize("gap", [2, 3])
@pytest.mark.parametrize("dark", [0, 5])
def test_gaps_of_a_mosaic_are_not_missing_cells(gap, dark):
    fields, labels = [], []
    for number in range(6):
        slide, mask, _ = tissue((180, 200), seed=number)
        inner = np.unique(np.r_[mask[0], mask[-1], mask[:, 0], mask[:, -1]])  # cells at the edge of a field
        kept = np.where(np.isin(mask, inner), 0, mask)
        fields.append(np.pad(np.where(np.isin(mask, inner), 60, slide.image[0]), gap, constant_values=dark))
        labels.append(np.pad(np.where(kept > 0, kept + 10_000 * number, 0), gap))
    image = np.block([fields[:3], fields[3:]])[None].astype(np.uint16)
    mosaic = np.block([labels[:3], labels[3:]]).astype(np.uint32)

    found = examine(Slide("S01", image, ("DAPI",), 0.5), mosaic)

    assert names(found) == []
    assert "gaps" in names(found, wrong=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault):
    diagnosis = examine(SLIDE, np.ascontiguousarray(FAULTS[fault]).astype(np.uint32))

    assert names(diagnosis) == [fault]
    found = next(finding for finding in diagnosis.findings if finding.wrong)
    assert all(sentence.endswith(".") for sentence in (found.found, found.cause, found.fix))
    json.dumps(diagnosis.to_dict())


@pytest.mark.parametrize(
    ("reorient", "name"),
    [
        (np.transpose, "transposed"),
        (lambda mask: np.rot90(mask, -1), "rotated by 90°"),
        (np.rot90, "rotated by 90°"),
        (lambda mask: np.rot90(mask.T, 2), "transposed and rotated"),
    ],
)
def test_a_rotation_of_a_square_mask_is_found_by_the_nuclei_and_the_remedy_reverses_it(reorient, name):
    reoriented = np.ascontiguousarray(reorient(SQUARE_MASK))

    diagnosis = examine(SQUARE, reoriented)

    assert names(diagnosis) == [name]
    remedy = diagnosis.findings[0].fix.partition(": ")[2].rstrip(".")
    np.testing.assert_array_equal(eval(remedy, {"numpy": np, "mask": reoriented}), SQUARE_MASK)


@pytest.mark.parametrize("by", [(4, 0), (0, -3), (-40, 70), (25, 25)])
def test_a_shift_is_measured_to_the_pixel(by):
    diagnosis = examine(SLIDE, moved(MASK, *by))

    assert names(diagnosis) == ["shifted"]
    shift = figures(diagnosis, "shifted")
    assert (shift["dy_px"], shift["dx_px"]) == (-by[0], -by[1])
    assert shift["dy_um"] == -by[0] * 0.5


def test_a_shift_that_is_larger_than_a_window_is_found_on_the_overview():
    slide, mask, _ = tissue((1300, 1500), spacing=20)
    slide.image[0, :, 900:] = 40
    mask[:, 900:] = 0
    slide.image[0, :400, :300] = 40
    mask[:400, :300] = 0

    diagnosis = examine(slide, moved(mask, 0, 480))

    assert [figures(diagnosis, "shifted")[which] for which in ("dy_px", "dx_px")] == [0, -480]


def test_a_shift_of_one_region_of_the_slide_is_found():
    slide, mask, _ = tissue((300, 3100), spacing=20)
    mask[:, 2050:] = moved(mask[:, 2050:], 8, 0)

    diagnosis = examine(slide, mask)

    assert "shifted in parts" in names(diagnosis)
    assert figures(diagnosis, "shifted in parts")["places"] == [{"y": 150, "x": 2560, "dy_px": -8, "dx_px": 0}]


def test_a_shift_of_less_than_a_micrometre_is_not_a_fault():
    assert examine(SLIDE, moved(MASK, 1, 0)).healthy


def test_a_mask_of_another_slide_does_not_follow_the_nuclei():
    _, other, _ = tissue(seed=9)

    assert names(examine(SLIDE, other)) == ["does not follow the nuclei"]


def test_without_a_nuclear_marker_the_position_is_reported_as_not_checked():
    slide = Slide("S01", SLIDE.image, ("CD3e",), 0.5)
    dark = Slide("S01", SLIDE.image * 0, ("DAPI",), 0.5)

    assert names(examine(slide, MASK), wrong=False) == ["nuclei not known"]
    assert names(examine(dark, MASK), wrong=False) == ["nuclei not seen"]
    assert names(examine(slide, moved(MASK, 9, 9), nuclear_marker="CD3e")) == ["shifted"]


def lattice(n):
    labels = np.zeros((5 * n, 5 * n), np.uint32)
    ids = np.arange(1, n * n + 1, dtype=np.uint32).reshape(n, n)
    labels[:] = np.repeat(np.repeat(ids, 5, axis=0), 5, axis=1)
    labels[::5] = labels[:, ::5] = 0
    return labels, Slide("S01", np.zeros((1, *labels.shape), np.uint8), ("CD3e",), 2.0)


@pytest.mark.parametrize(
    ("wrap", "n_repeated"), [(lambda ids: ids % 65_536, 2_064), (lambda ids: ids.clip(0, 65_535), 1)]
)
def test_ids_that_wrap_or_saturate_at_16_bit_are_distinguished_from_fragments(wrap, n_repeated):
    labels, slide = lattice(260)  # 67,600 cells

    assert examine(slide, labels).healthy
    diagnosis = examine(slide, wrap(labels))

    assert names(diagnosis) == ["wrapped"]
    assert figures(diagnosis, "wrapped")["ids"] == n_repeated
    assert "16-bit" in diagnosis.findings[0].cause


def test_seams_are_named_by_their_rows_and_columns():
    seams = figures(examine(SLIDE, cut(MASK, rows=[128, 256], columns=[200])), "seams")

    assert (seams["rows"], seams["columns"]) == ([128, 256], [200])
    assert 50 < seams["cells"] < 90


def test_missing_ids_of_filtered_cells_are_not_a_fault():
    diagnosis = examine(SLIDE, np.where(MASK % 7 == 0, 0, MASK))

    assert diagnosis.healthy
    assert names(diagnosis, wrong=False) == ["holes in the ids"]


def test_cells_of_no_plausible_size_mean_another_pixel_size():
    slide = Slide("S01", SLIDE.image, ("CD3e",), 5.0)

    assert names(examine(slide, MASK)) == ["size of cells"]


def test_a_giant_cell_is_noted():
    labels = MASK.copy()
    labels[100:200, 100:200] = 5000

    assert "giant cells" in names(examine(SLIDE, labels), wrong=False)


def test_an_image_of_probabilities_is_not_a_mask(tmp_path):
    np.save(tmp_path / "mask.npy", np.random.default_rng(0).random(MASK.shape))

    diagnosis = examine(SLIDE, open_mask(tmp_path / "mask.npy"))

    assert names(diagnosis) == ["intensities"]
    assert "image of intensities or probabilities" in diagnosis.findings[0].found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), n_ids=st.integers(1, 30), tile_px=st.sampled_from([7, 16, 33]))
def test_cells_and_their_fragments_do_not_depend_on_the_tiles(seed, n_ids, tile_px):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, n_ids + 1, (12, 15)) * (rng.random((12, 15)) < 0.5)
    labels = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1).astype(np.uint32)
    slide = Slide("S01", np.zeros((1, *labels.shape), np.uint8), ("CD3e",), 2.0)

    small, large = examine(slide, labels, tile_px=tile_px), examine(slide, labels)

    assert small.n_cells == large.n_cells == len(np.unique(labels[labels > 0]))
    assert [finding.name for finding in small.findings] == [finding.name for finding in large.findings]
    if "fragments" in names(large) and "repeated ids" not in names(large):
        several = [one for one in np.unique(labels[labels > 0]) if label(labels == one, connectivity=2).max() > 1]
        assert figures(small, "fragments")["cells"] == len(several)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    n_ids=st.sampled_from([0, 1, 2, 30, 2**32 - 1]),
    block=st.integers(1, 9),
    seed=st.integers(0, 999),
    fits=st.booleans(),
)
def test_a_mask_of_anything_gets_a_diagnosis(shape, n_ids, block, seed, fits):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_ids + 1, shape, dtype=np.uint32).repeat(block, 0).repeat(block, 1)
    image = rng.integers(0, 9, (1, *(labels.shape if fits else (50, 60))), dtype=np.uint16)

    diagnosis = examine(Slide("S01", image, ("DAPI",), 0.5), labels, nuclei=labels)

    assert n_ids or not diagnosis.healthy
    json.dumps(diagnosis.to_dict())


def test_nuclei_have_the_ids_of_the_cells_they_lie_in():
    agree = nuclei_findings(MASK, NUCLEI, tile_px=100)[0]
    apart = nuclei_findings(MASK, label(NUCLEI > 0).astype(np.uint32)[::-1])[0]
    numbered_apart = nuclei_findings(MASK, label(NUCLEI > 0).astype(np.uint32))[0]
    other = nuclei_findings(MASK, NUCLEI[:-1])[0]

    assert not agree.wrong
    assert agree.figures["nuclei"] == agree.figures["cells"] == len(np.unique(MASK)) - 1
    assert apart.wrong
    assert not numbered_apart.wrong
    assert "each nucleus is matched with the cell that it overlaps most" in numbered_apart.fix
    assert apart.figures["share_of_nuclei_outside_their_cells"] > 0.9
    assert other.wrong
    assert nuclei_findings(np.where(MASK == 7, 0, MASK), NUCLEI)[0].figures["nuclei_without_cell"] == 1


def test_masks_of_real_tissue_are_healthy(shared_data):
    folder = shared_data / "mibi-dcis-risom2022"
    for mask in sorted(folder.glob("derived/masks_watershed/*.tif"))[::9]:
        slide = open_slide(folder / "images" / mask.name.replace("_mask.tif", ".ome.tif"))
        assert examine(slide, open_mask(mask)).findings == ()
    fov = shared_data / "mibi-breast-ark-fov8"
    assert examine(open_slide(fov / "images/fov8.ome.tif"), open_mask(fov / "masks/fov8_feature_0.tiff")).healthy
