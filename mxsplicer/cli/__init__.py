"""The command line: one sub-command per stage, each a thin wrapper of a public function.

A mistake of the user is answered by one sentence and exit code 2, a failure of mxsplicer by one sentence and exit code
1; ``--debug`` adds the traceback. Heavy libraries load inside the commands, so that ``mxsplicer --help`` is quick.
"""

from mxsplicer.cli.entry_point import app, main

__all__ = ["app", "main"]
