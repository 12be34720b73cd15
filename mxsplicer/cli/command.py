"""What all commands have in common: options from a file, old names, ``--help-all``, and input files that must exist.

All of it happens before a command imports anything heavy, so that a typing error is answered at once.
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from mxsplicer.cli.errors import as_options, similar_file
from mxsplicer.cli.old_names import POSITIONAL_OUT, error_of_removed, find_renamed, warn_of_old_name, with_current_names
from mxsplicer.cli.outputs import Call, running
from mxsplicer.errors import InputError
from mxsplicer.result.options import BUILTIN
from mxsplicer.splicer.recipe import REMOVED
from mxsplicer.system.location import locate

# Parameters that name files or folders which a command reads.
_INPUTS = frozenset(
    (
        *("slide", "slides", "mask", "nuclei", "markers", "roi", "cohort", "labels", "cells_from", "config"),
        *("stores", "run", "model", "result", "results", "append", "compare", "folder", "apply"),
    )
)
_OUTPUTS = frozenset({"out", "nuclei_out", "tensorboard"})
_FILE_ENDINGS = (".csv", ".tsv", ".txt", ".gz", ".geojson", ".json")


class Command(TyperCommand):
    """One command: its options may come from a file or have old names, and its input files must exist."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, which may have old names or be in a file."""
        # Typer keeps the line breaks of a docstring, which are not those of the terminal.
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in (self.help or "").split("\n\n"))
        if "--help-all" in args:
            for parameter in self.params:
                parameter.hidden = False  # type: ignore[attr-defined]
            self.epilog = None
            args = ["--help"]
        elif hidden := sum(getattr(one, "hidden", False) for one in self.params):
            self.epilog = f"{hidden} more options: mxsplicer {self.name} --help-all"
        args = with_current_names(self.name or "", args, self._option_names())
        args = self._with_out(ctx, args)
        config = _value_of("--config", args) if "--config" in self._option_names() else None
        if config is not None:
            ctx.default_map = self._read_config(Path(config))
            args = self._with_arguments(ctx, args)
        return super().parse_args(ctx, self._without_negations(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command where its input files exist."""
        try:
            self._check_inputs(ctx.params)
            defaults = {one.name: one.default for one in self.params}
            given = {name: value for name, value in ctx.params.items() if value not in (None, defaults[name], (), [])}
            running.set(Call(self.name or "", given, _INPUTS))
            return super().invoke(ctx)
        except InputError as error:
            of_program = {name for one in ctx.parent.command.params for name in one.opts} if ctx.parent else set()
            error.args = (as_options(str(error), self._option_names() | of_program),)
            raise

    def _option_names(self) -> set[str]:
        return {name for one in self.params for name in (*one.opts, *one.secondary_opts) if name.startswith("--")}

    def _with_arguments(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments with positional ones of the file, such as slides, where none were given."""
        given, _, _ = self.make_parser(ctx).parse_args(args=self._without_negations(ctx, args))
        several = next((one.name or "" for one in self.params if one.nargs == -1), "")
        return args if given.get(several) else [*args, "--", *ctx.default_map.get(several, [])]

    def _without_negations(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments without ``--no-...``, which revokes a switch that a file sets."""
        known = self._option_names()
        switches = {f"--no-{opt[2:]}": one for one in self.params for opt in one.opts if getattr(one, "is_flag", False)}
        off = [one for one in args if one in switches and one not in known]
        for argument in off:
            (ctx.default_map or {}).pop(switches[argument].name, None)
        return [one for one in args if one not in off]

    def _with_out(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments with ``--out`` where the output is the last positional argument, as it once was."""
        if self.name not in POSITIONAL_OUT or "--help" in args:
            return args
        _, left, _ = self.make_parser(ctx).parse_args(args=list(args))
        if len(left) != 1 or any(one.partition("=")[0] == "--out" for one in args):
            return args
        warn_of_old_name(f"the positional argument {left[0]}", f"--out {left[0]}")
        place = len(args) - 1 - args[::-1].index(left[0])
        return [*args[:place], *args[place + 1 :], "--out", left[0]]

    def _read_config(self, file: Path) -> dict[str, Any]:
        """Return the options in a TOML file by the names of the parameters."""
        if not file.is_file():
            msg = f"--config {file} not found."
            raise InputError(msg, similar_file(file))
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{file} is not a TOML file ({error})."
            raise InputError(msg, "Write one option a line, such as: epochs = 5") from error
        parameters = {one.name: one for one in self.params if one.name not in ("config", "plan", "as_json", "context")}
        options: dict[str, Any] = {}
        for key, value in content.items():
            name = key.replace("-", "_")
            renamed = None if name in parameters else find_renamed(self.name or "", "--" + key.replace("_", "-"))
            if renamed is not None:
                warn_of_old_name(f"{key} in {file}", renamed.new.removeprefix("--"))
                name = renamed.new.removeprefix("--").replace("-", "_")
                value = renamed.values.get(value, value) if isinstance(value, str) else value  # noqa: PLW2901
            if name in REMOVED and name not in parameters:
                if value != REMOVED[name]:
                    raise error_of_removed(key, file)
                continue
            if name not in parameters:
                near = get_close_matches(name, parameters, 1)
                remedy = (
                    f"Did you mean {near[0].replace('_', '-')}?" if near else f"See `mxsplicer {self.name} --help-all`."
                )
                msg = f"{file} has {key!r}, which is not an option of `mxsplicer {self.name}`."
                raise InputError(msg, remedy)
            options[name] = _as_parameter(parameters[name], value, file)
        return options

    def _check_inputs(self, values: Mapping[str, Any]) -> None:
        """Raise if a file or folder that is to be read does not exist."""
        for parameter in self.params:
            if parameter.name not in _INPUTS:
                continue
            given = values.get(parameter.name)
            for one in given if isinstance(given, list | tuple) else [given]:
                if one is None or self._is_word(parameter.name, one):
                    continue
                path = locate(one)
                if isinstance(path, Path) and not path.exists():
                    called = parameter.opts[0] if parameter.opts[0].startswith("--") else parameter.metavar
                    msg = f"{called} {path} not found."
                    raise InputError(msg, similar_file(path))

    def _is_word(self, option: str, value: str | Path) -> bool:
        """Return whether the value of an option that names a file, or another thing by a word, is the word."""
        of_labels = self.name == "evaluate" and option == "labels" and not _is_file_name(value)
        of_slide = self.name == "view" and option == "slide"  # its name in the result
        return of_labels or of_slide or (option == "model" and Path(value) == BUILTIN)


def _is_file_name(value: str | Path) -> bool:
    return Path(value).name != str(value) or str(value).endswith(_FILE_ENDINGS)


def _value_of(option: str, args: list[str]) -> str | None:
    for place, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else next(iter(args[place + 1 :]), None)
    return None


def _as_parameter(parameter: Any, value: Any, file: Path) -> Any:
    """Return a value of a TOML file as a parameter of a command; paths are relative to the file."""
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if isinstance(value, dict):
        value = [f"{name}={one}" for name, one in value.items()]
    if isinstance(value, list) and not several:
        msg = f"{file}: {parameter.name.replace('_', '-')} is a list, and takes one value."
        raise InputError(msg)
    values = value if isinstance(value, list) else [value]
    if parameter.name in _INPUTS | _OUTPUTS or (
        parameter.name == "deconstruct" and str(value).endswith((".yaml", ".yml"))
    ):
        values = [_from_folder(file.parent, one) for one in values]
    values = [one if isinstance(one, bool) else str(one) for one in values]
    return values if several else values[0]


def _from_folder(folder: Path, value: Any) -> str:
    location = locate(str(value))
    return str(folder / location) if isinstance(location, Path) else location
