"""The steps of docs/bring_your_model.md, as they are written."""

import json
import os
import re
import subprocess
import sys
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from examples.rankers import shop
from tests.docs.pages import ROOT, SHELL, block_commands, blocks
from tests.docs.running import bounded, with_ports
from tfserving_ext import LocalServer, cli
from tfserving_ext.serving import ServerOptions

USER = ("country", "hour", "history")
PAGE = "docs/bring_your_model.md"
ASKING = ("smoke", "bench")  # Commands that ask a running server.


def _run(words):
    ran = CliRunner().invoke(cli.app, words)
    assert ran.exit_code == 0, (words, ran.output, ran.exception)


@pytest.mark.slow
def test_the_steps_lead_to_an_answered_request(tmp_path, monkeypatch):
    """The request of the page is answered as the original model ranks."""
    monkeypatch.chdir(tmp_path)
    (make,) = re.findall(r"`python (-m examples\.rankers\.shop \w+)`", (ROOT / PAGE).read_text())
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *make.split()], check=True, env=path, timeout=300)
    shown = [each for each in blocks() if (each.page, each.language) == (PAGE, SHELL)]
    commands = [command.words for block in shown for command in block_commands(block)]
    for words in commands:
        if words[1] not in ("serve", *ASKING):
            _run(list(words[1:]))
    assert "nann serve models/ranker --name ranker\n" in (ROOT / PAGE).read_text()
    (request,) = re.findall(r"-d '(.*?)'", (ROOT / PAGE).read_text(), re.DOTALL)
    with LocalServer({"ranker": "models/ranker"}, ServerOptions(grpc_port=0, rest_port=0)) as server:
        asking = [words for words in commands if words[1] in ASKING]
        assert {words[1] for words in asking} == set(ASKING)
        for words in asking:
            _run(with_ports(bounded(words), server.grpc_port, server.rest_port))
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/ranker:predict"
        with urllib.request.urlopen(urllib.request.Request(url, request.encode(), method="POST"), timeout=60) as reply:
            answer = json.load(reply)
    inputs, table = json.loads(request)["inputs"], shop.items()
    rows = {key: np.repeat(np.array(value), table.height, axis=0) for key, value in inputs.items() if key in USER}
    rows |= {key: table[key].to_numpy() for key in ("item_id", "category", "brand", "price")}
    model = keras.saving.load_model("ranker.keras")
    rows = {key: tf.constant(value.astype(object) if value.dtype.kind == "U" else value) for key, value in rows.items()}
    found = model.predict(rows, verbose=0, batch_size=table.height).reshape(-1)
    best = table["item_id"].to_numpy()[np.argsort(-found, kind="stable")]
    given = answer["outputs"]["item_ids"][0]
    assert len(np.intersect1d(best[: len(given)], given)) >= 0.99 * len(given)
