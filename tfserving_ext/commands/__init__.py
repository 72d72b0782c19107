"""The subcommands of `nann` that are more than a few lines. TensorFlow is imported when one runs, not before."""
