"""A small result for the panel's tests. Those that need a screen, in ``screen``, are run by `make test-panel`."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path, config):
    """Leave out what opens windows, unless pytest-qt was asked for."""
    return True if "screen" in collection_path.parts and not config.pluginmanager.has_plugin("pytest-qt") else None


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """Return the folder of a small result; read only."""
    from napari_mxsplicer.sample import make_sample

    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def returned():
    """Return what runs a generator to its end and returns what it returns."""

    def run(generator):
        while True:
            try:
                next(generator)
            except StopIteration as end:
                return end.value

    return run
