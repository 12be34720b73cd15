"""The section "Settings, versions and time"."""

import json
from typing import Any

import numpy as np

from mxsplicer.report.formatting import without_folders
from mxsplicer.system.durations import format_duration

# In the order in which they run; HDF5 returns them in alphabetical order.
_STAGES = ("segmentation", "cells", "patches", "training", "embedding", "harmony", "correlation", "mixing", "scores")


def settings_section(about: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return the settings, the versions of the packages, and the fingerprints of the input.

    Parameters
    ----------
    about
        ``uns["mxsplicer"]``.
    """
    prints = about.get("fingerprints", {})
    inputs = [("weights", str(prints["weights"]))] if "weights" in prints else []
    for name, of_slide in prints.get("slides", {}).items():
        inputs += [(f"{name}: {kind}", str(value)) for kind, value in of_slide.items()]
    inputs += [(f"{name}: nuclear marker", str(marker)) for name, marker in about.get("nuclear_marker", {}).items()]
    keys = ("method", "patch_size_um", "pixel_size_um")
    chosen = {key: _text(about[key]) for key in keys if key in about}
    others = dict(about.get("settings", {}))
    trained = others.pop("training", "{}")  # the settings of the run, most of which are listed already
    chosen |= {key: _text(value) for key, value in (json.loads(trained) | others).items() if key not in chosen}
    return {
        "settings": [(key, value) for key, value in chosen.items() if value not in ("", "{}", "None")],
        "versions": [(str(name), str(one)) for name, one in about.get("versions", {}).items()],
        "inputs": inputs,
    }


def stage_times(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the time of each stage, in their order, and the length of its bar, for the section on settings."""
    stages = {str(name): float(value) for name, value in about.get("seconds", {}).items()}
    stages = dict(sorted(stages.items(), key=lambda stage: (_order_of(stage[0]), stage[0])))
    longest = max(stages.values(), default=0) or 1
    return [{"stage": name, "time": format_duration(value), "bar": value / longest} for name, value in stages.items()]


def _order_of(name: str) -> int:
    return next((i for i, stage in enumerate(_STAGES) if name.startswith(stage)), len(_STAGES))


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(_text(one) for one in value)
    return without_folders(str(value))
