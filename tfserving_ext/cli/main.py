"""The command line, `nann`: one subcommand for each stage, which calls the Python function of that stage."""

import functools
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tfserving_ext import __version__
from tfserving_ext.cli import batch, bench, data, demo, evaluating, exporting, judging, serving, training, updating
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

# The functions behind the commands are imported when a command runs: importing TensorFlow takes seconds, which `--help`
# should not.

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`nann demo` runs all stages on real purchases.",
    help="Top-k of millions of items under your own ranking model, served by TensorFlow Serving.",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show tracebacks of errors.")] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", help="Import this module and allow its models to run; may be repeated."),
    ] = None,
) -> None:
    del traceback  # Read in main().
    if version:
        print(__version__)
        raise typer.Exit
    if modules:
        from tfserving_ext.models import import_models

        for module in modules:
            import_models(module)


for group in (data, training, evaluating, exporting, serving, updating, judging, batch, demo, bench):
    group.add_to(app)


def _with_local_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a command so that it refuses paths on remote file systems before it does anything else."""

    @functools.wraps(command)
    def checked(**options: Any) -> Any:
        for value in options.values():
            for path in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(path, Path):
                    check_local(path)
        return command(**options)

    return checked


def _check_paths(group: typer.Typer) -> None:
    for command in group.registered_commands:
        if command.callback is not None:
            command.callback = _with_local_paths(command.callback)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _check_paths(inner.typer_instance)


_check_paths(app)


def main() -> None:
    """Runs the command line; errors that a user can act on become one line on standard error and exit status 1."""
    # TensorFlow logs an "error" if the machine merely has no GPU. Real errors raise exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        app()
    except SystemExit as ending:
        if ending.code == 130:  # Ctrl-C, for which Typer prints no message.
            again = (
                "; run the same command again to resume"
                if {"convert", "demo", "retrieve-all", "train"} & set(sys.argv[1:2])
                else ""
            )
            print(f"interrupted; no file is half written{again}", file=sys.stderr)
        raise
    except (NannError, ImportError, OSError) as error:
        if "--traceback" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        # Without this, the interpreter would collect garbage when it exits, which takes seconds with TensorFlow loaded.
        gc.freeze()
