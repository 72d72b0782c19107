"""The framing of TFRecord files, without TensorFlow.

https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import struct

import google_crc32c


def frame(record: bytes) -> bytes:
    """Returns a record as it stands in a TFRecord file: its length, the record, and a masked CRC32C of each."""
    length = struct.pack("<Q", len(record))
    return length + _masked_crc(length) + record + _masked_crc(record)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def damage(error: Exception) -> str:
    """Returns what TensorFlow found wrong with a file, for messages."""
    if isinstance(error, UnicodeDecodeError):  # TensorFlow's message quotes bytes of the file, and failed to decode.
        return "a record that is not a tf.train.Example"
    return str(getattr(error, "message", error)).splitlines()[0]
