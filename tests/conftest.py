"""Fixtures and settings of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine may be busy: no property is about time, but for that of a hang, which says so.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Threads slow down networks this small, and stall if another process uses the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real slides; tests that need it are skipped if it is missing."""
    folder = Path(os.environ.get("MXSPLICER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real slides is missing")
    return folder
