"""The local server with TensorFlow Serving's interfaces, and clients for both servers."""

from tfserving_ext.serving.client import Client, RestClient, smoke
from tfserving_ext.serving.server import LocalServer, ServerOptions

__all__ = ["Client", "LocalServer", "RestClient", "ServerOptions", "smoke"]
