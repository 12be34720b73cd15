"""The structure of the code: where things stand, and that each stands in one place.

`pytest tests/test_house.py -s` prints what each test found.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
LIBRARY, PANEL = ROOT / "mxsplicer", ROOT / "napari_plugin" / "napari_mxsplicer"
RESULT_FILES = {
    "mxsplicer.json",
    "settings.json",
    "cells.h5ad",
    "embedded.h5ad",
    "features.zarr",
    "patches.zarr",
    "mask.zarr",
    "nuclei.zarr",
    "report.html",
    "log.txt",
}
OTHERS = {"--ntasks-per-node": "an option of srun"}  # options of other programs
DEFAULTS = ("MIN_AREA_UM2", "NUCLEUS_DIAMETER_UM", "EXPANSION_UM", "PATCH_SIZE_UM")


def modules(*packages: Path) -> list[Path]:
    return sorted(path for package in packages for path in package.rglob("*.py"))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def show(title: str, found: list[str]) -> None:
    print(f"{title}: {len(found)}", *found, sep="\n  ")  # noqa: T201


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield the string literals of a module that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_only_few_modules_stand_at_the_top():
    found = [path.name for path in sorted(LIBRARY.glob("*.py"))]
    show("modules at the top", found)
    assert set(found) <= {"__init__.py", "__main__.py", "errors.py", "simulation.py", "testing.py"}


def test_only_the_embedding_folder_opens_an_h5ad_for_writing():
    opens = re.compile(r"\.write_h5ad\(|h5py\.File\([^)\n]*[\"'](?:w|w-|x|a|r\+)[\"']")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules(LIBRARY, PANEL)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if opens.search(line)
    ]
    show("places that open an .h5ad for writing", found)
    assert found
    assert {place.split(":")[0] for place in found} == {"mxsplicer/embedding/h5ad.py"}


def test_file_names_of_a_result_stand_in_result_folder_alone():
    found = [
        f"{where(path, node)} {node.value!r}"
        for path in modules(LIBRARY, PANEL)
        if path != LIBRARY / "result" / "folder.py"
        for node in strings(ast.parse(path.read_text(encoding="utf-8")))
        if node.value.rpartition("/")[2] in RESULT_FILES and " " not in node.value
        if (path.name, node.value) != ("checkpoints.py", "settings.json")  # of a checkpoint, not of a result
    ]
    show("literals of result files outside result/folder.py", found)
    assert not found


@pytest.mark.parametrize(
    ("what", "pattern", "home"),
    [
        ("temporary names", r"\.partial[\"']", {"mxsplicer/system/files.py"}),
        ("digests of content", r"blake2b\(digest_size|sha256\(Path", {"mxsplicer/system/fingerprints.py"}),
        ("pools of processes", r"get_context\(|ProcessPoolExecutor", {"mxsplicer/system/workers.py"}),
        ("clients of dask", r"from distributed|import distributed", {"mxsplicer/system/dask_cluster.py"}),
        ("lock files", r"filelock", {"mxsplicer/system/locks.py"}),
    ],
)
def test_a_service_of_the_system_is_written_once(what, pattern, home):
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules(LIBRARY)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line) and not line.lstrip().startswith("#")
    ]
    show(what, found)
    assert {place.split(":")[0] for place in found} == home


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_is_defined_once(name):
    definitions, literals = [], []
    for path in modules(LIBRARY, PANEL):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [one.id for one in targets if isinstance(one, ast.Name)]
                definitions += [where(path, node)] if name in names else []
                literals += [where(path, node)] if name.lower() in names and is_number(node.value) else []
            elif isinstance(node, ast.FunctionDef):
                literals += [where(path, node)] if is_number(default_of(node, name.lower())) else []
    show(f"definitions of {name}", definitions)
    show(f"other literals for {name.lower()}", literals)
    assert len(definitions) == 1
    assert not literals


def is_number(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def default_of(function: ast.FunctionDef, name: str) -> ast.AST | None:
    """Return the default of an argument, or None."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return next((default for argument, default in pairs if argument.arg == name), None)


def test_the_method_fits_on_one_page():
    lines = (LIBRARY / "splicer" / "objectives" / "splicer.py").read_text(encoding="utf-8").splitlines()
    show("lines of splicer/objectives/splicer.py", [str(len(lines))])
    assert len(lines) <= 60


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    show("lines of README.md", [str(len(lines))])
    assert len(lines) <= 120


def test_the_library_names_no_option_of_the_command_line():
    option = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
    command = re.compile(r"mxsplicer [a-z]+( [^`]*)?")  # files that people keep may quote a whole command
    found = [
        f"{path.relative_to(ROOT)}:{number} {', '.join(option.findall(text))}"
        for path in modules(LIBRARY, PANEL)
        if path.relative_to(LIBRARY.parent).parts[1] != "cli"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if set(option.findall(text := command.sub("", line))) - set(OTHERS)
    ]
    show("option names below cli/", found)
    assert not found


def test_embed_help_fits_on_a_screen():
    from mxsplicer.cli import app

    text = CliRunner().invoke(app, ["embed", "--help"], env={"COLUMNS": "160", "NO_COLOR": "1"}).output
    found = {one.group(1) for line in text.splitlines() if (one := re.match(r"[\s│*]*(--[a-z][a-z-]+)", line))}
    show("options that embed --help shows", sorted(found))
    assert 1 < len(found - {"--help", "--help-all"}) <= 20


def test_what_the_makefile_tests_with_the_newest_packages_exists():
    joined = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    named = re.search(r"^NEWEST_TESTS := (.*)$", joined, re.MULTILINE)
    assert named is not None
    assert [path for path in named[1].split() if not (ROOT / path).exists()] == []
