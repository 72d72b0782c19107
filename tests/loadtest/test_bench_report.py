import re

import pytest
import yaml

from tests.evaluation.pages import Page
from tests.loadtest import results
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.bench_report import configuration, write_report
from tfserving_ext.loadtest.live import milliseconds, notes
from tfserving_ext.loadtest.report_plots import MAX_POINTS, chosen, percentile_plot, timed, timeline
from tfserving_ext.loadtest.scenario import Scenario, make_scenario


@pytest.fixture
def written(tmp_path):
    """A function that writes a page and returns it parsed, its visible text, and its source."""

    def write(result):
        write_report(tmp_path / "report.html", result)
        raw = (tmp_path / "report.html").read_text(encoding="utf-8")
        page = Page(raw)
        page.check_self_contained(raw, told=[result["target"]["address"]])
        return page, " ".join(" ".join(page.text).split()), raw

    return write


def headings(raw):
    return re.findall(r"<h2>(.*?)</h2>", raw)


ALWAYS = ["Levels of load", "Latency", "Over time", "What was measured, and how"]


@pytest.mark.medium
def test_all_sections_where_there_is_everything(written):
    _, _, raw = written(results.full())
    assert headings(raw) == [
        "What to know first", "Levels of load", "The highest rate", "Latency", "Over time", "New versions under load",
        "Where the time goes", "Errors", "By model", "The server", "What was measured, and how",
    ]  # fmt: skip


def test_what_there_is_no_data_for_is_left_out(written):
    page, text, raw = written(results.result(results.level()))
    assert headings(raw) == ALWAYS
    assert page.titles == ["Latency by percentile", "Latency, 100/s", "Requests per second, 100/s"]
    assert "over throughput" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "of_level", "of_result"),
    [
        ("New versions under load", {"swaps": results.swapped()}, {}),
        ("Where the time goes", {}, {"trace": results.trace()}),
        ("The highest rate", {}, {"search": results.search()}),
        ("Errors", {"errors": 2}, {}),
        ("The server", {"process": results.process()}, {}),
        ("The server", {"prometheus": results.prometheus()}, {}),
        ("What to know first", {"stable": False}, {}),
    ],
)
def test_each_section_needs_its_data_alone(written, heading, of_level, of_result):
    _, _, raw = written(results.result(results.level(**of_level), **of_result))
    # Errors also appear in the section "What to know first".
    assert {heading} <= set(headings(raw)) - set(ALWAYS) <= {heading, "What to know first"}


@pytest.mark.medium
def test_the_figures_are_the_results(written):
    result = results.full()
    _, text, _ = written(result)
    for level in result["levels"]:
        for key in ("p50", "p90", "p99", "p99.9", "p99.99", "max"):
            assert milliseconds(level["latency_ms"][key]) in text
        low, high = level["latency_intervals_ms"]["p99"]
        assert f"{milliseconds(low)} to {milliseconds(high)}" in text
        assert f"{level['per_second']:,.1f}" in text
        for second in level["timeline"]:
            assert milliseconds(second["p99_ms"]) in text
        for model in level["models"]:
            assert f"{model['requests']:,} {model['answered']:,} {milliseconds(model['latency_ms']['p50'])}" in text
    last = result["levels"][-1]
    swap, quiet = last["swaps"][0], last["quiet_latency_ms"]
    latencies = [milliseconds(one[key]) for key in ("p50", "p99") for one in (swap["latency_ms"], quiet)]
    assert f"300/s nann 2 3.5 1.75 {' '.join(latencies)} 100" in text
    assert "3 8.5 not before the end" in text
    assert "300/s HTTP 503 240 told to fail" in text
    for name, value in result["trace"]["stages_ms"].items():
        assert f"{name} {value:.3f} {100 * value / result['trace']['total_ms']:.1f} %" in text
    assert "100.0 12.5 kept 200.0 41.25 not kept" in text
    assert "150.0 requests per second is the highest rate that met p99_ms <= 20" in text
    assert "100/s 1.30 1.40 850 864" in text


def test_what_to_know_first(written):
    result = results.full()
    del result["search"]
    result |= {"search": None, "stopped_by": "server lost"}
    _, text, raw = written(result)
    assert all(note in text for note in notes(result))
    assert "The server stopped answering" in text
    assert "ended early: server lost" in text
    p99 = result["levels"][0]["latency_ms"]["p99"]
    assert f"failed: p99_ms > 1 holds at 100/s: p99_ms is {p99:.6g}" in text
    assert "p50_ms > 1000000 holds" not in text
    slow = "the server did not keep up: 280.0 requests per second were answered successfully, of 300.0 that were sent"
    assert f"300/s: {slow}" in text
    assert "100/s: the server did not keep up" not in text
    assert raw.count('<li class="bad">') == 5


