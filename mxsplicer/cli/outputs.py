"""Outputs of commands: a finished one is complete for the same command, and is not replaced by another one.

What an output was made from is recorded next to the data: in a folder as ``made_from.json``, of a file as
``.NAME.made_from.json``. It has the options that differ from their defaults, and fingerprints of the input files.
"""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from mxsplicer.errors import InputError
from mxsplicer.result.folder import Result
from mxsplicer.result.outcomes import record_output
from mxsplicer.system.files import write_json
from mxsplicer.system.imports import is_importable
from mxsplicer.system.location import locate

# Parameters that do not change what is written.
_WITHOUT_EFFECT = frozenset(
    (
        *("out", "nuclei_out", "tensorboard", "config", "overwrite", "plan", "as_json"),
        *("workers", "executor", "max_memory", "device", "devices", "nodes"),
    )
)


@dataclass(frozen=True)
class Call:
    """The call that makes an output: its command, options that differ from their defaults, and its input files."""

    command: str
    options: Mapping[str, Any]
    inputs: Collection[str]


running: ContextVar[Call] = ContextVar("mxsplicer_running")


class Output:
    """An output of the command that runs.

    Parameters
    ----------
    path
        File or folder.
    also
        Further files or folders that are written with it.
    options
        The options that it depends on; all that can change a result where None.
    """

    def __init__(self, path: Path, *, also: Collection[Path] = (), options: Collection[str] | None = None) -> None:
        self.path, self._also, self._options = path, also, options

    def is_complete(self, *, overwrite: bool, as_json: bool = False) -> bool:
        """Return whether the same command made it; raise if another one did.

        What has no record is left to the library, which refuses to replace it. With ``as_json``, the message goes to
        standard error.
        """
        if overwrite or not self.path.exists():
            return False
        try:
            recorded = json.loads(_record_of(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        made_from = self._made_from()
        differ = sorted(name for name in recorded | made_from if recorded.get(name) != made_from.get(name))
        if differ:
            names = ", ".join(name.replace("_", "-") for name in differ)
            msg = f"{self.path} exists and was made from something else (other {names})."
            raise InputError(msg, "Choose another `out`, or pass `overwrite=True` to replace it.")
        if not all(path.exists() for path in self._also):
            return False
        record_output(self.path)
        typer.echo(f"{self.path} is complete", err=as_json)
        return True

    def record(self) -> None:
        """Record what it was made from, now that it is complete."""
        write_json(_record_of(self.path), self._made_from())
        record_output(self.path)

    def _made_from(self) -> dict[str, Any]:
        call = running.get()
        chosen = {
            name: _described(value, is_input=name in call.inputs)
            for name, value in call.options.items()
            if (name not in _WITHOUT_EFFECT if self._options is None else name in self._options)
        }
        # As JSON returns it: tuples are lists.
        made_from: dict[str, Any] = json.loads(json.dumps({"command": call.command, **chosen}))
        return made_from


def _record_of(path: Path) -> Path:
    return path / "made_from.json" if path.is_dir() else path.with_name(f".{path.name}.made_from.json")


def _described(value: Any, *, is_input: bool) -> Any:
    """Return an option as the record of an output has it: a file by name and fingerprint, code by its digest."""
    if isinstance(value, list | tuple):
        return [_described(one, is_input=is_input) for one in value]
    if is_input:
        from mxsplicer.system.fingerprints import fingerprint

        location = locate(value)
        if isinstance(location, Path) and Result(location).cells.is_file():  # other files of a result may change
            location = Result(location).cells
        exists = not isinstance(location, Path) or location.exists()
        return [Path(location).name, fingerprint(location)] if exists else str(value)
    if isinstance(value, str) and is_importable(value):
        from mxsplicer.system.fingerprints import fingerprint_code

        with suppress(Exception):  # the command itself explains why it cannot be imported
            return [value, fingerprint_code(value)]
    return str(value) if isinstance(value, Path) else value
