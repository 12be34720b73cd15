"""How far a folder is: a result, or a workflow over the slides of a cohort."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.result.folder import Result
from mxsplicer.result.outcomes import read_outcome
from mxsplicer.result.slides import SlideRecord, read_records
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.locks import Lock, find_lock

STATES = ("done", "running", "waiting", "interrupted", "failed", "stale")
_WORKFLOW_STAGES = ("segment", "extract", "embed")  # of workflows/cohort, an outcome each
_WORKFLOW_RESULT = "cohort.mxs"


@dataclass(frozen=True)
class Item:
    """One thing whose status is shown, and how far it is.

    Attributes
    ----------
    name
        A slide, or what is made from all of them.
    state
        ``done``; ``running``; ``waiting``; ``interrupted``: begun, and no process works on it (the same command
        continues); ``failed``; ``stale``: its input has changed since.
    detail
        Details, for people.
    """

    name: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Status:
    """How far a folder is.

    Attributes
    ----------
    state
        Of the whole: one of :data:`STATES`.
    items
        Slides first, then what is made from all.
    seconds
        How long each stage took, if known.
    """

    path: str
    state: str
    items: tuple[Item, ...]
    seconds: dict[str, float]

    def __str__(self) -> str:
        """Return the status as a table for people."""
        width = max((len(item.name) for item in self.items), default=0)
        lines = [f"{item.name:<{width}}  {item.state:<11}  {item.detail}".rstrip() for item in self.items]
        counts = {state: sum(item.state == state for item in self.items) for state in STATES}
        counted = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        return "\n".join([f"{self.path}: {self.state} ({counted})", *lines])


def status_of(path: str | Path) -> Status:
    """Return how far a result folder or the folder of a workflow is.

    Nothing is written, and only fingerprints of the images are read.

    Raises
    ------
    InputError
        If the folder is neither.
    """
    result = Result(Path(path))
    if result.settings.is_file():
        return _status_of_result(result)
    if any(result.slides.glob("*/*.json")):
        return _status_of_workflow(result.path)
    lock = find_lock(result.path)
    if lock is not None and not lock.is_stale:
        return Status(str(path), "running", (Item("all", "running", f"by {lock}"),), {})
    msg = f"{path} is neither a result nor the folder of a workflow: it has neither {result.settings.name} nor slides."
    raise InputError(msg)


def _status_of_result(result: Result) -> Status:
    settings = result.read_settings()
    names = tuple(str(name) for name in settings.get("slides", settings["inputs"]))
    result = Result(result.path, names)
    seconds = {str(stage): float(value) for stage, value in settings.get("seconds", {}).items()}
    whole = _state_of_whole(result)
    items = [*_items_of_slides(result, whole.state), *_items_of_stages(result, settings["options"], whole)]
    is_stale = any(item.state == "stale" for item in items)
    state = "stale" if is_stale and whole.state == "done" else whole.state
    return Status(str(result.path), state, tuple(items), seconds)


def _state_of_whole(result: Result) -> Item:
    lock = find_lock(result.path)
    if lock is not None and not lock.is_stale:
        return Item("all", "running", f"by {lock}")
    if result.index.is_file():
        return Item("all", "done")
    reason = f"left by {lock}" if lock is not None else "no process works on it"
    return Item("all", "interrupted", f"{reason}; the same command continues")


def _items_of_slides(result: Result, whole: str) -> Iterator[Item]:
    failed = result.failed
    records = {one.name: one for one in read_records(result.path)} if result.index.is_file() else {}
    for name in result.slide_names:
        if name in failed:
            yield Item(name, "failed", failed[name])
        elif name in records:
            change = _describe_change(records[name])
            yield Item(name, "stale" if change else "done", change)
        else:
            files = {"mask": result.mask_of(name), "patches": result.patches_of(name)}
            made = " and ".join(kind for kind, file in files.items() if file.exists())
            begun = whole if whole in ("running", "interrupted") else "waiting"
            yield Item(name, begun if made else "waiting", f"{made} made" if made else "")


def _describe_change(record: SlideRecord) -> str:
    """Return for the status which input of a slide has changed; an empty text if none has."""
    for kind, place in (("image", record.image), ("mask", record.mask)):
        expected = record.fingerprints.get(kind)
        if not expected or place is None:
            continue
        if isinstance(place, Path) and not place.exists():
            return f"the {kind} {place} is missing"
        if fingerprint(place) != expected:
            return f"the {kind} {place} has changed since"
    return ""


def _items_of_stages(result: Result, options: Mapping[str, Any], whole: Item) -> Iterator[Item]:
    files = {"model": [result.run], "embedding": [result.cells, result.embedded], "report": [result.report]}
    if options.get("model") or "merged" in options:
        del files["model"]
    if options.get("only_cells"):
        del files["report"]
    is_current = True
    for name, made in files.items():
        if any(file.exists() for file in made):
            yield Item(name, "done")
            continue
        yield Item(name, whole.state if is_current else "waiting", whole.detail if is_current else "")
        is_current = False


def _status_of_workflow(path: Path) -> Status:
    folder = Result(path)
    items = [_item_of_workflow_slide(one) for one in sorted(folder.slides.iterdir()) if one.is_dir()]
    for name, file in {"model": folder.run, "cohort": path / _WORKFLOW_RESULT}.items():
        lock = find_lock(file)
        if lock is not None:
            items.append(_item_of_lock(name, lock))
        elif name == "cohort" and file.is_dir():
            items.append(Item(name, _status_of_result(Result(file)).state))
        else:
            items.append(Item(name, "done" if file.is_dir() else "waiting"))
    states = [item.state for item in items]
    whole = next((state for state in ("running", "interrupted", "stale") if state in states), "waiting")
    whole = "done" if items[-1].state == "done" else whole
    return Status(str(path), whole, tuple(items), {})


def _item_of_workflow_slide(folder: Path) -> Item:
    done, seconds, running = [], 0.0, None
    for stage in _WORKFLOW_STAGES:
        file = folder / f"{stage}.json"
        lock = find_lock(file)
        if lock is not None:
            running = _item_of_lock(folder.name, lock, stage)
        if file.is_file():
            outcome = read_outcome(file)
            if outcome.failed:
                return Item(folder.name, "failed", outcome.failed)
            seconds += outcome.seconds
            done.append(stage)
    if running is not None:
        return running
    state = "done" if _WORKFLOW_STAGES[-1] in done else "waiting"
    return Item(folder.name, state, f"{', '.join(done)} ({seconds:.0f} s)")


def _item_of_lock(name: str, lock: Lock, stage: str = "") -> Item:
    state, by = ("interrupted", "left by") if lock.is_stale else ("running", "by")
    return Item(name, state, f"{stage} {by} {lock}".strip())