def test_words_of_others_stay_words(written):
    hostile = results.HOSTILE
    scenario = Scenario(models=[{"name": hostile, "signature": hostile}, {"name": "other"}], seconds=12)
    level = results.level(
        names=(hostile, "other"), errors=3, example=hostile, code=hostile, prometheus={hostile: 1.0},
    )  # fmt: skip
    result = results.result(level, scenario=scenario, trace=results.trace() | {"model": hostile})
    result["models"][0]["inputs"] = {hostile: hostile}
    page, text, raw = written(result)
    assert "script" not in page.tags
    assert "<script" not in raw
    assert text.count(hostile.replace("\ud800", "?")) >= 8


def test_nothing_answered_has_a_page(written):
    level = results.level(errors=100)
    assert level["answered"] == 0
    _, text, raw = written(results.result(level, results.level(200, errors=200)))
    assert "nothing answered" in text
    assert "Latency by percentile" not in text
    assert "None" not in re.sub(r"<svg.*?</svg>", "", raw, flags=re.DOTALL)


def test_a_run_without_levels_has_a_page(written):
    _, _, raw = written(results.result(stopped_by="interrupted"))
    assert headings(raw) == ["What to know first", "What was measured, and how"]


def test_a_single_second_has_no_intervals(written):
    _, text, _ = written(results.result(results.level(seconds=1)))
    assert " to " not in text.split("Levels of load")[1].split("Grey")[0].split("95 % intervals.")[1]


@pytest.mark.medium
def test_the_curve_is_ordered_by_load_with_the_load_at_its_points(written):
    levels = [results.level(amount, "closed") for amount in (1, 8, 4)]
    _, text, raw = written(results.result(*levels))
    curve = re.search(
        r"<figcaption>Latency over throughput, labelled with the number of clients.*?</figure>", raw, re.DOTALL
    )[0]
    rows = re.findall(r"<tr><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)</td></tr>", curve)
    ordered = sorted(levels, key=lambda level: level["amount"])
    assert rows == [
        (f"{one['per_second']:.1f}", *(milliseconds(one["latency_ms"][key]) for key in ("p50", "p99")))
        for one in ordered
    ]
    assert "at 8 clients" in text


def test_percentiles_are_the_histograms():
    level = results.level(200, seconds=20)
    plot = percentile_plot("name", "title", {"a": level})
    rows = {row[0]: row[1] for row in plot.rows}
    assert rows["90"] == milliseconds(level["latency_ms"]["p90"])
    assert rows["99"] == milliseconds(level["latency_ms"]["p99"])
    assert rows["99.9"] == milliseconds(level["latency_ms"]["p99.9"])
    # 4,000 requests do not determine the percentile 99.99.
    assert max(map(float, rows)) < 99.99


def test_many_levels_are_thinned():
    levels = [results.level(amount, seconds=1) for amount in range(10, 210, 10)]
    shown = [level["amount"] for level in chosen(levels)]
    assert len(shown) == 8
    assert (shown[0], shown[-1]) == (10, 200)
    levels[4]["swaps"] = results.swapped()
    assert [level["amount"] for level in timed(levels, 120)] == [50, 120, 200]
    assert timed(levels[:4]) == levels[:4]


def test_a_long_timeline_is_shown_in_steps():
    level = results.level(seconds=3)
    level["timeline"] = [level["timeline"][n % 3] | {"begin": n + 3.0, "errors": 0} for n in range(1000)]
    level["timeline"][999]["p99_ms"] = 777.0
    latency, rate = timeline(level, 0)
    assert len(latency.rows) == 250 <= MAX_POINTS
    assert latency.columns == ["second, in steps of 4", "p50", "p99, the largest of 4 seconds"]
    assert latency.rows[-1][-1] == "777"
    assert rate.rows[0] == ["0", "100", "100"]


def test_metrics_are_the_largest_changes(written):
    _, text, _ = written(results.result(results.level(prometheus=results.prometheus())))
    assert "_bucket{" not in text
    assert "_created" not in text
    assert "The 40 largest changes" in text
    assert 'request_latency_count{model_name="nann"} 1,234' in text
    assert "metric_21" in text
    assert "metric_20" not in text


def test_the_configuration_measures_the_same_again():
    scenario = Scenario(
        target="http://localhost:8501",
        models=[{"name": "a"}, {"name": "ü", "weight": 2, "inputs": {"x": {"shape": [1, 8], "high": 9}}}],
        rate="100:300:100", seconds=30, swap={"base_path": "models/a", "every": 5}, fail_if=["p99_ms > 20"],
    )  # fmt: skip
    text = configuration(scenario.model_dump(mode="json"))
    assert make_scenario(yaml.safe_load(text)) == scenario
    assert "timeout" not in text


@pytest.mark.medium
def test_the_same_result_gives_the_same_page(written):
    assert written(results.full())[2] == written(results.full())[2]


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(NannError, match="cannot write"):
        write_report(tmp_path / "report.html", results.result())
