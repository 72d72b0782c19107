"""TLS, of the server and of clients."""

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc

from tfserving_ext.errors import NannError


def _no_password() -> bytes:
    """In place of OpenSSL's question at the terminal, which would keep a server waiting.

    Raises:
      NannError: always.
    """
    raise NannError(
        "the TLS key is encrypted; allowed are keys without a password: openssl pkey -in KEY -out PLAIN_KEY"
    )


def server_context(key: bytes, certificate: bytes, authority: bytes | None) -> ssl.SSLContext:
    """What a server shows and asks for: its key and certificate, and clients' certificates by this authority.

    Raises:
      NannError: they are not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with tempfile.TemporaryDirectory() as folder:  # Python reads them from files alone; this folder is ours alone.
            pem = Path(folder) / "server.pem"
            pem.write_bytes(key.rstrip() + b"\n" + certificate)
            context.load_cert_chain(pem, password=_no_password)
        if authority is not None:
            context.load_verify_locations(cadata=authority.decode())
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, ValueError) as error:
        raise NannError(f"the TLS key and certificate are not usable: {error}") from error
    return context


@dataclass(frozen=True)
class ClientTls:
    """How a client knows a server, and shows who it is.

    Attributes:
      ca: PEM file of the authorities whose servers are trusted; those of this machine by default.
      cert: PEM file of the client's certificate, with `key`.
      key: PEM file of the key to it.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC.

        Raises:
          NannError: a file cannot be read, holds no certificates, or a certificate and its key are not both given.
        """
        self.context()  # gRPC says nothing of files that are none.
        ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        """For HTTP; raises as `credentials`."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("key", "certificate") if self.cert is None else ("certificate", "key")
            raise NannError(f"a client's {given} is given without the {missing}; --cert and --key go together")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise NannError(f"{self.ca} cannot be read as certificates of authorities in PEM: {error}") from error
        if self.cert is not None and self.key is not None:
            try:
                context.load_cert_chain(self.cert, self.key, _no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise NannError(f"{self.cert} and {self.key} are no certificate and its key: {error}") from error
        return context
