import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, LocalServer, RestClient, ServerOptions, rest

FREE_PORTS = ServerOptions(grpc_port=0, rest_port=0)
X = {"x": np.array([2.0], np.float32)}


def ask(server):
    with Client(f"127.0.0.1:{server.grpc_port}", "half_plus") as client:
        by_grpc = client.predict("", X)["y"].tolist()
    by_rest = RestClient(f"http://127.0.0.1:{server.rest_port}", "half_plus").predict("serving_default", X)
    return by_grpc, by_rest["output"].tolist()


def test_two_servers_do_not_share_ports(toy):
    """Without given ports, the first server takes the usual ones, or free ones if they are in use; the second others."""
    with LocalServer({"half_plus": toy}) as first, LocalServer({"half_plus": toy}) as second:
        ports = [first.grpc_port, first.rest_port, second.grpc_port, second.rest_port]
        assert len(set(ports)) == 4
        assert ask(first) == ask(second) == ([3.0], [3.0])


def test_the_log_handlers_of_the_process_are_left_alone(toy):
    """A server started in a notebook must not close the notebook's own log files."""
    closed = []

    class Handler(logging.StreamHandler):
        def close(self):
            closed.append(self)
            super().close()

    handler = Handler(io.StringIO())
    with LocalServer({"half_plus": toy}, FREE_PORTS) as server:
        assert ask(server) == ([3.0], [3.0])
    assert handler not in closed


@pytest.mark.parametrize("which", ["grpc_port", "rest_port"])
def test_a_port_in_use_is_refused_by_number(toy, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NannError, match=rf"127\.0\.0\.1:{port}"):
            LocalServer({"half_plus": toy}, ServerOptions(**{"grpc_port": 0, "rest_port": 0, which: port}))


def test_listens_on_this_machine_alone(toy_server):
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in own:
        for port in (toy_server.server.grpc_port, toy_server.server.rest_port):
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
                pass
    assert toy_server.server.grpc_port != toy_server.server.rest_port


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_listens_on_ipv6(toy):
    with LocalServer({"half_plus": toy}, ServerOptions(host="::1", grpc_port=0, rest_port=0)) as server:
        with Client(f"[::1]:{server.grpc_port}", "half_plus") as client:
            assert client.predict("", X)["y"].tolist() == [3.0]
        by_rest = RestClient(f"http://[::1]:{server.rest_port}", "half_plus").predict("serving_default", X)
        assert by_rest["output"].tolist() == [3.0]


def test_stops_although_a_client_never_ends_its_request(toy, monkeypatch):
    monkeypatch.setattr(rest, "GRACE_SECONDS", 1)
    server = LocalServer({"half_plus": toy}, FREE_PORTS)
    with socket.create_connection(("127.0.0.1", server.rest_port)) as client:
        # The interim answer shows that the request has begun.
        head = (
            "POST /v1/models/half_plus:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        )
        client.sendall(head.encode())
        assert b"100 Continue" in client.recv(100)
        server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_wait_is_not_lost(toy, number):
    before = signal.getsignal(number)
    with LocalServer({"half_plus": toy}, FREE_PORTS) as server, server.catching_signals():
        signal.raise_signal(number)
        server.wait()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_have_a_range(toy, port):
    with pytest.raises(NannError, match=f"grpc_port is {port}, allowed are 0 to 65535"):
        LocalServer({"half_plus": toy}, ServerOptions(grpc_port=port))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda base: None, "is not a folder"),
        (lambda base: base.write_text("x"), "is not a folder"),
        (lambda base: base.mkdir(), "holds no version"),
        (lambda base: (base / "99999999999999999999").mkdir(parents=True), "holds no version"),
        (lambda base: (base / str(1 << 63)).mkdir(parents=True), "holds no version"),
        (lambda base: (base / "1").mkdir(parents=True), "does not appear to contain a SavedModel"),
        (lambda base: ((base / "1").mkdir(parents=True), (base / "1" / "saved_model.pb").write_bytes(b"\xff")), "Can't parse"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_model(tmp_path, make, words):
    base = tmp_path / "base"
    make(base)
    with pytest.raises(NannError, match=words) as refused:
        LocalServer({"half_plus": base}, FREE_PORTS)
    assert str(base) in str(refused.value)


def test_a_model_without_its_variables_is_refused(toy, world, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(world.saved_model, base / "1")
    shutil.rmtree(base / "1" / "variables")
    with pytest.raises(NannError, match="did not become available"):
        LocalServer({"nann": base}, FREE_PORTS)


def test_nann_serve_answers_and_stops_at_sigterm(toy):
    command = [Path(sys.executable).with_name("nann"), "serve", toy, "--name", "half_plus"]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*map(str, command), "--port", "0", "--rest-api-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            line = process.stdout.readline()
            ports = re.search(r"version 10: gRPC 127\.0\.0\.1:(\d+), REST http://127\.0\.0\.1:(\d+)/", line)
            assert ports, line
            assert "TensorFlow Serving" in process.stdout.readline()
            with Client(f"127.0.0.1:{ports[1]}", "half_plus") as client:
                assert client.predict("", X)["y"].tolist() == [3.0]
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


_SIGNALLED_ELSEWHERE = """
import signal, sys, threading, time
from tfserving_ext.serving import LocalServer, ServerOptions

def signal_own_thread():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

with LocalServer({"half_plus": sys.argv[1]}, ServerOptions(grpc_port=0, rest_port=0)) as server, server.catching_signals():
    threading.Thread(target=signal_own_thread).start()
    server.wait()
"""


def test_a_signal_that_does_not_wake_the_main_thread_ends_the_server(toy):
    """Such as a signal between the last instruction before `wait` blocks and the blocking call itself."""
    ended = subprocess.run([sys.executable, "-c", _SIGNALLED_ELSEWHERE, toy], check=False, timeout=120)
    assert ended.returncode == 0
