"""The command line in this process: its output, its exit code, and the files it writes."""

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tifffile

from mxsplicer.cli import main
from mxsplicer.images.slide import Slide


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    written: list[str]  # files and folders that are new or changed


@pytest.fixture
def command(tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., Outcome]]:
    """Return a function that runs a command line in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    root, package = logging.getLogger(), logging.getLogger("mxsplicer")
    before, on_term = (root.handlers[:], root.level, package.level), signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        then = _listing(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        now = _listing(tmp_path)
        written = sorted(path for path in now if then.get(path) != now[path])
        gone = sorted(f"{path} (gone)" for path in then.keys() - now.keys())
        return Outcome(ended.value.code, *capsys.readouterr(), written + gone)

    yield run
    root.handlers[:], root.level = before[0], before[1]
    package.setLevel(before[2])
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def saved(tmp_path) -> Callable[[Slide], str]:
    """Return a function that writes a slide as an OME-TIFF into ``tmp_path`` and returns its name."""

    def save(slide: Slide) -> str:
        metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "Channel": {"Name": list(slide.markers)}}
        tifffile.imwrite(tmp_path / "S01.ome.tif", slide.image, photometric="minisblack", metadata=metadata, ome=True)
        return "S01.ome.tif"

    return save


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir()))
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
