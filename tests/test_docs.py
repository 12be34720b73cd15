"""Every Python block of the documentation runs, and every option shown exists."""

import importlib
import inspect
import math
import re
import shlex
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import typer
from typer.testing import CliRunner

from mxsplicer.cli import app
from mxsplicer.cli.old_names import RENAMED
from mxsplicer.result.options import Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer import moments
from mxsplicer.splicer.recipe import REMOVED, Recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], key=str)
TUTORIALS = sorted(ROOT.glob("docs/tutorial-*.md"))
COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder with a tiny slide, its mask and truth, and the result of embedding it."""
    folder = tmp_path_factory.mktemp("reader")
    files = simulate_slide(folder / "slide.ome.tiff", size_px=512)
    recipe = Recipe(epochs=1, encoder_width=8, component_width=4, chunk_width=16)
    options = Options(masks=(files.mask,), patch_size_um=16, recipe=recipe)
    embed_slides(files.image, folder / "slide.mxs", options=options, device="cpu")
    return folder


@pytest.fixture
def reader(prepared, tmp_path, monkeypatch):
    """Work in a copy of the prepared folder, on one thread."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    plt.close("all")


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    """Return the commands of a page, split into words: indented lines and text in backticks."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}(mxsplicer .*)$|`(mxsplicer [^`]*)`", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(shown or quoted, comments=True)[1:] for shown, quoted in lines]


def options(command):
    """Return the options of a command with their defaults."""
    return {name: one.default for one in command.params for name in (*one.opts, *one.secondary_opts)}


def old_names(page):
    """Return former names of options and removed ones, which only the change log may show."""
    removed = {f"--{name.replace('_', '-')}" for name in REMOVED}
    return {renamed.old for renamed in RENAMED} | removed if page.name == "CHANGELOG.md" else set()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::PendingDeprecationWarning")  # in scanpy
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page not in TUTORIALS], ids=lambda page: page.name
)
def test_every_python_block_runs_in_the_order_of_its_page(page, reader):
    shared = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), shared)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::PendingDeprecationWarning")  # in scanpy
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_a_tutorial_runs_from_its_first_line_to_its_last(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as a notebook finds modules next to it
    monkeypatch.setenv("MPLBACKEND", "agg")
    shared = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    steps = re.findall(r"^```python\n((?:.*\n)*?)```$|^ {4}mxsplicer (.*)$", text, re.MULTILINE)
    for number, (block, command) in enumerate(steps, start=1):
        if block:
            exec(compile(block, f"{page.name}, step {number}", "exec"), shared)
        else:
            ended = CliRunner().invoke(app, shlex.split(command, comments=True))
            assert not isinstance(ended.exception, Exception), f"{command}\n{ended.output}{ended.exception}"
            assert ended.exit_code == int("exit code 1" in command), f"{command}\n{ended.output}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_and_option_shown_exists(page):
    for words in commands(page):
        name = next((word for word in words if not word.startswith("-")), None)
        if name is None or name == name.upper():  # `mxsplicer --help`, `mxsplicer COMMAND --help`
            continue
        assert name in COMMANDS, f"{page.name} shows `mxsplicer {name}`"
        known = options(COMMANDS[name])
        shown = {word.split("=")[0] for word in words if word.startswith("--")}
        assert shown <= {*known, "--help", "--help-all", *old_names(page)}, (
            f"{page.name} shows {shown} of `mxsplicer {name}`"
        )


def test_every_option_in_backticks_belongs_to_some_command():
    ours = {"--help", "--help-all", "--debug", "--version", "--outcome", "--after"}
    known = {*ours, "--profile"} | {  # the latter is Snakemake's
        option for command in COMMANDS.values() for option in options(command)
    }
    for page in PAGES:
        quoted = " ".join(re.findall(r"`(--[^`]*)`", page.read_text(encoding="utf-8")))
        assert set(re.findall(r"--[a-z0-9-]+", quoted)) <= known | old_names(page), page.name


def test_defaults_are_those_of_the_command():
    table = re.findall(
        r"^\| `(--[a-z0-9-]+)` \| ([^|]+) \|", (ROOT / "docs/method.md").read_text("utf-8"), re.MULTILINE
    )
    documented = {option: default.replace(",", "") for option, default in table if "default" not in default}
    actual = options(COMMANDS["embed"])
    assert len(documented) > 10
    documented.pop("--patch-size-um")  # given by the model, if there is one
    documented.pop("--components-per-step")  # all of them
    for option, default in documented.items():
        found = actual[option]
        expected = [default] if isinstance(found, list) else type(found)(default)  # an option that may be repeated
        assert expected == found, f"{option} is {found} by default, not {default}"


def test_weights_of_moments_are_those_of_the_code():
    text = (ROOT / "docs/method.md").read_text("utf-8").split("## What z contains")[1].split("##")[0]
    documented = [float(weight) for weight in re.findall(r"\| ([0-9.]+) \|$", text, re.MULTILINE)]
    names = ("LEVEL", "RIM", "SIDE", "SPREAD", "POLARITY", "TOGETHER", "NEAR", "ALONG", "SHAPE", "LEARNED")
    assert documented == [getattr(moments, f"{name}_WEIGHT") for name in names]


def test_no_page_of_the_documentation_is_longer_than_three_screens():
    for page in ROOT.glob("docs/*.md"):
        screens = lines_on_the_site(page.read_text(encoding="utf-8")) / 50
        assert screens <= 3, f"{page.name} has about {screens:.1f} screens of 1920 x 1080 pixels"


def lines_on_the_site(text):
    """Estimate the lines of a page on the site, of which a screen shows 50: within a tenth of what Chromium draws."""
    lines, is_code = 0.0, False
    for line in re.sub(r"\]\([^)]*\)", "]", text).splitlines():
        if line.startswith("```"):
            is_code = not is_code
        if is_code or line.startswith("    "):
            lines += 0.95
        elif line.startswith("|"):
            lines += 0.35 + math.ceil(len(line) / 110)
        elif line.startswith("#"):
            lines += 2.2
        elif line.startswith("!["):
            lines += 20
        else:
            lines += max(0.45, len(line) / 118)
    return lines


def test_the_first_page_lists_every_page_once():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[^\]]+\]\(([a-z-]+\.md)\) \|", index, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in ROOT.glob("docs/*.md") if page.name != "index.md")


def test_pages_for_developers_are_marked():
    section = (ROOT / "docs/index.md").read_text(encoding="utf-8").split("## For developers")[1].split("\n## ")[0]
    pages = {ROOT / "docs" / name for name in re.findall(r"\]\(([a-z-]+\.md)\)", section)}
    marked = {page for page in ROOT.glob("docs/*.md") if "\n*For developers.* " in page.read_text(encoding="utf-8")}
    assert marked == {*pages, ROOT / "docs/tutorial-loss.md"}


@pytest.mark.parametrize("package", ["mxsplicer", "mxsplicer.tl", "mxsplicer.pl", "mxsplicer.export"])
def test_every_public_function_and_class_has_a_docstring_for_its_page(package):
    module = importlib.import_module(package)
    things = {name: getattr(module, name) for name in module.__all__}
    described = {name: thing for name, thing in things.items() if callable(thing)}
    assert described
    assert [name for name, thing in described.items() if not inspect.getdoc(thing)] == []


def headings(page):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#{1,3} (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_links_between_pages_point_to_existing_files_and_headings():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or file.suffix != ".md" or anchor in headings(file), (
                f"{page.name} links to {target}#{anchor}"
            )


def test_readme_shows_use_in_the_first_lines_and_then_the_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands_shown = [line.split("#")[0].strip() for line in lines[:35] if line.startswith("    ")]
    assert commands_shown[0] == "pip install mxsplicer"
    assert commands_shown[1].startswith("mxsplicer embed")
    assert commands_shown[2:4] == ["make demo", "make test"]


def test_readme_fields_are_those_of_a_result(reader):
    import anndata

    adata = anndata.read_h5ad("slide.mxs/cells.h5ad")
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs/anndata.md").read_text(encoding="utf-8")
    optional = {
        "X_joint",
        "X_untrained",
        "X_compartments",
        "X_blurred",
        "leiden_nhood_enrichment",
        "mxsplicer_probe",
        "mxsplicer_evaluation",
        "nucleus_area_um2",
        "object_id",
        "predicted",
        "mxsplicer_annotation",
    }  # by method, labels, nuclei or option
    for store in ("obs", "obsm", "varm", "uns"):
        named = set(re.findall(rf'{store}\["([^"]+)"\]', text))
        assert named - optional <= set(getattr(adata, store).keys()), store
