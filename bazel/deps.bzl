"""TensorFlow and Abseil in both worlds: the installed wheel, and TensorFlow Serving's workspace.

A branch of a `select()` that is not taken is never loaded, so neither world needs the other's repositories.
"""

def absl(targets):
    """Dependencies on Abseil; the wheel carries its headers and its code.

    Args:
      targets: labels below `@com_google_absl//absl/`, such as "status:statusor".

    Returns:
      A select() for `deps`.
    """
    return select({
        "//:wheel": ["@tensorflow_wheel//:absl"],
        "//conditions:default": ["@com_google_absl//absl/" + target for target in targets],
    })

def tensorflow():
    """Dependencies on what ops and kernels are made of.

    Returns:
      A select() for `deps`.
    """
    return select({
        "//:wheel": ["@tensorflow_wheel//:tensorflow"],
        "//conditions:default": [
            "@org_tensorflow//tensorflow/core:framework",
            "@org_tensorflow//tensorflow/core:lib",
        ],
    })

def grappler():
    """Dependencies on what graph passes are made of, beside `tensorflow()`.

    Returns:
      A select() for `deps`.
    """
    return select({
        "//:wheel": [],
        "//conditions:default": [
            "@org_tensorflow//tensorflow/core:core_cpu",
            "@org_tensorflow//tensorflow/core/grappler:grappler_item",
            "@org_tensorflow//tensorflow/core/grappler/costs:graph_properties",
            "@org_tensorflow//tensorflow/core/grappler/optimizers:custom_graph_optimizer",
            "@org_tensorflow//tensorflow/core/grappler/optimizers:custom_graph_optimizer_registry",
        ],
    })
