"""Traces that TensorBoard reads, of the model in this process or of a server's profiler."""

import contextlib
import threading
from collections.abc import Iterator

from tfserving_ext.artifacts import check_folder
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import Scenario

SERVER_MS = 3000  # Of a server's trace.


def check_profile(scenario: Scenario, shared_process: bool) -> None:
    """Says before the load what would fail after it.

    Raises:
      NannError: the target is a server and no profiler of its is named, or the folder cannot be written to.
    """
    if scenario.profile is None:
        return
    if not shared_process and scenario.profile_server is None:
        raise NannError(
            "profile needs profile_server where the target is a server: TensorFlow Serving's gRPC address; `nann "
            "serve` has no profiler, as TensorFlow's listens on every network: profile its model by the target session"
        )
    check_folder(scenario.profile)


@contextlib.contextmanager
def profiling(scenario: Scenario, wanted: bool, shared_process: bool) -> Iterator[None]:
    """Traces the block into `scenario.profile`.

    Raises:
      NannError: at the end of the block, where there is no trace.
    """
    if scenario.profile is None or not wanted:
        yield
        return
    import tensorflow as tf

    if shared_process:
        try:
            with tf.profiler.experimental.Profile(str(scenario.profile)):
                yield
        except tf.errors.OpError as error:
            raise NannError(f"cannot write a trace to {scenario.profile}: {error.message}") from error
        return
    failures: list[Exception] = []

    def ask() -> None:
        try:
            service = f"grpc://{(scenario.profile_server or '').removeprefix('grpc://')}"
            tf.profiler.experimental.client.trace(service, str(scenario.profile), SERVER_MS)
        except (tf.errors.OpError, ValueError, OSError, RuntimeError) as error:
            failures.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield
    thread.join(SERVER_MS / 1000 + 10)
    if failures:
        told = " ".join(str(failures[0]).split())
        raise NannError(f"the profiler at {scenario.profile_server} gave no trace: {told}")
