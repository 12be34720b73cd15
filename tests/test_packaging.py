"""What is published, and where: versions, addresses and names that stand in files of other programs agree."""

import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml

import mxsplicer

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
OWNER = REPOSITORY.split("/")[-2]
RELEASE = ROOT / "packaging" / "release.py"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Names on conda-forge that differ from those of PyPI.
CONDA = {"igraph": "python-igraph", "matplotlib": "matplotlib-base", "torch": "pytorch"}


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def published_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in {".cff", ".md", ".nf", ".py", ".toml", ".yaml", ".yml", ""} and path.is_file():
            yield name, path.read_text(encoding="utf-8")


def test_the_version_is_the_same_in_all_files():
    versions = list(runpy.run_path(str(RELEASE))["versions"]())

    assert len({place for place, _ in versions}) == len(runpy.run_path(str(RELEASE))["PLACES"])
    assert {version for _, version in versions} == {mxsplicer.__version__}


def test_a_release_sets_every_version_and_is_checked_before_it_is_published(tmp_path, monkeypatch):
    release = runpy.run_path(str(RELEASE))
    for place in [*release["PLACES"], Path("CHANGELOG.md"), Path("pyproject.toml")]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes((ROOT / place).read_bytes())
    for name in ("versions", "set_version", "change", "problems"):
        monkeypatch.setitem(release[name].__globals__, "ROOT", tmp_path)
    assert any("no heading for 9.9.0" in one for one in release["problems"]("v9.9.0"))

    release["main"](["9.9.0"])

    assert {version for _, version in release["versions"]()} == {"9.9.0"}
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text("utf-8").replace("_OWNER_", "somebody"), "utf-8")
    assert list(release["problems"]("v9.9.0")) == []
    assert "version 9.9.0, not 9.9.1" in release["main"](["--check", "v9.9.1"])


def test_the_repository_has_one_address_in_all_files():
    found = {
        (name, owner)
        for name, text in published_files()
        for owner in re.findall(
            r"(?:github\.com|ghcr\.io)/([\w-]+)/mxsplicer\b|//([\w-]+)\.github\.io/mxsplicer\b", text
        )
        for owner in owner
        if owner
    }

    assert len(found) > 5
    assert {owner for _, owner in found} == {OWNER}, found


def test_classifiers_name_the_pythons_that_are_tested():
    jobs = read_yaml(".github/workflows/tests.yml")["jobs"]
    matrix = jobs["systems"]["strategy"]["matrix"]
    tested = {*matrix["python"], *(one["python"] for one in matrix["include"])}
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))

    assert set(classified) == tested
    assert PROJECT["project"]["requires-python"] == f">={min(classified, key=lambda one: int(one[2:]))}"


def test_the_conda_recipe_needs_what_the_package_needs():
    recipe = read_yaml("packaging/conda/recipe.yaml")
    ours = dict(re.match(r"([\w.-]+)\s*(.*)", one).groups() for one in PROJECT["project"]["dependencies"])
    theirs = dict((*one.split(None, 1), "")[:2] for one in recipe["requirements"]["run"])

    assert theirs.pop("python") == ">=${{ python_min }}"
    assert theirs == {CONDA.get(name, name): bounds for name, bounds in ours.items()}
    assert recipe["context"]["python_min"] == PROJECT["project"]["requires-python"].removeprefix(">=")
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert entry == "mxsplicer = " + PROJECT["project"]["scripts"]["mxsplicer"]


def test_the_entry_for_scverse_has_what_its_list_asks_for():
    entry = read_yaml("packaging/scverse/meta.yaml")

    needed = {"name", "description", "project_home", "documentation_home", "install", "license", "tags", "contact"}
    assert needed | {"primary_category", "language", "category", "test_command"} <= entry.keys()
    assert (entry["license"], entry["project_home"]) == (PROJECT["project"]["license"], REPOSITORY)


def test_the_citation_names_the_paper_and_a_placeholder_for_the_archive():
    citation = read_yaml("CITATION.cff")

    assert {one["type"] for one in citation["identifiers"]} == {"doi"}
    assert citation["repository-code"] == REPOSITORY
    assert citation["preferred-citation"]["url"] == "https://arxiv.org/abs/2503.07444"


def test_the_manifest_of_the_panel_is_valid_for_napari():
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(ROOT / "napari_plugin/napari_mxsplicer/napari.yaml")

    assert manifest.display_name == "mxsplicer"
    assert manifest.categories


def parts_of_the_script():
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    cases = re.findall(r"^        (\w+(?: \| \w+)*)\)", text, re.MULTILINE)
    return {part for one in cases for part in one.split(" | ")}


def test_the_jobs_on_linux_run_every_part_of_the_script():
    (matrix,) = read_yaml(".github/workflows/tests.yml")["jobs"]["linux"]["strategy"]["matrix"].values()

    assert sorted(" ".join(matrix).split()) == sorted(parts_of_the_script())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(workflow):
    text = workflow.read_text(encoding="utf-8")

    for line in re.findall(r"\.ci/run([^\n]*)", text.split("jobs:")[1]):
        assert set(re.findall(r"'(\w+)'", line)) <= parts_of_the_script(), line
    for target in re.findall(r"run: make (\S+)", text):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    for file in re.findall(r"python (packaging/\S+)|uses: \./(\S+)", text):
        assert (ROOT / "".join(file)).exists()


def test_hooks_before_a_commit_use_the_tested_ruff():
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)[1]
    hooks = read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]

    used = {one for hook in hooks for one in hook.get("additional_dependencies", [])}
    assert used == {f"ruff=={pinned}"}


def test_extras_of_the_installed_package_are_those_of_the_docs():
    extras = {found for one in requires("mxsplicer") for found in re.findall(r'extra == "([\w-]+)"', one)} or set(
        PROJECT["project"]["optional-dependencies"]
    )
    named = set(re.findall(r"mxsplicer\[([a-z]+)\]", (ROOT / "docs/install.md").read_text("utf-8")))

    assert named <= extras
    assert {"gui", "hub", "spatialdata"} <= named


def test_the_release_check_runs_without_packages():
    words = [sys.executable, "-S", RELEASE, "--check", "v9.9.9"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "CHANGELOG.md has no heading for 9.9.9" in done.stderr
