"""The models that TensorFlow Serving's answers in this folder were recorded with."""

import sys
from pathlib import Path

import tensorflow as tf


class HalfPlus(tf.Module):
    """y = x/2 + b."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = tf.Variable(b)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x):
        return {"y": x / 2 + self.b}


def _function(body, **inputs):
    specs = [tf.TensorSpec(shape, dtype, name) for name, (dtype, shape) in inputs.items()]
    return tf.function(body, input_signature=specs)


def _types() -> dict:
    rows = [None]

    def types(i, h, s):
        return {
            "i_out": i * 2,
            "h_out": h * tf.constant(2, tf.float16),
            "s_out": tf.strings.join([s, "!"]),
            "flag": i > 0,
            "d": tf.cast(i, tf.float64) / 3,
            "u8": tf.cast(i % 256, tf.uint8),
            "i32": tf.cast(i, tf.int32),
        }

    def rest(i, f, s):
        return {
            "i_out": tf.identity(i),
            "f_out": f,
            "s_out": tf.identity(s),
            "flag": i > 0,
            "d": tf.cast(f, tf.float64),
            "u8": tf.cast(i % 256, tf.uint8),
            "i32": tf.cast(i, tf.int32),
        }

    def dot(x):
        p = tf.matmul(x, tf.constant([[1.0], [2.0], [3.0]]))
        return {"p": p, "total": tf.reduce_sum(x)}

    def more(b, u, i8, d):
        return {"b": tf.logical_not(b), "u": tf.identity(u), "i8": tf.identity(i8), "d": tf.identity(d)}

    return {
        "serving_default": _function(types, i=(tf.int64, rows), h=(tf.float16, [None, 2]), s=(tf.string, rows)),
        "scale": _function(lambda v, k: {"out": v * k}, v=(tf.float32, [None, 3]), k=(tf.float32, [])),
        "recip": _function(lambda x: {"r": 1 / x}, x=(tf.float32, rows)),
        "dot": _function(dot, x=(tf.float32, [None, 3])),
        "mm": _function(lambda x: {"p": tf.matmul(x, tf.constant([[1.0], [2.0], [3.0]]))}, x=(tf.float32, [None, 3])),
        "bytes_sig": _function(
            lambda image_bytes: {"echo_bytes": tf.identity(image_bytes), "n": tf.strings.length(image_bytes)},
            image_bytes=(tf.string, rows),
        ),
        "echo": _function(lambda txt: {"txt_out": tf.identity(txt)}, txt=(tf.string, rows)),
        "bf16": _function(lambda x: {"b": tf.cast(x, tf.bfloat16)}, x=(tf.float32, rows)),
        "half_only": _function(lambda x: {"h": tf.cast(x, tf.float16)}, x=(tf.float32, rows)),
        "int64_only": _function(lambda i: {"o": tf.identity(i)}, i=(tf.int64, rows)),
        "more": _function(more, b=(tf.bool, rows), u=(tf.uint64, rows), i8=(tf.int8, rows), d=(tf.float64, rows)),
        "cplx": _function(lambda c: {"c": tf.identity(c)}, c=(tf.complex64, [None, 2])),
        "rest": _function(rest, i=(tf.int64, rows), f=(tf.float32, rows), s=(tf.string, rows)),
    }


class Xla(tf.Module):
    """y = 2x + 3, compiled by XLA and not."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")], jit_compile=True)
    def compiled(self, x):
        return {"y": x * 2 + 3}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
    def serve(self, x):
        return self.compiled(x)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
    def plain(self, x):
        return {"y": x * 2 + 3}


def _failing() -> dict:
    def asrt(x):
        check = tf.debugging.Assert(tf.reduce_all(x > 0), ["x must be positive", x])
        with tf.control_dependencies([check]):
            return {"y": tf.identity(x)}

    def long(x):
        check = tf.debugging.Assert(tf.reduce_all(x > 0), ["L" * 3000])
        with tf.control_dependencies([check]):
            return {"y": tf.identity(x)}

    return {
        "serving_default": _function(lambda i: {"y": tf.gather(tf.constant([1.0, 2.0, 3.0]), i)}, i=(tf.int32, [None])),
        "asrt": _function(asrt, x=(tf.float32, [None])),
        "num": _function(lambda s: {"n": tf.strings.to_number(s)}, s=(tf.string, [None])),
        "long": _function(long, x=(tf.float32, [None])),
    }


def write_examples(path: Path) -> None:
    """Writes the model that classifies and regresses examples."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a = v1.get_variable("a", initializer=0.5)
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        parsed = v1.io.parse_example(
            serialized,
            {
                "x": v1.io.FixedLenFeature([1], tf.float32),
                "x2": v1.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        x = tf.identity(parsed["x"], "x")
        y, y3 = tf.add(a * x, 2.0, "y"), tf.add(a * x, 3.0, "y3")
        px = v1.placeholder(tf.float32, [None, 1], "px")
        py = tf.add(a * px, 2.0, "py")
        scores = tf.concat([y, y3], axis=1, name="scores")
        labels = tf.tile(tf.constant([["low", "high"]]), [tf.shape(scores)[0], 1], name="labels")
        session.run(v1.global_variables_initializer())

        def info(**tensors):
            return {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in tensors.items()}

        def signature(inputs, outputs, method):
            return v1.saved_model.build_signature_def(inputs, outputs, f"tensorflow/serving/{method}")

        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature(info(x=px), info(y=py), "predict"),
                "regress_x_to_y": signature(info(inputs=serialized), info(outputs=y), "regress"),
                "regress_x_to_y3": signature(info(inputs=serialized), info(outputs=y3), "regress"),
                "classify_x": signature(info(inputs=serialized), info(classes=labels, scores=scores), "classify"),
                "classify_scores_only": signature(info(inputs=serialized), info(scores=scores), "classify"),
            },
        )
        builder.save()


def write_models(base: Path) -> str:
    """Writes all models below `base`; returns the model config that they were served by, in text form."""
    for version, b in (("1", 2.0), ("2", 3.0)):
        module = HalfPlus(b)
        tf.saved_model.save(module, str(base / "half_plus" / version), {"serving_default": module.serve})
    module = HalfPlus(4.0)
    tf.saved_model.save(module, str(base / "half_plus_v3" / "3"), {"serving_default": module.serve})
    module = HalfPlus(2.0)
    tf.saved_model.save(module, str(base / "nodefault" / "1"), {"only": module.serve})
    tf.saved_model.save(tf.Module(), str(base / "types" / "1"), _types())
    tf.saved_model.save(tf.Module(), str(base / "failing" / "1"), _failing())
    write_examples(base / "examples" / "1")
    xla = Xla()
    tf.saved_model.save(xla, str(base / "xla" / "1"), {"serving_default": xla.serve, "plain": xla.plain})
    entries = []
    for name in ("half_plus", "types", "failing", "nodefault", "examples", "xla"):
        more = ""
        if name == "half_plus":
            more = (
                "model_version_policy { specific { versions: 1 versions: 2 } } "
                'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
            )
        entries.append(f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" {more} }}')
    return "model_config_list { " + " ".join(entries) + " }"


def main(arguments: list[str]) -> None:
    """Writes the models below a folder, and their config to standard output, with absolute paths as it must have."""
    if len(arguments) != 1:
        sys.exit(f"got {len(arguments)} arguments, wanted one, the folder to write the models in")
    print(write_models(Path(arguments[0]).absolute()))


if __name__ == "__main__":
    main(sys.argv[1:])
