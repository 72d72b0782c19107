"""Tables of types narrower than float32, compared with NumPy's rounding."""

import numpy as np
import pytest

from tests.index.conftest import DIM, N, write
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index, build_index
from tfserving_ext.index.table import decode, encode


def test_int8_rounds_to_half_a_scale():
    embeddings = (
        np.random.default_rng(0).normal(size=[200, 33]).astype(np.float32) * np.geomspace(1e-6, 1e6, 200)[:, None]
    )
    embeddings = embeddings.astype(np.float32)
    embeddings[5] = 0
    values, scales = encode(embeddings, "int8")
    assert (values.dtype, scales.dtype) == (np.int8, np.float32)
    assert np.abs(values).max() == 127
    assert (np.abs(decode(values, scales) - embeddings) <= 0.5001 * scales[:, None]).all()
    assert (decode(values, scales)[5] == 0).all()


def test_float16_is_numpys():
    embeddings = np.random.default_rng(0).normal(size=[20, 5]).astype(np.float32)
    values, scales = encode(embeddings, "float16")
    assert scales is None
    np.testing.assert_array_equal(values, embeddings.astype(np.float16))


def test_what_float16_cannot_hold_is_refused():
    embeddings = np.ones([4, 3], np.float32)
    embeddings[2, 1] = -70_000
    with pytest.raises(NannError, match="row 2 holds 70000, float16 holds at most 65504; use float32"):
        encode(embeddings, "float16")


def test_an_unknown_dtype_is_refused_before_any_work(arrays, tmp_path):
    words = "has embeddings of type 'bfloat16', allowed are 'float32', 'float16', 'int8'"
    with pytest.raises(NannError, match=words):
        build_index(arrays["item_ids"], arrays["item_embeddings"], tmp_path / "index", dtype="bfloat16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "bytes_per_value"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_a_table_is_as_large_as_its_type(arrays, tmp_path, dtype, bytes_per_value):
    written = write(tmp_path / "index", **arrays, parameters={}, dtype=dtype)
    assert written.dtype == dtype
    assert (written.folder / "item_embeddings.bin").stat().st_size == N * DIM * bytes_per_value
    opened = Index.open(written.folder, checksums=True)
    np.testing.assert_allclose(opened.embeddings(), arrays["item_embeddings"], rtol=1e-2, atol=0.05)
    np.testing.assert_array_equal(opened.embeddings([4, 2]), opened.embeddings()[[4, 2]])


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_broken_scale_is_refused(arrays, tmp_path, scale):
    written = write(tmp_path / "index", **arrays, parameters={}, dtype="int8")
    scales = np.array(written.item_scales)
    scales[3] = scale
    scales.tofile(written.folder / "item_scales.bin")
    with pytest.raises(NannError, match=r"item_scales.bin\[3\] is .*, a scale must be above 0 and finite"):
        Index.open(written.folder)
