"""Runs pipelines of Apache Beam, on this machine or on many."""

import contextlib
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from tfserving_ext.errors import NannError


@contextlib.contextmanager
def run_pipeline(options: Sequence[str]) -> Iterator[beam.Pipeline]:
    """Yields a pipeline, which runs when the block ends.

    Args:
      options: Beam's pipeline options, such as --runner=FlinkRunner; the local runner without any.

    Raises:
      NannError: a worker raised one; the message is the worker's.
    """
    try:
        with beam.Pipeline(options=PipelineOptions([*options])) as pipeline:
            yield pipeline
    except Exception as error:
        # A worker's error may come as text, behind the worker's stack.
        *_, text = str(error).rpartition(f"{NannError.__name__}: ")
        if isinstance(error, NannError) or text != str(error):
            raise NannError(text.partition("\n")[0].partition(" [while running")[0]) from error
        raise
