"""Classify, Regress and MultiInference: signatures over serialized tf.Examples.

Errors have the same status and text as in TensorFlow Serving.
"""

import grpc
import numpy as np
from google.protobuf import text_format
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from tfserving_ext.serving.inference import ModelInUse
from tfserving_ext.serving.models import ServingError, Signature, invalid

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def classify(model: ModelInUse, name: str, given: input_pb2.Input) -> classification_pb2.ClassificationResult:
    """Classifies examples.

    Args:
      model: the model to run.
      name: the signature's name; "" stands for serving_default.
      given: the examples.

    Returns:
      The classes of each example, with labels, scores or both, in the order of the examples.

    Raises:
      ServingError: the signature is not a classification signature, there are no examples, or the model failed.
    """
    signature = _signature(model, name, "classification", CLASSIFY)
    if not {"classes", "scores"} & set(signature.proto.outputs):
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {text_format.MessageToString(signature.proto)}"
        )
    examples = _examples(given)
    outputs = model.run(signature, {"inputs": examples})
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


def regress(model: ModelInUse, name: str, given: input_pb2.Input) -> regression_pb2.RegressionResult:
    """Computes one value for each example; the arguments and errors are those of `classify`."""
    signature = _signature(model, name, "regression", REGRESS)
    if "outputs" not in signature.proto.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {text_format.MessageToString(signature.proto)}")
    examples = _examples(given)
    values = model.run(signature, {"inputs": examples})["outputs"]
    if values.size != len(examples):
        raise invalid(f"Expected output batch size to be {len(examples)}, Got: {values.size}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel():
        result.regressions.add(value=float(value))
    return result


def multi_inference(
    model: ModelInUse, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Runs several classify and regress tasks on the same examples.

    Args:
      model: the model of the first task; all other tasks must name it too.
      request: the tasks and their examples.

    Returns:
      One result for each task, in the order of the tasks.

    Raises:
      ServingError: a task fails as in `classify`, names another model, repeats a signature, or has a method that is
        neither classify nor regress.
    """
    response = inference_pb2.MultiInferenceResponse()
    seen: set[str] = set()
    for task in request.tasks:
        if task.model_spec.name != model.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name. Expected model: "
                f"{model.name}. Found: {task.model_spec.name}"
            )
        name = task.model_spec.signature_name or "serving_default"
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        result = response.results.add(model_spec=model.spec(name))
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(classify(model, name, request.input))
        elif task.method_name == REGRESS:
            result.regression_result.CopyFrom(regress(model, name, request.input))
        else:
            message = f"Unsupported signature method_name: {task.method_name}"
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
    return response


def _signature(model: ModelInUse, name: str, kind: str, method: str) -> Signature:
    """Returns the signature `name` after checking that it is of this kind."""
    name = name or "serving_default"
    if name not in model.servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = model.servable.signatures[name]
    found = signature.proto.method_name
    if model.models.check_methods and found != method:
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
    """Returns the serialized examples as bytes, [n]; the features of a context are added to every example."""
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
