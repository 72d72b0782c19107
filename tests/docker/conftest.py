import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clean_root: builds an image below a root of its own; needs root on Linux")
