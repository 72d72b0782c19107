"""The command line, `nann`: `main` and one file per group of commands; none imports TensorFlow until a command runs."""

from tfserving_ext.cli.main import app, main

__all__ = ["app", "main"]
