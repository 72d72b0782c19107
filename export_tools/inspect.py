"""Shows what is inside an exported model, without loading it."""

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.graphs.chosen import chosen_line
from export_tools.graphs.explanation import one_line
from export_tools.graphs.scorers import read_meta_graph
from export_tools.manifest import FILE, read_manifest
from tfserving_ext.index.attribute_file import attribute_facts
from tfserving_ext.index.reach import graph_facts
from tfserving_ext.serving.known_values import ENTRY as KNOWN_VALUES
from tfserving_ext.serving.warm_up import read_warm_up


def inspect(saved_model: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a SavedModel without running anything in it, so that a model from an untrusted source can be inspected.

    Example:
      >>> nann.inspect("models/nann/1")["signatures"]["serving_default"]["outputs"]
      {'top_k': 'int64 [1, ?]'}

    Returns:
      A dict with `bytes`, the sizes of the graph, variables, assets and the whole folder; `signatures`, the inputs of
      each with dtype, shape and default, and its outputs; `functions` and `nodes`, how many there are; `ops`, the names
      of ops used that do not come with TensorFlow; `warm_up_records`, how many there are; and, if `nann export` wrote
      the model, its `manifest`.

    Raises:
      NannError: the folder is not a SavedModel, or it is damaged.
    """
    folder = Path(saved_model)
    graph = read_meta_graph(folder)
    sizes = {part: _bytes(folder / part) for part in ("saved_model.pb", "variables", "assets", "assets.extra")}
    nodes = list(graph.graph_def.node)
    for function in graph.graph_def.library.function:
        nodes += function.node_def
    found: dict[str, Any] = {
        "bytes": {**sizes, "all": _bytes(folder)},
        "signatures": {
            name: _signature(signature)
            for name, signature in sorted(graph.signature_def.items())
            if name != "__saved_model_init_op"
        },
        "functions": len(graph.graph_def.library.function),
        "nodes": len(nodes),
        "ops": sorted({node.op for node in nodes if ">" in node.op}),
        "warm_up_records": len(read_warm_up(folder)),
    }
    if (folder / FILE).exists():
        found["manifest"] = read_manifest(folder)
    return found


def _signature(signature: Any) -> dict[str, Any]:
    def shown(info: Any) -> str:
        dtype = tf.dtypes.as_dtype(info.dtype).name
        if info.tensor_shape.unknown_rank:
            return f"{dtype} of any shape"
        return f"{dtype} [{', '.join('?' if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)}]"

    inputs = {}
    for name, info in sorted(signature.inputs.items()):
        inputs[name] = {"type": shown(info)}
        if name in signature.defaults:
            inputs[name]["default"] = _plain(tf.make_ndarray(signature.defaults[name]).tolist())
    return {"inputs": inputs, "outputs": {name: shown(info) for name, info in sorted(signature.outputs.items())}}


def _plain(value: Any) -> Any:
    """Returns a default in a form that JSON can hold, with text in place of bytes."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _known(entry: dict[str, Any] | None) -> str:
    """Returns in words which values the model knows for an input."""
    if entry is None:
        return ""
    if "below" in entry:
        return f", known are 0 to {entry['below'] - 1:,}"
    shown = ", ".join(map(str, entry["values"][:4]))
    return f", known are {shown}" + (f", ... ({entry['count']:,} values)" if entry["count"] > 4 else "")


def summary(found: dict[str, Any]) -> str:
    """Returns what `inspect` found as text for the terminal."""
    sizes = found["bytes"]
    lines = ["size       " + ", ".join(f"{part} {_size(count)}" for part, count in sizes.items())]
    lines.append(
        f"graph      {found['functions']} functions, {found['nodes']:,} nodes, ops {', '.join(found['ops']) or '-'}"
    )
    lines.append(f"warm-up    {found['warm_up_records']} records")
    known = found.get("manifest", {}).get(KNOWN_VALUES, {})
    for name, signature in found["signatures"].items():
        lines.append(f"signature  {name}")
        for key, entry in signature["inputs"].items():
            default = f" = {entry['default']}" if "default" in entry else ""
            lines.append(f"             in   {key} {entry['type']}{default}{_known(known.get(key))}")
        lines += [f"             out  {key} {kind}" for key, kind in signature["outputs"].items()]
    if "manifest" not in found:
        return "\n".join([*lines, "manifest   none: this was not written by `nann export`"])
    manifest = found["manifest"]
    index, source, defaults = manifest["index"], manifest["source"], manifest["defaults"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    lines += [
        f"versions   {versions}",
        f"model      {source['kind']}: {', '.join(sorted(source['files'])) or source['description']}",
        f"index      {index['num_items']:,} items, width {index['dim']}, {index['dtype']}, "
        f"{index['entry_points']:,} entry points, {index['layers']} layers",
        *(f"graph      {line}" for line in graph_facts(index)),
        *(f"index      {line}" for line in attribute_facts(index)),
        f"search     {defaults.get('search', 'best_first').replace('_', '-')}, k {defaults['k']}, "
        + (f"coverage {defaults['coverage']}, " if defaults.get("coverage") else "")
        + ", ".join(
            f"{name.replace('_', '-')} {defaults[name]}"
            for name in ("surrogate", "best_first", "rounds")
            if defaults.get(name) is not None
        ),
    ]
    if objectives := source["description"].get("objectives"):
        lines.append(f"objectives {', '.join(f'{name} ({weight:g})' for name, weight in objectives.items())}")
    if manifest.get("scorer"):
        lines.append(f"passes     {one_line(manifest['scorer'])}")
    if ships := chosen_line(manifest):
        lines.append(f"scorer     {ships}")
    if manifest.get("evaluation"):
        figures = {key: value for key, value in manifest["evaluation"].items() if not isinstance(value, (dict, list))}
        lines.append(f"evaluation {figures}")
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
