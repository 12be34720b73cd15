"""Ctrl-C in the middle of the main command, as a user has it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mxsplicer.simulation import simulate_slide

FINAL = {"mxsplicer.json", "cells.h5ad", "features.zarr", "report.html", "run"}


@pytest.mark.parametrize("wanted", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_reports_it_and_leaves_no_final_name(tmp_path, wanted):
    made = simulate_slide(tmp_path / "slide.ome.tiff", size_px=256)
    arguments = ["embed", made.image, "--mask", made.mask, "--out", "out", "--patch-size-um", "8", "--batch-size", "32"]
    endless = ["--encoder-width", "8", "--component-width", "2", "--chunk-width", "4", "--epochs", "100000"]
    # A job in the background of a script ignores SIGINT, and so would what it starts.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from mxsplicer.cli import main; main()", *map(str, arguments), *endless]
    quiet = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}

    with subprocess.Popen(command, env=one_thread, **quiet) as running:
        _wait_for(tmp_path / "out" / "run.partial" / "log.jsonl")
        running.send_signal(wanted)
        _, message = running.communicate(timeout=60)

    assert running.returncode == 130, message
    assert "mxsplicer: interrupted." in message
    assert "Traceback" not in message
    assert not FINAL & {path.name for path in (tmp_path / "out").iterdir()}


def _wait_for(file, seconds=120):
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not come"
        time.sleep(0.1)
