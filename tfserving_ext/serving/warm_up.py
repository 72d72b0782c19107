"""Warm-up records: requests stored in a SavedModel, which are run before it takes traffic."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfserving_ext.errors import NannError

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TensorFlow Serving's own limit.


def read_warm_up(folder: Path) -> list[prediction_log_pb2.PredictionLog]:
    """Reads the warm-up records of the SavedModel in `folder`; returns an empty list if it has none.

    Raises:
      NannError: the file is damaged or has more records than TensorFlow Serving accepts.
    """
    path = folder / FILE
    if not path.exists():
        return []
    logs: list[prediction_log_pb2.PredictionLog] = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).take(MAX_RECORDS + 1).as_numpy_iterator():
            logs.append(prediction_log_pb2.PredictionLog.FromString(record))
    except (tf.errors.OpError, DecodeError) as error:
        raise NannError(f"{path}, record {len(logs)} is damaged: {str(error).splitlines()[0]}") from error
    if len(logs) > MAX_RECORDS:
        raise NannError(f"{path} has more than {MAX_RECORDS} records, which TensorFlow Serving refuses")
    return logs


def predict_requests(folder: Path) -> list[predict_pb2.PredictRequest]:
    """Returns the Predict requests among the warm-up records; the errors are those of `read_warm_up`."""
    return [log.predict_log.request for log in read_warm_up(folder) if log.WhichOneof("log_type") == "predict_log"]
