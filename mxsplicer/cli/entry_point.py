"""The entry point of the command line: the app with its commands, messages and outcomes, and exit codes."""

import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from mxsplicer.cli.annotate import add_annotate
from mxsplicer.cli.check import add_check
from mxsplicer.cli.cluster import add_cluster
from mxsplicer.cli.correlate import add_correlate
from mxsplicer.cli.embed import add_embed
from mxsplicer.cli.errors import as_options
from mxsplicer.cli.evaluate import add_evaluate
from mxsplicer.cli.export import add_export
from mxsplicer.cli.extract import add_extract
from mxsplicer.cli.help_pages import OPTIONS
from mxsplicer.cli.info import add_info
from mxsplicer.cli.merge import add_merge
from mxsplicer.cli.pull import add_pull
from mxsplicer.cli.push import add_push
from mxsplicer.cli.report import add_report
from mxsplicer.cli.segment import add_segment
from mxsplicer.cli.simulate import add_simulate
from mxsplicer.cli.status import add_status
from mxsplicer.cli.train import add_train
from mxsplicer.cli.verify import add_verify
from mxsplicer.cli.view import add_view
from mxsplicer.errors import InputError
from mxsplicer.result.outcomes import pass_failure_on, record_outcome
from mxsplicer.system.own_process import own_process

_OPTIONS = [f"--{name.replace('_', '-')}" for name in OPTIONS]

# Newer releases of Typer bring a click of their own, older ones use the installed one: they share the name.
_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")

app = typer.Typer(
    name="mxsplicer",
    help="Describe how each cell of a multiplex tissue image looks, for scanpy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for add_command in (
    add_embed,
    add_merge,
    add_status,
    add_info,
    add_check,
    add_segment,
    add_extract,
    add_train,
    add_push,
    add_pull,
    add_cluster,
    add_annotate,
    add_evaluate,
    add_correlate,
    add_report,
    add_export,
    add_verify,
    add_view,
    add_simulate,
):
    add_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mxsplicer {version('mxsplicer')}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all messages.")] = False,
    outcome: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Record here what was made, or why the slide failed, and exit with 0 in both cases: for workflows.",
        ),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="If that outcome is a failure, pass it on and do nothing."),
    ] = None,
    version_wanted: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Set up messages and outcomes at the entry point, before any command runs."""
    handler = RichHandler(console=Console(stderr=True), show_path=debug, show_level=debug, omit_repeated_times=False)
    handler.addFilter(_name_options)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("mxsplicer").setLevel(logging.DEBUG if debug else logging.INFO)
    if after is not None and outcome is None:
        msg = "--after passes a failure on to another outcome, and none was given."
        raise InputError(msg, "Pass --outcome.")
    if outcome is not None:
        if after is not None and pass_failure_on(after, outcome):
            raise typer.Exit
        stack: ExitStack = context.obj
        stack.enter_context(record_outcome(outcome, context.invoked_subcommand or ""))


def _name_options(record: logging.LogRecord) -> bool:
    """Set, as a filter at the entry point, options instead of Python arguments in a message of the library."""
    record.msg, record.args = as_options(record.getMessage(), _OPTIONS), None
    return True


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, as the entry point ``mxsplicer``, and end the process with its exit code."""
    if arguments is None:
        own_process()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # SLURM and systemd end a job with SIGTERM, which is handled like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # pipes of Windows and old terminals cannot write every letter
            stream.reconfigure(errors="backslashreplace")
    code = _exit_code(arguments)
    gc.freeze()  # a last garbage collection over all libraries would take 0.7 s
    sys.exit(code)


def _exit_code(arguments: Sequence[str]) -> int:
    code: object = 0
    try:
        with ExitStack() as stack:  # a command that records its outcome ends inside it
            code = app(args=arguments, prog_name="mxsplicer", standalone_mode=False, obj=stack)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        code = _explain(error)
    if code == 130:  # newer releases of Typer return this for Ctrl-C
        _print("interrupted. No unfinished file has its final name; the same command continues where it stopped.")
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, _UsageError):
        command = getattr(getattr(error, "ctx", None), "command_path", None) or "mxsplicer"
        _print(f"{error.format_message().rstrip('.')}. See `{command} --help`.")  # type: ignore[attr-defined]
        return 2
    if isinstance(error, InputError):
        _print(str(error))
        return 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _print(
            f"the disk is full ({error.filename or 'while writing'}). Free some space and run the same command again."
        )
        return 2
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | FileExistsError):
        _print(f"{error.filename}: {os.strerror(error.errno or 0).lower()}.")
        return 2
    _print(f"failed: {type(error).__name__}: {error}. Run `mxsplicer --debug ...` to see where.")
    return 1


def _print(sentence: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"mxsplicer: {sentence}")
