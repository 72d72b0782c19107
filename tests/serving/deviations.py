"""The cases in which the local server's answer differs from TensorFlow Serving's, and the reason of each."""

_STICKS = "TensorFlow Serving keeps refusing good configurations after a bad one; here a refused one leaves no trace"
DEVIATIONS = {
    "grpc_predict/method_grpc.health.v1.Health_Check": (
        "the local server always has the health service; TensorFlow Serving only with a flag"
    ),
    "grpc_predict/method_grpc.reflection.v1alpha.ServerReflection_ServerReflectionInfo": (
        "the local server has the reflection service, for tools such as grpcurl"
    ),
    "flags/health_tensorflow.serving.PredictionService": (
        "TensorFlow Serving's health service knows its services only by their short names; here both names are known"
    ),
    "flags/xla_jit_compile_disabled": "XLA compiles whatever a model marks for it; there is no flag that forbids it",
    "grpc_reload_config/good_config_after_unknown_platform": _STICKS,
    "grpc_reload_config/good_config_naming_r": _STICKS,
    "grpc_reload_config/good_config_not_naming_r": _STICKS,
    "grpc_reload_config/good_config_naming_r_again": _STICKS,
    "grpc_reload_config/predict_r": _STICKS,
    "grpc_reload_config/back_to_known": _STICKS,
    "rest_predict/trailing_garbage": "TensorFlow Serving silently ignores what follows the document; here it is refused",
    "rest_predict/two_documents": "TensorFlow Serving silently ignores the second document; here it is refused",
    "rest_predict/string_invalid_utf8": (
        "TensorFlow Serving accepts bytes that are not text and answers with invalid JSON; here they are refused"
    ),
    "rest_predict/nan_inf_short": "Inf is neither JSON nor the usual extension Infinity; TensorFlow Serving accepts it",
}
MESSAGES = {
    "rest_predict/string_lone_surrogate": "the error names the element, not the offset in the text",
    "rest_predict/nan_lower": "the offset is that of the value; RapidJSON gives that of its second letter",
    "rest_predict/float_overflow_1e400": "Python's parser does not report the offset of the number",
}
