from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from tfserving_ext.serving import LocalServer, ServerOptions

FREE_PORTS = ServerOptions(grpc_port=0, rest_port=0)


class HalfPlus(tf.Module):
    """A toy model: y = x/2 + 2, a signature whose error names its input, and inputs of all kinds."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_plus(self, x):
        return {"y": x / 2 + 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "i")])
    def third(self, i):
        # With a constant table, the gather op checks the bounds.
        return {"o": tf.gather(tf.constant([10, 20, 30]), i)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, "i"),
            tf.TensorSpec([None, 2], tf.float16, "h"),
            tf.TensorSpec([None], tf.string, "s"),
        ]
    )
    def types(self, i, h, s):
        return {"i_out": i * 2, "h_out": h * 2, "s_out": tf.strings.join([s, "!"]), "flag": i > 0}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, "i"),
            tf.TensorSpec([None], tf.float32, "f"),
            tf.TensorSpec([None], tf.string, "s"),
            tf.TensorSpec([None], tf.bool, "b"),
        ]
    )
    def rest(self, i, f, s, b):
        return {"i_out": i, "f_out": f, "s_out": s, "b_out": b}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def total(self, x):
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, "x")])
    def long_error(self, x):
        check = tf.debugging.Assert(tf.reduce_all(x > 0), ["L" * 3000])
        with tf.control_dependencies([check]):
            return {"y": tf.identity(x)}


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A base path with versions 2 and 10 of the module; the newest by number, 10, is not the last by name."""
    base = tmp_path_factory.mktemp("toy") / "half_plus"
    module = HalfPlus()
    names = ("third", "types", "rest", "total", "long_error")
    signatures = {"serving_default": module.half_plus, **{name: getattr(module, name) for name in names}}
    for version in ("2", "10"):
        tf.saved_model.save(module, str(base / version), signatures=signatures)
    (base / "notes.txt").write_text("no version")
    return base


@pytest.fixture(scope="session")
def toy_server(toy):
    with LocalServer({"half_plus": toy}, FREE_PORTS) as server:
        yield SimpleNamespace(
            target=f"127.0.0.1:{server.grpc_port}", url=f"http://127.0.0.1:{server.rest_port}", server=server
        )


@pytest.fixture(scope="session")
def nann_server(world):
    with LocalServer({"nann": world.saved_model.parent}, FREE_PORTS) as server:
        yield SimpleNamespace(
            target=f"127.0.0.1:{server.grpc_port}", url=f"http://127.0.0.1:{server.rest_port}", server=server
        )


class Slow(tf.Module):
    """Counts to n."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "n")])
    def count(self, n):
        return {"y": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [0], parallel_iterations=1)[0]}


@pytest.fixture(scope="session")
def slow(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("slow")
    module = Slow()
    tf.saved_model.save(module, str(base / "1"), {"serving_default": module.count})
    return base
