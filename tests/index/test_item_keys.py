"""Keys of items: what the file holds is what a dict would say, and damaged files are refused."""

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.index.conftest import N
from tests.index.test_broken import edit_manifest, poke
from tfserving_ext.errors import NannError
from tfserving_ext.index import Graph, Hnsw, Index, ItemStorage, KeyedIds, build_index, write_index
from tfserving_ext.index.item_keys import MAX_KEY_BYTES, hashes_of, store_keys
from tfserving_ext.index.resource import MappedIndex

KEYS = ["B07", "b07", "é", "item 4", "x" * 300, "0", "-1", "B070", "a\0b"]
# Many equal prefixes, of lengths around those of a word of the hash.
TEXTS = st.one_of(st.text(min_size=1, max_size=40), st.from_regex(r"sku-00000[0-9]{0,30}", fullmatch=True))


def keyed_index(arrays, folder, keyed, **storage) -> Index:
    graph = Graph(arrays["entry_points"], arrays["layers"])
    storage = ItemStorage(keys=store_keys(keyed), **storage)
    numbers = np.asarray(keyed.numbers)[: keyed.items]
    return write_index(folder, numbers, arrays["item_embeddings"], graph, {"M": 3}, storage)


@pytest.fixture
def keyed(arrays, tmp_path) -> Index:
    """The nine items with keys, and two keys of numbers that are no items."""
    numbers = np.array([*arrays["item_ids"], 5000, -7])
    return keyed_index(arrays, tmp_path / "index", KeyedIds(numbers, [*KEYS, "gone", "old"], N))


def test_keys_and_numbers_stand_for_each_other(arrays, keyed):
    opened, ids = Index.open(keyed.folder, checksums=True), arrays["item_ids"]
    assert opened.files[-1].name == "item_keys.bin" and opened.manifest["keys"] == {"keys": 11, "others": 2}
    np.testing.assert_array_equal(opened.item_ids, ids)
    assert opened.ids().tolist() == KEYS and opened.ids([3, 0]).tolist() == ["item 4", "B07"]
    mapped = MappedIndex(opened)
    found = mapped.numbers([["é", "gone", "unknown"], ["", "a\0b", "old"]]).numpy()
    np.testing.assert_array_equal(found, [[ids[2], 5000, -1], [-1, ids[8], -7]])
    texts = mapped.keys([[ids[4]], [-1], [5000]]).numpy()
    assert texts.tolist() == [[("x" * 300).encode()], [b""], [b"gone"]]
    numbered = opened.numbered()
    assert numbered.item_keys is None and numbered.files == opened.files[:-1] and numbered.ids() is not None
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has no keys: its ids are numbers"):
        MappedIndex(numbered).numbers(["é"])


@given(known=st.lists(TEXTS, unique=True, max_size=60), asked=st.lists(TEXTS, max_size=20), data=st.data())
def test_every_key_is_found_and_no_other(tmp_path_factory, arrays_of_nine, known, asked, data):
    known = [*KEYS, *(key for key in known if key not in KEYS)]
    numbers = np.random.default_rng(len(known)).permutation(10 * len(known))[: len(known)] - 3
    numbers[numbers == -1] = 10**9
    index = keyed_index(arrays_of_nine, tmp_path_factory.mktemp("keys") / "i", KeyedIds(numbers, known, N))
    expected = dict(zip(known, numbers.tolist(), strict=True))
    asked = [*known, *asked, *(key + "\0" for key in known), *(key[:-1] for key in known)]
    found = MappedIndex(index).numbers(asked).numpy()
    assert found.tolist() == [expected.get(key, -1) for key in asked]


@pytest.fixture(scope="module")
def arrays_of_nine():
    ring = np.arange(N, dtype=np.int32)
    from tfserving_ext.index import Layer

    layers = [Layer(np.arange(N + 1), np.roll(ring, 1))]
    embeddings = np.random.default_rng(1).normal(size=[N, 3]).astype(np.float32)
    return {"entry_points": ring[:1], "layers": layers, "item_embeddings": embeddings}


def test_many_keys_take_few_bytes_beyond_their_own():
    keys = np.array([f"product-{place * 7919:012d}" for place in range(200_000)])
    made = store_keys(KeyedIds(np.arange(len(keys)), keys, len(keys)))
    assert len(made.content) - 20 * len(keys) <= 12 * len(keys)


def test_the_hash_of_every_length_uses_every_byte():
    for length in range(1, 20):
        plain = b"a" * length
        texts = [plain, *(plain[:at] + b"b" + plain[at + 1 :] for at in range(length)), plain + b"\0"]
        hashes = hashes_of(np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts]), seed=0)
        assert len(set(hashes.tolist())) == len(texts)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["a", "b", "a"], "item id 'a' appears twice, as id 0 and as id 2"),
        (["a", "", "b"], "item id 1 has 0 bytes, allowed are 1 to 65535; an empty one stands for no item"),
        (["a", "b" * (MAX_KEY_BYTES + 1)], "item id 1 has 65536 bytes"),
        (["a", "\ud800"], "which is not UTF-8"),
        ([b"a", b"\xff"], "which is not UTF-8"),
        (["a", 7], "item id 1 is 7, a int; ids are all strings, or all integers"),
        (["a", None], "item id 1 is None, a NoneType"),
    ],
)
def test_what_cannot_be_a_key_is_refused(tmp_path, keys, words):
    embeddings = np.random.default_rng(0).normal(size=[len(keys), 4]).astype(np.float32)
    with pytest.raises(NannError, match=words):
        build_index(np.array(keys, object), embeddings, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["U", "S", "O", "series"])
