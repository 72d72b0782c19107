import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "install: builds and installs sdist and wheel, `make test-install`")
