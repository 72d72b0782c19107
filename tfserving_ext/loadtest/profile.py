"""TensorBoard traces, of a model in this process or from a server's profiler."""

import contextlib
import threading
from collections.abc import Iterator

from tfserving_ext.artifacts import check_folder
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import Scenario

SERVER_MS = 3000  # Duration of a server's trace.


def check_profile(scenario: Scenario, shared_process: bool) -> None:
    """Checks before the load that a trace will be possible.

    Args:
      scenario: the scenario to run.
      shared_process: whether the model runs in this process.

    Raises:
      NannError: the target is a server whose profiler is not given, or the folder cannot be written to.
    """
    if scenario.profile is None:
        return
    if not shared_process and scenario.profile_server is None:
        raise NannError(
            "profile needs profile_server if the target is a server: TensorFlow Serving's gRPC address; `nann serve` "
            "has no profiler, as TensorFlow's would listen on all networks: profile its model with the target session"
        )
    check_folder(scenario.profile)


@contextlib.contextmanager
def profiling(scenario: Scenario, wanted: bool, shared_process: bool) -> Iterator[None]:
    """Traces the block into `scenario.profile`.

    Args:
      scenario: the scenario; without `profile`, nothing is traced.
      wanted: whether to trace this block.
      shared_process: whether the model runs in this process.

    Raises:
      NannError: at the end of the block, if the trace failed.
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
        reason = " ".join(str(failures[0]).split())
        raise NannError(f"the profiler at {scenario.profile_server} gave no trace: {reason}")
