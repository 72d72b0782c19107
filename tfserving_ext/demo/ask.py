"""The end of the demo: serves the exported model and requests recommendations for one household by every API."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome

SHOWN = 10


def serve_and_ask(sequences: Any, purchases: Path, saved_model: Path, keep_serving: bool) -> None:
    """Starts the local server and sends it the history of one test household, by gRPC and by REST.

    Args:
      sequences: the demo's converted data, `Sequences`.
      purchases: the folder with the products' names, items.csv.
      saved_model: the exported model, in a folder of versions.
      keep_serving: whether to keep the server running until Ctrl-C.

    Raises:
      NannError: the server does not answer, or the answers by gRPC, by REST and in process differ.
    """
    from tfserving_ext.data.catalogue import Catalogue
    from tfserving_ext.retrieval import BestFirst
    from tfserving_ext.serving.client import Client, RestClient
    from tfserving_ext.serving.server import LocalServer

    names = Catalogue.open(purchases / "items.csv")
    case = sequences.cases("test", positions_per_user=1)
    history = sequences.ids_of(case.histories[0])
    history = history[history >= 0]
    with LocalServer({"nann": saved_model.parent}) as server:
        outcome("serve", f"gRPC 127.0.0.1:{server.grpc_port}, REST http://127.0.0.1:{server.rest_port}/v1/models/nann")
        # REST requires every input of the signature; an empty one counts as not given.
        inputs = {
            "item_history": history[None, :],
            "category_history": np.zeros([1, 0], np.int64),
            "k": np.int32(SHOWN),
            "frontier": np.int32(BestFirst.frontier),
            "pool": np.int32(BestFirst.pool),
            "max_steps": np.int32(BestFirst.max_steps),
            "exclude": np.zeros([1, 0], np.int64),
            "budget": np.int64(0),
            "deadline_ms": np.int32(0),
        }
        with Client(f"127.0.0.1:{server.grpc_port}", "nann") as grpc_client:
            by_grpc = grpc_client.predict("retrieve", inputs)
        by_rest = RestClient(f"http://127.0.0.1:{server.rest_port}", "nann").predict("retrieve", inputs)
        in_process = _in_process(saved_model, inputs)
        answers = {"gRPC": by_grpc, "REST": by_rest, "in process": in_process}
        for api, answer in answers.items():
            if not np.array_equal(np.asarray(answer["item_ids"]), by_grpc["item_ids"]):
                raise NannError(f"{api} answered {answer['item_ids']}, but gRPC {by_grpc['item_ids']}")
        console.print(f"\nHousehold {case.user_ids[0]}, never seen in training. Its last purchases, oldest first:")
        for item in history[-SHOWN:]:
            console.print(f"    {names.name(int(item))}", markup=False)
        scored = int(np.ravel(by_grpc["items_scored"])[0])
        table = Table(
            title=f"Its top {SHOWN} of {sequences.num_items:,} products, {scored:,} scored", title_justify="left"
        )
        for column in ("product", "id", "score by gRPC", "score by REST"):
            table.add_column(column, justify="left" if column == "product" else "right")
        rows = zip(by_grpc["item_ids"][0], by_grpc["scores"][0], np.asarray(by_rest["scores"])[0], strict=True)
        for item, grpc_score, rest_score in rows:
            table.add_row(names.name(int(item)), str(item), f"{grpc_score:.4f}", f"{rest_score:.4f}")
        console.print(table)
        outcome("ask", f"the same {SHOWN} ids by {', '.join(answers)}")
        if keep_serving:
            console.print("Serving until Ctrl-C.")
            server.wait()


def _in_process(saved_model: Path, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Runs the same request on the SavedModel in this process, without a server."""
    import tensorflow as tf

    import tfserving_ext.ops  # noqa: F401 - registers the ops that the model uses

    loaded = tf.saved_model.load(str(saved_model))
    answer = loaded.signatures["retrieve"](**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy() for key, value in answer.items()}
