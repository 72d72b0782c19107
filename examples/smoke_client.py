"""Asks a server for one user's top items, by gRPC; the server is `nann serve` or TensorFlow Serving.

nann serve demo/models/nann
python examples/smoke_client.py 127.0.0.1:8500 1082185 1029743
"""

import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def ask(target: str, history: list[int], k: int) -> np.ndarray:
    """The ids of the top k items, int64 [1, k], for a user whose last items were `history`, oldest first."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "nann"
    request.model_spec.signature_name = "retrieve"
    request.inputs["item_history"].CopyFrom(tf.make_tensor_proto([history], tf.int64))
    request.inputs["k"].CopyFrom(tf.make_tensor_proto(k, tf.int32))  # What is left out has a default.
    with grpc.insecure_channel(target) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, 10)
    return tf.make_ndarray(response.outputs["item_ids"])


if __name__ == "__main__":
    print(ask(sys.argv[1], [int(item) for item in sys.argv[2:]], 10))
