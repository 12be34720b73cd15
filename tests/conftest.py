"""What all tests share."""

import os
from pathlib import Path

import pytest

# On networks this small, threads cost more than they give, and where another process holds a core they stall.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real slides; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MXSPLICER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real slides is not here")
    return folder