def test_build_index_takes_strings_of_any_kind(tmp_path, kind):
    keys = [f"id{place}" for place in range(20)]
    ids = pl.Series(keys).to_numpy() if kind == "series" else np.array(keys, kind)
    embeddings = np.random.default_rng(0).normal(size=[20, 4]).astype(np.float32)
    table = pl.DataFrame({"item_id": ["id3", "unknown", "id0"], "price": [3.0, 9.0, 1.0]})
    made = build_index(ids, embeddings, tmp_path / "index", Hnsw(threads=1), attributes=table)
    assert made.ids().tolist() == keys and made.item_ids.tolist() == list(range(20))
    assert MappedIndex(made).passing("price > 2").numpy().tolist() == [3]
    assert made.manifest["attributes"]["unknown_ids"] == 1 and made.manifest["attributes"]["items_without"] == 18
    with pytest.raises(NannError, match="ids of attributes are Int64 with 0 nulls, they must be strings without"):
        build_index(ids, embeddings, tmp_path / "other", attributes=table.with_columns(item_id=pl.Series([1, 2, 3])))


def test_a_table_gives_numbers_their_keys(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
    numbers, keys = np.array([1, 2, 3, 4, 5]), np.array(["a", "b", "c", "d", "e"])
    ids = KeyedIds.of_table(np.array([4, 1, 2]), numbers, keys)
    for item_ids in (["d", "b"], [4, 2]):
        table = pl.DataFrame({"item_id": item_ids, "price": [4.0, 2.0]})
        made = build_index(ids, embeddings, tmp_path / "index", Hnsw(threads=1), attributes=table)
        assert MappedIndex(made).passing("price > 0").numpy().tolist() == [0, 2]
    assert made.ids().tolist() == ["d", "a", "b"] and made.item_ids.tolist() == [4, 1, 2]
    assert MappedIndex(made).numbers(["e", "c", "a", "f"]).numpy().tolist() == [5, 3, 1, -1]
    with pytest.raises(NannError, match="no key for item 9, and for 1 others of 3 items"):
        KeyedIds.of_table(np.array([9, 1, 7]), numbers, keys)
    with pytest.raises(NannError, match="item id 1 appears 2 times"):
        KeyedIds.of_table(np.array([1]), np.array([1, 1]), keys[:2])


# Of the 11 keys of `keyed`: the head, numbers at byte 64, blocks at 128, ends at 192, starts at 256, order and tags.
@pytest.mark.parametrize(
    ("dtype", "at", "value", "words"),
    [
        ("<i8", 0, 7, "does not begin as a file of keys of 9 items"),
        ("<i8", 1, N + 1, "does not begin as a file of keys of 9 items"),
        ("<i8", 2, 8, "does not begin as a file of keys"),
        ("<i8", 2, 300, "its beginning says"),
        ("<i8", 3, 10**6, "its beginning says"),
        ("<i8", 3, -1, "does not begin as a file of keys"),
        ("<i8", 4, 3, "its hash says bucket"),
        ("<i8", 5, 40, "does not begin as a file of keys"),
        ("<i8", 16, 1, "the block of key 0 begins at byte 1"),
        ("<u4", 48 + 2, 3, "key 2 is from byte 6 to 3"),
        ("<u4", 48 + 3, 2**31, "key 3 is from byte 8 to 2147483648"),
        ("<u4", 48 + 10, 330, "the keys end at byte 330 of 331"),
        ("<u4", 64, 1, "the buckets are from 1 to 11"),
        ("<u4", 64 + 1, 12, "bucket 0 is from 0 to 12|bucket 1 is from 12"),
        ("<u4", 80, 11, "holds key 11 of 11"),
        ("u1", 4 * 96, 0, "its hash says bucket"),
    ],
)
def test_damaged_files_are_refused(keyed, dtype, at, value, words):
    poke(keyed, "item_keys.bin", dtype, at, value)
    with pytest.raises((NannError, tf.errors.InvalidArgumentError), match=words):
        MappedIndex(Index.open(keyed.folder))


def test_an_entry_twice_is_refused(keyed):
    order = np.fromfile(keyed.folder / "item_keys.bin", "<u4")[80 : 80 + 11]
    starts = np.fromfile(keyed.folder / "item_keys.bin", "<u4")[64 : 64 + 5]
    at = next(int(starts[b]) for b in range(4) if starts[b + 1] - starts[b] > 1)
    poke(keyed, "item_keys.bin", "<u4", 80 + at + 1, order[at])
    tags = np.fromfile(keyed.folder / "item_keys.bin", np.uint8)
    poke(keyed, "item_keys.bin", np.uint8, 4 * 96 + at + 1, tags[4 * 96 + at])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"keys {order[at]} and {order[at]} are equal"):
        MappedIndex(Index.open(keyed.folder))


def test_a_manifest_that_does_not_fit_is_refused(keyed):
    shorter = {**keyed.manifest["files"], "item_keys.bin": {"shape": ["many"]}}
    edit_manifest(keyed, files=shorter)
    with pytest.raises(NannError, match=r"the shape of item_keys\.bin is"):
        Index.open(keyed.folder)
