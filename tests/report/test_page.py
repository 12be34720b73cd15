import base64
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.report import write_report

NAME = "S<01></script><script>console.error(1)</script>"
MARKERS = ("Hoechst", "CD3e", "$CK_{7}", "<script>alert(1)</script>", "Empty")
SECTIONS = (
    *("verdicts", "scores", "limitations", "tissue", "markers", "cells", "umap", "clusters", "examples"),
    *("correlations", "training", "settings"),
)


def make_slide(name, seed=0):
    """Make a slide of 400 square cells in rows; half are bright in CD3e; the last marker is all zero."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((240, 240), np.uint32)
    ids = np.arange(1, 401).reshape(20, 20)
    for row, column in np.ndindex(20, 20):
        mask[12 * row + 2 : 12 * row + 10, 12 * column + 2 : 12 * column + 10] = ids[row, column]
    bright = np.concatenate([[0], rng.integers(0, 2, 400)])
    image = rng.poisson(20, (5, 240, 240)).astype(np.uint16)
    image[0] += (mask > 0).astype(np.uint16) * 200
    image[1] += (300 * bright[mask]).astype(np.uint16)
    image[4] = 0
    return Slide(name, image, MARKERS, pixel_size_um=0.5), mask, bright[1:]


def make_cells(slides):
    """Make the AnnData of the slides, with features that are correlated with CD3e."""
    rng = np.random.default_rng(1)
    tables, intensities = [], []
    for slide, mask, bright in slides:
        rows, columns = np.divmod(np.arange(400), 20)
        inside = [mask == cell for cell in range(1, 401)]
        intensities.append([[channel[cell].mean() for channel in slide.image] for cell in inside])
        table = pd.DataFrame({"cell_id": np.arange(1, 401), "slide": slide.name})
        table["x"], table["y"] = (12 * columns + 5.5) * 0.5, (12 * rows + 5.5) * 0.5
        table["x_px"], table["y_px"] = 12 * columns + 5.5, 12 * rows + 5.5
        table["area_um2"], table["at_border"], table["patch_valid_fraction"] = 16.0, False, 1.0
        table["kind"] = np.where(bright, "T cell", "other")
        tables.append(table)
    obs = pd.concat(tables, ignore_index=True)
    obs["slide"] = obs["slide"].astype("category")
    points = obs[["x", "y"]].to_numpy()
    obs.index = [f"{slide}_{cell}" for slide, cell in zip(obs["slide"], obs["cell_id"], strict=True)]
    intensity = np.concatenate(intensities).astype(np.float32)
    z = rng.normal(size=(len(obs), 16)).astype(np.float32)
    z[:, :3] += np.log1p(intensity[:, 1:2])
    about = {
        "version": "0.1.0",
        "versions": {"torch": "2.13.0"},
        "settings": {"loss": "vicreg", "markers": list(MARKERS), "labels": "/data/of/S01/truth.csv"},
        "fingerprints": {"weights": "abcd", "slides": {slide.name: {"image": "ef01"} for slide, _, _ in slides}},
        "ledger": {slide.name: {"in mask": 403, "kept": 400, "too small": 3} for slide, _, _ in slides},
        "seconds": {"train": 75.0, "embed": 2.0},
        "method": "splicer",
        "patch_size_um": 8.0,
    }
    obsm = {"spatial": points, "X_splicer": z}
    uns = {"mxsplicer": about, "mxsplicer_cluster": {"use_rep": "X_not_stored"}}
    return AnnData(intensity, obs=obs, var=pd.DataFrame(index=list(MARKERS)), obsm=obsm, uns=uns)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write a full page of one slide."""
    folder = tmp_path_factory.mktemp("report")
    slide, mask, bright = make_slide(NAME)
    adata = make_cells([(slide, mask, bright)])
    adata.uns["mxsplicer"]["features"] = np.array([f"CD3e moment <{number}>" for number in range(16)])
    tl.correlate(adata)
    scores = tl.probe(adata, label="kind", unsafe_random_split=True)
    task = tl.set_task(adata, label="kind")
    structure, spectrum = tl.measure_structure(adata, task)
    adata.uns["mxsplicer_probe"] = scores.merge(structure, on=["label", "representation"])
    mixing = {"batch": "slide", "representation": ["SpliCER"], "predictability": 0.41, "predictability_sd": 0.02}
    adata.uns["mxsplicer_evaluation"] = {
        "efficiency": tl.probe_few_labels(adata, task, labels_per_class=(10, 20)),
        "reliance": tl.permutation_importance(adata, task),
        "mixing": pd.DataFrame(mixing | {"chance": 0.25, "n_batches": 4, "ilisi": 0.87}),
        "spectrum": spectrum,
        "notes": np.array(["No patches were read."], dtype=object),
    }
    adata.obs["leiden"] = adata.obs["kind"].map({"other": "0", "T cell": "1"}).astype("category")
    adata.obsm["X_umap"] = adata.obsm["X_splicer"][:, :2]
    entries = [
        {"step": step, "epoch": 0, "seconds": 1.0, "chunks": {marker: {"loss": 9.0 / step} for marker in MARKERS}}
        for step in range(1, 41)
    ]
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 41, "ep')
    return write_report(adata, folder / "report.html", slides=[slide], masks=[mask], log=log)


def test_the_page_has_every_section(page):
    text = page.read_text()

    places = [text.index(f'<section id="{section}"') for section in SECTIONS]
    assert places == sorted(places)
    assert all(f'href="#{section}"' in text for section in SECTIONS)


