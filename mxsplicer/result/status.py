"""What is done in a folder: of a result, or of a workflow over the slides of a cohort."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.result.folder import failures
from mxsplicer.result.outcomes import read_outcome
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.location import Location, locate
from mxsplicer.system.locks import find_lock

STATES = ("done", "running", "waiting", "interrupted", "failed", "stale")


@dataclass(frozen=True)
class Item:
    """One thing that is made, and how far it is.

    Attributes
    ----------
    name
        A slide, or what is made of all of them.
    state
        ``done``; ``running``; ``waiting`` for its turn; ``interrupted``: it was begun and nobody works on it, the same
        command goes on; ``failed``; ``stale``: what it was made from has changed since.
    said
        Details, for people.
    """

    name: str
    state: str
    said: str = ""


@dataclass(frozen=True)
class Status:
    """How far a folder is.

    Attributes
    ----------
    state
        Of the whole: one of :data:`STATES`.
    items
        Slides first, then what is made of all.
    seconds
        How long each stage took, where it is known.
    """

    path: str
    state: str
    items: tuple[Item, ...]
    seconds: dict[str, float]

    def __str__(self) -> str:
        """Return the status as people read it."""
        width = max((len(item.name) for item in self.items), default=0)
        lines = [f"{item.name:<{width}}  {item.state:<11}  {item.said}".rstrip() for item in self.items]
        counts = {state: sum(item.state == state for item in self.items) for state in STATES}
        counted = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        return "\n".join([f"{self.path}: {self.state} ({counted})", *lines])


def status_of(path: str | Path) -> Status:
    """Return how far a result folder is, or the folder of a workflow of slides.

    Nothing is written, and of the images only fingerprints are read.

    Raises
    ------
    InputError
        If the folder is neither.
    """
    path = Path(path)
    if (path / "settings.json").is_file():
        return _of_result(path)
    if any(path.glob("slides/*/*.json")):
        return _of_workflow(path)
    lock = find_lock(path)
    if lock is not None and not lock.is_stale:
        return Status(str(path), "running", (Item("all", "running", f"by {lock}"),), {})
    msg = f"{path} is neither a result nor the folder of a workflow: it has neither settings.json nor slides."
    raise InputError(msg)


def _of_result(path: Path) -> Status:
    record = json.loads((path / "settings.json").read_text(encoding="utf-8"))
    index = path / "mxsplicer.json"
    entries = json.loads(index.read_text(encoding="utf-8"))["slides"] if index.is_file() else []
    seconds = {str(stage): float(value) for stage, value in record.get("seconds", {}).items()}
    whole = _state_of_work(path, done=index.is_file())
    items = [*_slides(path, record, entries, whole.state), *_stages(path, record, whole)]
    stale = any(item.state == "stale" for item in items)
    return Status(str(path), "stale" if stale and whole.state == "done" else whole.state, tuple(items), seconds)


def _state_of_work(path: Path, *, done: bool) -> Item:
    lock = find_lock(path)
    if lock is not None and not lock.is_stale:
        return Item("all", "running", f"by {lock}")
    if done:
        return Item("all", "done")
    left = f"left by {lock}" if lock is not None else "nobody works on it"
    return Item("all", "interrupted", f"{left}; the same command goes on")


def _slides(path: Path, record: dict[str, Any], entries: list[dict[str, Any]], whole: str) -> Iterator[Item]:
    failed = failures(path / "settings.json")
    names = [str(name) for name in record.get("slides", record["inputs"])]
    by_name = {entry["name"]: entry for entry in entries}
    for name in names:
        if name in failed:
            yield Item(name, "failed", failed[name])
            continue
        if name in by_name:
            changed = _changed(path, by_name[name])
            yield Item(name, "stale" if changed else "done", changed)
            continue
        own = path if len(names) == 1 else path / "slides" / name
        made = [kind for kind in ("mask", "patches") if (own / f"{kind}.zarr").exists()]
        state = {"running": "running", "interrupted": "interrupted"}.get(whole, "waiting") if made else "waiting"
        yield Item(name, state, f"{' and '.join(made)} made" if made else "")


def _changed(path: Path, entry: dict[str, Any]) -> str:
    """Return which input of a slide is no longer what it was; an empty text where all are."""
    for kind, expected in entry["fingerprints"].items():
        if not expected or kind not in entry:
            continue
        place: Location = locate(entry[kind])
        place = path / place if isinstance(place, Path) else place
        if isinstance(place, Path) and not place.exists():
            return f"the {kind} {place} is gone"
        if fingerprint(place) != expected:
            return f"the {kind} {place} has changed since"
    return ""


def _stages(path: Path, record: dict[str, Any], whole: Item) -> Iterator[Item]:
    options = record["options"]
    made = {
        "model": path / "run",
        "embedding": path / "cells.h5ad",
        "report": path / "report.html",
    }
    if options.get("model") or "merged" in options:
        del made["model"]
    if options.get("only_cells"):
        del made["report"]
    current = True
    for name, file in made.items():
        if file.exists() or (name == "embedding" and (path / "embedded.h5ad").exists()):
            yield Item(name, "done")
            continue
        yield Item(name, whole.state if current else "waiting", whole.said if current else "")
        current = False


def _of_workflow(path: Path) -> Status:
    items = []
    stages = ("segment", "extract", "embed")
    for folder in sorted(one for one in (path / "slides").iterdir() if one.is_dir()):
        done, failed, running, seconds = [], "", "", 0.0
        for stage in stages:
            file = folder / f"{stage}.json"
            lock = find_lock(file)
            if lock is not None:
                running = f"{stage} {'left by' if lock.is_stale else 'by'} {lock}"
                state = "interrupted" if lock.is_stale else "running"
            if file.is_file():
                outcome = read_outcome(file)
                failed = outcome.failed
                seconds += outcome.seconds
                done.append(stage)
        if failed:
            items.append(Item(folder.name, "failed", failed))
        elif running:
            items.append(Item(folder.name, state, running))
        else:
            said = f"{', '.join(done)} ({seconds:.0f} s)"
            items.append(Item(folder.name, "done" if stages[-1] in done else "waiting", said))
    for name, file in {"model": path / "run", "cohort": path / "cohort.mxs"}.items():
        lock = find_lock(file)
        if lock is not None:
            state = "interrupted" if lock.is_stale else "running"
            items.append(Item(name, state, f"{'left by' if lock.is_stale else 'by'} {lock}"))
        elif name == "cohort" and file.is_dir():
            items.append(Item(name, _of_result(file).state))
        else:
            items.append(Item(name, "done" if file.is_dir() else "waiting"))
    states = [item.state for item in items]
    whole = next((state for state in ("running", "interrupted", "stale") if state in states), "waiting")
    whole = "done" if items[-1].state == "done" else whole
    return Status(str(path), whole, tuple(items), {})
