"""The command line: `tersor COMMAND ...`.

Exit codes: 0 done, 1 unexpected error (or `diff` found a difference, `doctor` something broken), 2 usage or option,
3 model or data, 4 unsupported or not installed, 5 a pass broke the graph, 6 a pass broke its contract, 7 a pass
changed nothing under --strict, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ..ir.errors import OptionError, TersorError
from . import console
from .commands.backends import backends
from .commands.bench import bench
from .commands.compile import compile
from .commands.diff import diff
from .commands.doctor import doctor
from .commands.explain import explain
from .commands.inspect import inspect
from .commands.new_pass import new_pass
from .commands.passes import passes

#: Base of what typer raises for a wrong command line.
_USAGE: type[Exception] = typer.BadParameter.__bases__[0]

_INTERRUPTED = 130

_EPILOG = (
    "Exit codes: 0 done; 1 unexpected error, or diff found a difference; 2 usage or option; 3 model or data; "
    "4 unsupported or not installed; 5 a pass broke the graph; 6 a pass broke its contract; "
    "7 a pass changed nothing under --strict."
)

app = typer.Typer(
    name="tersor",
    help="Make neural networks smaller and faster, and prove it.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (compile, bench, inspect, explain, diff, passes, new_pass, backends, doctor):
    app.command()(console.results_apart(_command))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand after the command too.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        console.show({"version": installed("tersor")}, f"tersor {installed('tersor')}", as_json=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are printed, not raised."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    before = given[: given.index("--")] if "--" in given else given
    debug, as_json = "--debug" in before, "--json" in before
    kept = [word for word in before if word != "--debug"] + given[len(before) :]
    try:
        try:
            code = app(kept, prog_name="tersor", standalone_mode=False)
            if code == _INTERRUPTED:
                # typer makes it of a KeyboardInterrupt, and says nothing
                raise KeyboardInterrupt
            return code if isinstance(code, int) else 0
        except BrokenPipeError:
            raise
        except Exception as error:
            return _failed(error, as_json=as_json, debug=debug)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does; keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        console.complain(KeyboardInterrupt("interrupted"), code=_INTERRUPTED, as_json=as_json, debug=False)
        return _INTERRUPTED


def _failed(error: Exception, *, as_json: bool, debug: bool) -> int:
    if isinstance(error, TersorError):
        console.complain(error, code=error.exit_code, as_json=as_json, debug=debug)
        return error.exit_code
    if isinstance(error, _USAGE):
        usage = _usage(error)
        console.complain(usage, code=usage.exit_code, as_json=as_json, debug=debug)
        return usage.exit_code
    error.add_note(f"This is unexpected ({type(error).__name__}). Run it again with --debug for the traceback.")
    console.complain(error, code=1, as_json=as_json, debug=debug)
    return 1


def _usage(error: Exception) -> OptionError:
    """A wrong command line as one of our errors."""
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    made = OptionError(message.rstrip("."))
    if context is not None:
        made.add_note(f"{context.get_usage()}\n`{context.command_path} --help` lists the options.")
    return made


if __name__ == "__main__":
    sys.exit(main())
