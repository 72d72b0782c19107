"""The command line, `nann`: one subcommand a stage. Each calls one Python function of the same meaning."""

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
from tfserving_ext.cli import bench, data, demo, evaluating, exporting, serving, training
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

# The functions behind the commands are imported when a command runs: TensorFlow takes seconds, `--help` should not.

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
        typer.Option("--import", help="Let the models of this module run; a model's folder alone never does."),
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


for group in (data, training, evaluating, exporting, serving, demo, bench):
    group.add_to(app)


def _with_local_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which refuses paths of remote file systems before any of them is taken for a folder."""

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
    """Entry point: errors that a user can act on are one line on standard error and exit status 1."""
    # TensorFlow's own log says "error" where a machine merely has no GPU; what goes wrong here raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        app()
    except SystemExit as ending:
        if ending.code == 130:  # Ctrl-C, for which Typer has no words.
            again = "; run it again to go on" if {"convert", "demo", "train"} & set(sys.argv[1:2]) else ""
            print(f"interrupted; no file is half written{again}", file=sys.stderr)
        raise
    except (NannError, ImportError, OSError) as error:
        if "--traceback" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        # At its end the interpreter collects garbage, for seconds where TensorFlow is loaded, and for nothing.
        gc.freeze()
