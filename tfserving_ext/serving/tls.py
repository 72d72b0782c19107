"""TLS for the server and for clients."""

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc

from tfserving_ext.errors import NannError


def _no_password() -> bytes:
    """Raises NannError; otherwise OpenSSL would ask for the password at the terminal and the server would hang."""
    raise NannError(
        "the TLS key is encrypted, only keys without a password are allowed; decrypt it with openssl pkey -in KEY "
        "-out PLAIN_KEY"
    )


def server_context(key: bytes, certificate: bytes, authority: bytes | None) -> ssl.SSLContext:
    """Creates a server's TLS context.

    Args:
      key: the server's private key, PEM.
      certificate: the server's certificate, PEM.
      authority: the certificate of the authority that must have signed the clients' certificates, PEM; None if clients
        need no certificate.

    Raises:
      NannError: the key and certificates are not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Python reads them only from files; other users cannot read this folder.
        with tempfile.TemporaryDirectory() as folder:
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
    """The certificates with which a client verifies a server and identifies itself.

    Attributes:
      ca: a PEM file with the authorities to trust; None for those of this machine.
      cert: a PEM file with the client's certificate; requires `key`. None for no client certificate.
      key: a PEM file with the private key of `cert`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the credentials for gRPC.

        Raises:
          NannError: a file cannot be read or has no certificates, or only one of `cert` and `key` is given.
        """
        self.context()  # Checks the files; gRPC reports no error for invalid ones.
        ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        """Returns the TLS context for HTTP; the errors are those of `credentials`."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("key", "certificate") if self.cert is None else ("certificate", "key")
            raise NannError(f"the client's {given} is given without its {missing}; give both --cert and --key")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise NannError(f"{self.ca} cannot be read as the certificates of authorities in PEM: {error}") from error
        if self.cert is not None and self.key is not None:
            try:
                context.load_cert_chain(self.cert, self.key, _no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise NannError(f"{self.cert} and {self.key} are not a certificate and its key: {error}") from error
        return context
