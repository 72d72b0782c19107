"""Classify, Regress and MultiInference: signatures of serialized tf.Examples; refusals are TensorFlow Serving's."""

from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from tfserving_ext.serving.models import Servable, ServingError, Signature, invalid
from tfserving_ext.serving.predict import Predictor

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def classify(predictor: Predictor, request: classification_pb2.ClassificationRequest) -> Any:
    """The ClassificationResponse of a request.

    Raises:
      ServingError: no such model, a signature that does not classify, or no examples.
    """
    response = classification_pb2.ClassificationResponse()
    with predictor.manager.use(_spec(request)) as (version, servable):
        response.result.CopyFrom(_classify(predictor, servable, request.model_spec.signature_name, request.input))
    _answer_spec(response.model_spec, request.model_spec, version)
    return response


def regress(predictor: Predictor, request: regression_pb2.RegressionRequest) -> Any:
    """The RegressionResponse of a request; raises as `classify`."""
    response = regression_pb2.RegressionResponse()
    with predictor.manager.use(_spec(request)) as (version, servable):
        response.result.CopyFrom(_regress(predictor, servable, request.model_spec.signature_name, request.input))
    _answer_spec(response.model_spec, request.model_spec, version)
    return response


def multi_inference(predictor: Predictor, request: inference_pb2.MultiInferenceRequest) -> Any:
    """The MultiInferenceResponse of a request.

    Raises:
      ServingError: as `classify`; or tasks of several models, a signature twice, or a method that is neither.
    """
    if not request.tasks:
        raise invalid("ModelSpec has no name specified.")
    response = inference_pb2.MultiInferenceResponse()
    first = request.tasks[0]
    with predictor.manager.use(_spec(first)) as (version, servable):
        seen: set[str] = set()
        for task in request.tasks:
            if task.model_spec.name != first.model_spec.name:
                raise invalid(
                    "All ModelSpecs in a MultiInferenceRequest must access the same model name. Expected model: "
                    f"{first.model_spec.name}. Found: {task.model_spec.name}"
                )
            name = task.model_spec.signature_name or "serving_default"
            if name in seen:
                raise invalid(f"Duplicate evaluation of signature: {name}")
            seen.add(name)
            result = response.results.add()
            if task.method_name == CLASSIFY:
                result.classification_result.CopyFrom(_classify(predictor, servable, name, request.input))
            elif task.method_name == REGRESS:
                result.regression_result.CopyFrom(_regress(predictor, servable, name, request.input))
            else:
                message = f"Unsupported signature method_name: {task.method_name}"
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
            _answer_spec(result.model_spec, task.model_spec, version)
    return response


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _answer_spec(answer: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, version: int) -> None:
    answer.name, answer.signature_name = asked.name, asked.signature_name or "serving_default"
    answer.version.value = version


def _signature(predictor: Predictor, servable: Servable, name: str, kind: str, method: str) -> Signature:
    """The signature `name`, checked to be of this kind."""
    name = name or "serving_default"
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    found = signature.proto.method_name
    if predictor.check_methods and found != method:
        raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {found}")
    _check_input(signature, kind)
    return signature


def _check_input(signature: Signature, kind: str) -> None:
    proto = signature.proto
    if len(proto.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if kind == "regression" and len(proto.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if kind == "classification" and len(proto.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(proto.outputs)}")
    if "inputs" not in proto.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {text_format.MessageToString(proto)}")


def _examples(given: input_pb2.Input) -> np.ndarray:
    """The examples, serialized, as an array of bytes [n]; a context's features join every example."""
    kind = given.WhichOneof("kind")
    examples = getattr(given, kind).examples if kind else []
    if not examples:
        raise invalid("Input is empty.")
    found = []
    for example in examples:
        if kind == "example_list_with_context":
            joined = type(example)()
            joined.CopyFrom(given.example_list_with_context.context)
            for name, feature in example.features.feature.items():
                joined.features.feature[name].CopyFrom(feature)
            example = joined
        found.append(example.SerializeToString())
    return np.array(found, object)


def _classify(
    predictor: Predictor, servable: Servable, name: str, given: input_pb2.Input
) -> classification_pb2.ClassificationResult:
    signature = _signature(predictor, servable, name, "classification", CLASSIFY)
    if not {"classes", "scores"} & set(signature.proto.outputs):
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {text_format.MessageToString(signature.proto)}"
        )
    examples = _examples(given)
    outputs = signature.run({"inputs": examples})
    classes, scores = outputs.get("classes"), outputs.get("scores")
    for output in (classes, scores):
        if output is not None and (output.ndim != 2 or len(output) != len(examples)):
            raise invalid(f"Expected output Tensor shape: [batch_size num_classes] but got shape: {list(output.shape)}")
    result = classification_pb2.ClassificationResult()
    for row in range(len(examples)):
        found = result.classifications.add()
        for place in range((classes if classes is not None else scores).shape[1]):  # type: ignore[union-attr]
            entry = found.classes.add()
            if classes is not None:
                entry.label = classes[row, place].decode(errors="replace")
            if scores is not None:
                entry.score = float(scores[row, place])
    return result


def _regress(
    predictor: Predictor, servable: Servable, name: str, given: input_pb2.Input
) -> regression_pb2.RegressionResult:
    signature = _signature(predictor, servable, name, "regression", REGRESS)
    if "outputs" not in signature.proto.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {text_format.MessageToString(signature.proto)}")
    examples = _examples(given)
    values = signature.run({"inputs": examples})["outputs"]
    if values.size != len(examples):
        raise invalid(f"Expected output batch size to be {len(examples)}, Got: {values.size}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel():
        result.regressions.add(value=float(value))
    return result
