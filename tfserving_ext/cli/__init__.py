"""The command line, `nann`: `main` and one file per group of commands; TensorFlow is imported only by a command."""

from tfserving_ext.cli.main import app, main

__all__ = ["app", "main"]
