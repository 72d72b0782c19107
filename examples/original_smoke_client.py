"""The smoke test of alibaba/nann's README, as its users have it; only the port is ours.

nann serve demo/models/nann
python examples/original_smoke_client.py
"""

import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main(port: int = 8500) -> np.ndarray:
    """Sends 50 behaviours of zeros; returns the top 200 ids."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "nann"
    request.model_spec.signature_name = "serving_default"
    request.inputs["comm_seq"].CopyFrom(tf.make_tensor_proto(np.zeros([1, 3200], np.float16)))
    request.inputs["level_topn"].CopyFrom(
        tf.make_tensor_proto(np.array([100, 200, 200, 200, 200, 200]), dtype=tf.int32)
    )
    response = stub.Predict(request, 10)
    return tf.make_ndarray(response.outputs["top_k"])


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
