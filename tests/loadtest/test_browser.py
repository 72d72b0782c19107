"""Reports in a real browser, with the widths of a desktop window and of a telephone.

The tests need Chromium; `-m "not browser"` leaves them out. They are not skipped automatically, so that they cannot be
missed on a machine that should run them.
"""

import pytest

from tests import browser
from tests.loadtest import results
from tfserving_ext.loadtest.bench_report import write_report

pytestmark = pytest.mark.browser

LEAST_TEXT = 9.0  # CSS pixels.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if reason := browser.missing():
        pytest.fail(f'cannot open a page: {reason}; leave this test out by -m "not browser"')
    with browser.browser(tmp_path_factory.mktemp("profile")) as address:
        yield address


def hostile():
    """Makes a result with long unbreakable words, and with text that looks like markup."""
    level = results.level(
        40, errors=3, example=results.HOSTILE + "x" * 300, code="c" * 60,
        prometheus={"m" * 200: 1e300}, names=("n" * 200, "second"),
    )  # fmt: skip
    scenario = results.Scenario(target="http://" + "h" * 200, models=[{"name": "n" * 200}, {"name": "second"}])
    return results.result(level, scenario=scenario, sha256="a" * 64)


RESULTS = {
    "full": results.full,
    "hostile": hostile,
    "sweep": lambda: results.result(*(results.level(2**n, "closed") for n in range(9))),
    "no levels": lambda: results.result(stopped_by="interrupted"),
}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("made", RESULTS)
def test_the_page_is_readable(chromium, tmp_path, made, width, dark):
    page = tmp_path / "report.html"
    write_report(page, RESULTS[made]())
    seen = browser.look(chromium, page, width, dark)
    assert seen.errors == []
    assert seen.requests == []
    found = seen.found
    assert found["scroll"] <= found["width"], found["outside"]
    assert found["outside"] == []
    assert found["text"] >= LEAST_TEXT
    assert found["background"] == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    assert bool(found["plots"]) == (made != "no levels")
    for plot in found["plots"]:
        assert min(plot["size"]) > 50, plot["title"]
        assert plot["drawn"] == plot["told"] != [], plot["title"]
        assert min(plot["text"]) >= LEAST_TEXT, plot["title"]


def test_the_check_sees_what_is_wrong(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta charset=utf-8><p style='width: 3000px'>wide</p><p style='font-size: 7px'>small</p>"
        "<svg viewBox='0 0 9 9' width=9 height=9><title>empty</title></svg>"
        "<img src='http://127.0.0.1:9/a.png'><script>console.error('told'); undefined.x</script>"
    )
    seen = browser.look(chromium, page, 390)
    assert seen.found["outside"] != []
    assert seen.found["text"] == 7
    assert seen.found["plots"][0]["drawn"] == []
    assert seen.requests == ["http://127.0.0.1:9/a.png"]
    assert any("told" in error for error in seen.errors)
    assert any("TypeError" in error for error in seen.errors)
