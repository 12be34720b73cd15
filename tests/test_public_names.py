"""One list of public names for each package: its ``__init__.pyi``, which Python and type checkers read alike."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import mxsplicer

PACKAGES = ["mxsplicer", "mxsplicer.export", "mxsplicer.pl", "mxsplicer.tl"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_loads_and_is_what_its_module_defines(name):
    package = importlib.import_module(name)
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [one for one in stub.body if isinstance(one, ast.ImportFrom)]

    listed = {alias.name: one.module for one in imports for alias in one.names}

    assert sorted(package.__all__) == sorted(listed)
    for public, module in listed.items():
        found = getattr(package, public)
        home = f"{name}.{module}" if module else f"{name}.{public}"
        assert found is (getattr(sys.modules[home], public) if module else sys.modules[home])
        assert (getattr(found, "__doc__", None) or "").strip(), f"{name}.{public} has no docstring"
    assert set(listed) <= set(dir(package))


def test_importing_the_package_loads_nothing_heavy():
    code = f"import {', '.join(PACKAGES)}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "mxsplicer" in loaded
    assert not {"anndata", "dask", "matplotlib", "napari", "numpy", "pandas", "rich", "scanpy", "torch"} & {*loaded}


def test_the_version_is_that_of_the_installed_package():
    assert mxsplicer.__version__ == importlib.metadata.version("mxsplicer")
