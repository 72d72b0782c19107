import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: opens pages in a headless Chromium")
    config.addinivalue_line("markers", "alone: measures milliseconds, so nothing else may run meanwhile")
