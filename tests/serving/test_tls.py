"""TLS of the server, by gRPC and by REST, and of its clients."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.serving.test_options import TLS, X, options, read, write_ssl_config
from tfserving_ext import cli
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.run import bench
from tfserving_ext.loadtest.scenario import ModelSpec, make_scenario
from tfserving_ext.serving import Client, LocalServer, RestClient, smoke
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.rest import RestOptions
from tfserving_ext.serving.server import run_forever
from tfserving_ext.serving.text_protos import read_tls
from tfserving_ext.serving.tls import ClientTls, server_context

CA = TLS / "ca.pem"
KNOWN = {"ca": CA, "cert": TLS / "client.pem", "key": TLS / "client.key"}

# Made for this test by openssl genpkey with a password.
ENCRYPTED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgxT0kRGzh7zwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEEinnOSt4aPhAfiyGJFLkh8EgZBr
yym3Xp8CX3oakpM/6VkHxeYn/GE4RSsNW7MxkkBmASOwOcd4lDATyGiojVeKvN1t
I8Hau7Av99r59TYjFFhWPSVvsGuXhBbHxqWStRzre4fl10HDoyhf4z0fA3FA81c7
m1EUyhp3HkVKNics0pj+0ukCMFZ1oztslcEFcffmRqtbKE/iuC43ubmaX3Hzr40=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.fixture(scope="module")
def secure(toy, tmp_path_factory):
    """A server that uses TLS for both gRPC and REST and requires client certificates."""
    path = tmp_path_factory.mktemp("tls") / "ssl.config"
    tls = read_tls(write_ssl_config(path, client_verify=True, custom_ca=read("ca.pem").decode()))
    with LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(tls=tls), rest=RestOptions(tls=tls))) as server:
        yield server


def test_rest_speaks_tls_and_wants_certificates(secure):
    """First contact, line 22."""
    url = f"https://localhost:{secure.rest_port}"
    answer = RestClient(url, "half_plus", tls=ClientTls(**KNOWN)).predict("serving_default", X)
    assert answer["output"].tolist() == [3.0]
    for tls in (ClientTls(CA), ClientTls()):
        with pytest.raises(NannError, match="no server answers"):
            RestClient(url, "half_plus", tls=tls).predict("serving_default", X)
    with pytest.raises(NannError):
        RestClient(url.replace("https", "http"), "half_plus").predict("serving_default", X)


def test_the_smoke_client_speaks_tls(secure):
    """First contact, line 22."""
    target = f"localhost:{secure.grpc_port}"
    assert smoke(target, "half_plus", ClientTls(**KNOWN)) == {"y": [2.5]}
    flags = [word for name, path in KNOWN.items() for word in (f"--{name}", str(path))]
    ran = CliRunner().invoke(cli.app, ["smoke", target, "--name", "half_plus", *flags])
    assert ran.exit_code == 0, ran.exception
    assert "first [2.5]" in ran.output
    for tls in (ClientTls(CA), ClientTls()):
        with (
            pytest.raises(NannError, match=r"no TLS connection to localhost|no server answers"),
            Client(target, "half_plus", 3, tls) as client,
        ):
            client.predict("", X)
    with pytest.raises(NannError, match="give its authority with --ca"), Client(target, "half_plus", 3) as client:
        client.predict("", X)


def test_bench_speaks_tls(secure):
    """First contact, line 22."""
    for target in (f"grpcs://localhost:{secure.grpc_port}", f"https://localhost:{secure.rest_port}"):
        fields = {"target": target, "models": [ModelSpec(name="half_plus")], "warm_up": 0, "seconds": 1, **KNOWN}
        (level,) = bench(make_scenario(fields))["levels"]
        assert level["answered"] == level["requests"] > 0 and not level["errors"]
        unknown = {**fields, "ca": None, "cert": None, "key": None}
        with pytest.raises(NannError, match=r"no TLS connection to|no server answers"):
            bench(make_scenario(unknown))


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (ClientTls(CA, cert=CA), "the client's certificate is given without its key"),
        (ClientTls(CA, key=CA), "the client's key is given without its certificate"),
        (ClientTls(Path("none.pem")), "none.pem cannot be read as the certificates"),
        (ClientTls(Path(__file__)), "cannot be read as the certificates"),
        (ClientTls(CA, CA, CA), "are not a certificate and its key"),
    ],
)
def test_invalid_files_are_reported(tls, words):
    with pytest.raises(NannError, match=words):
        tls.credentials()
    with pytest.raises(NannError, match=words):
        tls.context()


def test_certificates_are_for_targets_with_tls():
    with pytest.raises(NannError, match=r"ca requires TLS, but the target is grpc://h:1; use grpcs:// or https://"):
        make_scenario({"target": "grpc://h:1", "ca": CA})


@pytest.mark.parametrize("rest", [False, True])
def test_the_server_says_that_rest_is_plain_text(toy, tmp_path, monkeypatch, capsys, rest):
    """TLS for gRPC does not apply to REST unless it is requested there too. First contact, line 22."""
    monkeypatch.setattr(LocalServer, "wait", lambda self: None)
    tls = read_tls(write_ssl_config(tmp_path / "ssl.config"))
    given = options(grpc=GrpcOptions(tls=tls), rest=RestOptions(tls=tls if rest else None))
    run_forever({"half_plus": toy}, given)
    said = " ".join(capsys.readouterr().out.split())
    assert ("REST is plain text, as in TensorFlow Serving; --rest-api-tls" in said) != rest
    assert ("REST https://" in said) == rest


def test_an_invalid_rest_key_is_refused(toy):
    with pytest.raises(NannError, match="TLS key and certificate are not usable"):
        LocalServer({"half_plus": toy}, options(rest=RestOptions(tls=(b"x", b"y", None))))


def test_an_encrypted_key_is_refused_and_no_password_asked_for(tmp_path):
    """Otherwise OpenSSL would ask at the terminal, and the server would wait for the answer."""
    key = tmp_path / "key.pem"
    key.write_text(ENCRYPTED_KEY)
    with pytest.raises(NannError, match=r"the TLS key is encrypted, .*openssl pkey"):
        server_context(key.read_bytes(), read("server.pem"), None)
    with pytest.raises(NannError, match="the TLS key is encrypted"):
        ClientTls(CA, TLS / "client.pem", key).credentials()