def test_the_page_opens_with_one_verdict_for_each_cluster(page):
    text = page.read_text()

    section = text[text.index('<section id="verdicts"') :].split("</section>")[0]
    assert text.index("<section ") == text.index('<section id="verdicts"')
    n_clusters = int(re.findall(r"<dt>clusters</dt><dd>(\d+)</dd>", text)[0])
    assert section.count('<tr><th scope="row">') == section.count("<img ") == n_clusters
    assert section.count("<strong>real</strong>") == n_clusters


def test_the_page_needs_no_network_and_runs_its_own_script_alone(page):
    text = page.read_text()

    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    loads = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"' >)]*)", markup)
    assert loads
    assert all(load.startswith(("data:", "#")) for load in loads)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert len(re.findall(r"<script\b", text)) == 2  # that one, and the cells as JSON
    assert len(text) < 20e6


def test_names_from_the_file_are_shown_as_text_and_not_run(page):
    text = page.read_text()

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "$CK_{7}" in text
    assert "S&lt;01&gt;&lt;/script&gt;" in text
    assert NAME not in text


def test_every_image_has_a_description(page):
    images = re.findall(r"<img [^>]*>", page.read_text())

    assert len(images) >= 12
    assert all(re.search(r'alt="[^"]+"', image) for image in images)


def test_every_image_reserves_its_space_so_that_links_lead_to_their_section(page):
    images = re.findall(r"<img [^>]*>", page.read_text())

    assert all(re.search(r'width="[1-9]\d*" height="[1-9]\d*"', image) for image in images)
    assert not any("lazy" in image for image in images)


def test_files_are_named_without_the_folders_of_this_machine(page):
    text = page.read_text()

    assert '<td class="wide">truth.csv</td>' in text
    assert "/data/of" not in text


def test_scores_of_all_labels_have_every_baseline_in_one_table(page):
    text = page.read_text()

    table = text[text.index('aria-label="Scores of all descriptions"') :].split("</table>")[0]
    rows = re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>((?:<td>.*?</td>)+)</tr>', table)
    assert rows[0][0] == "SpliCER"
    assert {name for name, _ in rows} >= {"SpliCER", "mean intensity", "PCA of mean intensity"}
    assert all(cells.count("<td>") == 2 for _, cells in rows)
    assert "<strong>1.00</strong>" in table


@pytest.mark.parametrize("section", ["training", "settings"])
def test_losses_and_settings_are_folded_away(page, section):
    text = page.read_text()

    content = text[text.index(f'<section id="{section}"') :].split("</section>")[0]
    assert content.index("<details>") < content.index("<table>")


def test_the_page_reports_the_verdict_the_ledger_and_the_limitations(page):
    text = page.read_text()

    assert "kind: best by linear probe is " in text
    assert "Whether training was needed was not measured" in text
    assert "SpliCER minus it, points" in text
    assert "The outcomes add up to the number of cells in the mask." in text
    assert "Markers without any signal: Empty." in text
    assert "There is only one slide" in text
    assert "1 min 15 s" in text


def test_the_strongest_feature_of_a_marker_is_called_by_its_name(page):
    (row,) = re.findall(
        r'<tr><th scope="row">CD3e</th><td><div.*?</div></td><td class="left">(.*?)</td>', page.read_text()
    )

    assert re.fullmatch(r"CD3e moment &lt;[012]&gt;", row)


def test_the_page_reports_all_measurements_of_a_label(page):
    text = page.read_text()

    for sentence in (
        "Balanced accuracy with few labels per class",
        "Permutation importance",
        "mean intensity (1.00 unpermuted)",
        "Without a classifier",
        "RankMe",
        "overestimate balanced accuracy",
        "How well the slide can be predicted from the features; chance is 0.250",
        "0.410 ± 0.020",
        "iLISI",
        "No patches were read.",
        "neighbourhood intensity and for Hoechst, Empty. Correlations that are weaker",
    ):
        assert sentence in text, sentence


def test_no_temporary_file_is_left(page):
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "log.jsonl"}


def test_an_existing_page_is_kept_without_overwrite(page):
    adata = make_cells([make_slide("S01")])
    before = page.read_bytes()

    with pytest.raises(InputError, match=r"report\.html exists\. .*`overwrite=True`"):
        write_report(adata, page)
    assert page.read_bytes() == before


def test_sections_without_input_are_left_out(tmp_path):
    adata = make_cells([make_slide("S01")])
    del adata.uns["mxsplicer"]

    text = write_report(adata, tmp_path / "report.html").read_text()

    assert "No labels were given" in text
    assert '<section id="tissue"' not in text
    assert '<section id="umap"' not in text


def test_several_slides_are_shown_on_one_page(tmp_path):
    slides = [make_slide(f"S{i:02d}", seed=i) for i in range(3)]
    adata = make_cells(slides)
    adata.obs["leiden"] = adata.obs["kind"].map({"other": "0", "T cell": "1"}).astype("category")

    path = write_report(
        adata, tmp_path / "report.html", slides=[slide for slide, _, _ in slides], masks=[mask for _, mask, _ in slides]
    )

    text = path.read_text()
    assert "<h1>3 slides</h1>" in text
    assert "1,209" in text  # all ids of the three masks


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_opens_the_page_without_errors(page, tmp_path):
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet = "--disable-component-update --disable-sync --enable-logging=stderr --v=0"
    command = ["chromium", *flags.split(), *quiet.split(), f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert "CONSOLE" not in done.stderr
    assert "Limitations" in done.stdout
    assert '<html lang="en" class="interactive">' in done.stdout  # the script ran to its end
    assert re.search(r'id="cells-legend".*?type="checkbox".*?1: CD3e\+', done.stdout, re.DOTALL)
