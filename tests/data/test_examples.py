import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.data.examples import encode_histories
from tfserving_ext.data.tfrecord import frame

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300) | st.sampled_from([2**k for k in range(0, 63, 7)])
HISTORIES = st.lists(st.tuples(NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=9)), max_size=5)


@given(HISTORIES)
def test_records_are_those_of_protobuf(histories):
    flat = np.array([pair for _, history in histories for pair in history], np.int64).reshape(-1, 2)
    records = encode_histories(
        np.array([user for user, _ in histories], np.int64),
        np.array([len(history) for _, history in histories], np.int64),
        flat[:, 0],
        flat[:, 1],
    )
    wanted = []
    for user, history in histories:
        example = tf.train.Example()
        feature = example.features.feature
        feature["user_id"].int64_list.value.append(user)
        feature["item_ids"].int64_list.value.extend(item for item, _ in history)
        feature["times"].int64_list.value.extend(time for _, time in history)
        feature["item_ids"].int64_list.SetInParent()
        feature["times"].int64_list.SetInParent()
        wanted.append(example.SerializeToString(deterministic=True))
    assert list(records) == wanted


def test_long_histories_have_long_lengths():
    items = np.arange(30_000)
    (record,) = encode_histories(np.array([7]), np.array([items.size]), items, items)
    feature = tf.train.Example.FromString(record).features.feature
    assert feature["times"].int64_list.value == items.tolist()


def test_framed_records_are_a_file_of_tensorflow(tmp_path):
    records = [b"", b"a", bytes(range(256)) * 1000]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert b"".join(map(frame, records)) == (tmp_path / "theirs").read_bytes()
