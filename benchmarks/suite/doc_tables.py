"""The tables that `doc_figures` puts into pages."""

from collections.abc import Mapping
from typing import Any

from benchmarks.search.report import TITLES
from benchmarks.suite.page_tables import table
from tfserving_ext.evaluation.evaluation_report import title_of

Found = Mapping[str, Any]


def race_of_both(found: Found) -> str:
    """Returns the table of searches at equal coverage, on one thread and on two."""
    neural, both = found["neural"], found["neural_2_threads"]
    ours = neural["race"]["surrogate"]["ms_per_query"]
    rows = []
    for name, one in neural["race"].items():
        ms, two = one["ms_per_query"], both["race"][name]["ms_per_query"]
        setting = f"`{one['setting']}`"
        rows.append([TITLES[name], setting, f"{one['coverage']:.4f}", f"{ms:.2f}", f"{ms / ours:.1f}", f"{two:.2f}"])
    head = ["search", "setting", "coverage@200", "ms per query", "times ours", "ms, two threads"]
    plain, tuned = (neural["race"][name]["ms_per_query"] / ours for name in ("usearch", "usearch_tuned"))
    return (
        f"{table(head, rows)}\nThe surrogate search spends {100 * neural['overhead_share']:.1f} % of its time outside "
        f"the model. usearch with a metric in plain loops, as its\ndocumentation shows, takes {plain:.1f} times as "
        f"long as ours; with a metric that we tuned by hand for this model, {tuned:.1f} times."
    )


def builds(found: Found) -> str:
    """Returns the table of coverage over graphs built with several seeds."""
    graphs = found["neural"]["builds"]
    rows: dict[str, list[str]] = {"coverage@200, mean (lowest)": [], "items scored": []}
    for name in ("surrogate", "best_first", "rounds"):
        covered = [graph[name]["coverage"] for graph in graphs]
        scored = [graph[name]["items_scored"] for graph in graphs]
        rows["coverage@200, mean (lowest)"].append(f"{_mean(covered):.4f} ({min(covered):.4f})")
        rows["items scored"].append(f"{_mean(scored):,.0f}")
    head = ["", "surrogate", "best-first", "the paper's rounds"]
    return table(head, [[name, *row] for name, row in rows.items()])


def rerank(found: Found) -> str:
    """Returns the table of the two-sided model's candidates, reranked."""
    neural = found["neural"]
    default = neural["settings"]["surrogate"][0]
    rows = [
        [f"{one['setting']:,}", f"{one['coverage']:.4f}", f"{one['recall']:.4f}", f"{one['ms_per_query']:.2f}"]
        for one in neural["settings"]["rerank"]
    ]
    model = neural["model"]
    return (
        f"The surrogate search takes {default['ms_per_query']:.2f} ms and has a recall@200 of {default['recall']:.4f} "
        f"({default['cases']:,} cases, the same as below).\n\n"
        + table(["n", "coverage@200", "recall@200", "ms"], rows)
        + f"\nBy itself, with every item scored, the neural model has a recall@200 of {model['recall_all']:.4f}, the "
        f"two-sided one {model['two_sided_recall_all']:.4f}."
    )


def large(found: Found) -> str:
    """Returns the results on more than a million items."""
    part = found["large"]
    exact, mapped = part["brute_force_xla"], part["map"]
    rows = [
        [
            TITLES[name.removesuffix("_high")],
            f"`{one['setting']}`",
            f"{one['coverage']:.4f}",
            f"{one['items_scored']:,.0f}",
            f"{one['ms_per_query']:.2f}",
        ]
        for name, one in part.items()
        if name.removesuffix("_high") in ("surrogate", "best_first")
    ]
    ours = part["surrogate"]["ms_per_query"]
    return (
        f"{part['items']:,} items; the fastest setting that covers at least 0.98, and at least 0.99.\n\n"
        + table(["search", "setting", f"coverage@{part['k']}", "items scored", "ms per query"], rows)
        + f"\nBrute force takes {exact['ms_per_query']:,.0f} ms, {exact['ms_per_query'] / ours:,.0f} times as much. "
        "The op "
        f"opens the index, whose files have {mapped['file_mb']:,.0f} MB, in {mapped['seconds']:.2f} s with every\nedge "
        f"checked, and uses {mapped['anonymous_mb']:.1f} MB of memory besides the mapped files."
    )


def walk(found: Found) -> str:
    """Returns the table of the walk by itself, under the dot product."""
    part = found["metrics"]
    rows = [
        [name, one["breadth"], f"{one['recall']:.4f}", f"{one['queries_per_second']:,.0f}"]
        for name, one in part["engines"].items()
    ]
    head = ["engine", "breadth", f"recall@{part['k']}", "queries per second"]
    return (
        f"{table(head, rows)}\nWhen the engines take turns, ours answers {part['dot_qps_vs_faiss']:.2f} times as many "
        f"queries per second as Faiss and {part['dot_qps_vs_hnswlib']:.2f} times as\nmany as hnswlib (medians of the "
        "turns' ratios)."
    )


def scorer_in_search(found: Found) -> str:
    """Returns the table of the whole search with the scorer before and after the passes."""
    rows = []
    for name, one in found["search"].items():
        cells = [
            f"{one[key]:{form}}" for key, form in (("ms_per_query", ".2f"), ("speedup", ".2f"), ("coverage", ".4f"))
        ]
        rows.append([name, *cells, f"{100 * one['same_answers']:.1f} %"])
    return table(["scorer", "ms per query", "speed-up", "coverage@200", "same answers"], rows)


def server(found: Found) -> str:
    """Returns the results of the local server compared with the model in process, and of swaps under load."""
    summary, swaps = found["summary"], found["swaps"]
    left = swaps["memory_end_mb"]["assets"] / swaps["memory_quiet_mb"]["assets"]
    return (
        f"- **Compared with the model in process**, {found['clients']} clients and as many threads, in turns, the best "
        f"of {len(found['rounds'])} each: {summary['server_per_second']:.0f} requests\n  a second by gRPC and "
        f"{summary['in_process_per_second']:.0f} in process, a ratio of {summary['server_efficiency']:.2f}.\n"
        f"- **Swaps under load**: {swaps['versions']} versions were put in place, one of them broken. Of "
        f"{swaps['requests']:,} requests, {swaps['failed']:,} failed and {swaps['wrong']:,} got\n  an answer that was "
        f"not their version's. p99 was {swaps['p99_quiet_ms']:.0f} ms in quiet time and {swaps['p99_swap_ms']:.0f} ms "
        f"around swaps, {swaps['p99_swap_to_quiet']:.2f} times as much.\n  While two versions overlapped, up to "
        f"{summary['swap_assets_most_to_quiet']:.2f} times as much of the index files was resident as in quiet time; "
        f"at the end,\n  {left:.2f} times as much."
    )


def conversion(found: Found) -> str:
    """Returns the table of `nann convert` compared with a conversion row by row."""
    head = ["rows", "seconds", "rows a second", "peak memory, bound", "row by row, rows a second", "times as fast"]
    row = [
        f"{found['rows']:,}",
        f"{found['seconds']:.1f}",
        f"{found['rows_per_second']:,.0f}",
        f"{found['peak_memory_gb']:.2f} GB, {found['memory_bound_gb']:g} GB",
        f"{found['rowwise']['rows_per_second']:,.0f}",
        f"{found['speedup_vs_rowwise']:.0f}",
    ]
    return table(head, [row])


def scale(found: Found) -> str:
    """Returns the table of every stage on a corpus of UserBehavior's size."""
    rows = [[name, f"{one['seconds']:.0f}", f"{one['peak_gb']:.2f}"] for name, one in found["stages"].items()]
    counts = found["counts"]
    return (
        f"{counts['rows_read']:,} rows, {counts['items']:,} items, `--memory {found['memory_bound_gb']:g}`, "
        f"{found['cores']} cores.\n\n" + table(["stage", "seconds", "peak memory, GB"], rows)
    )


def settings(found: Found) -> str:
    """Returns the table of coverage and cost of the settings of both searches."""
    neural = found["neural"]
    rows = []
    for one in neural["settings"]["surrogate"]:
        batch, expected = one["setting"]
        usual = ", the default" if one is neural["settings"]["surrogate"][0] else ""
        rows.append([f"surrogate, batch {batch}, expected_coverage {expected}{usual}", *_cost(one)])
    for frontier, pool, steps in (one["setting"] for one in neural["settings"]["best_first"]):
        (one,) = (each for each in neural["settings"]["best_first"] if each["setting"] == [frontier, pool, steps])
        usual = ", the default" if one is neural["settings"]["best_first"][0] else ""
        capped = f", max_steps {steps}" if steps < 1000 else ""
        rows.append([f"best-first, frontier {frontier}, pool {pool}{capped}{usual}", *_cost(one)])
    for one in neural["settings"]["rounds"]:
        ef, rounds = (", ".join(map(str, part)) for part in one["setting"])
        rows.append([f"the paper's rounds, ef {ef}, rounds {rounds}", *_cost(one)])
    scored = {
        name: _mean([graph[name]["items_scored"] for graph in neural["builds"]])
        for name in ("surrogate", "best_first", "rounds")
    }
    return (
        f"{neural['items']:,} items, k {neural['k']}, {neural['threads']} thread.\n\n"
        + table(["search", "cases", f"coverage@{neural['k']}", "ms per query"], rows)
        + f"\nBy default, the surrogate search scores {scored['surrogate']:,.0f} items, best-first "
        f"{scored['best_first']:,.0f}, the paper's rounds {scored['rounds']:,.0f} "
        f"(means over {len(neural['builds'])} graphs)."
    )


def surrogate(found: Found) -> str:
    """Returns how much the surrogate search saves compared with best-first."""
    neural, summary = found["neural"], found["summary"]
    rows = []
    for name in ("surrogate", "best_first"):
        graphs, high = [graph[name] for graph in neural["builds"]], neural["race_high"][name]
        rows.append(
            [
                TITLES[name],
                f"{_mean([one['coverage'] for one in graphs]):.4f}",
                f"{_mean([one['coverage_5th_percentile'] for one in graphs]):.3f}",
                f"{_mean([one['items_scored'] for one in graphs]):,.0f}",
                f"`{high['setting']}`",
                f"{high['ms_per_query']:.2f}",
            ]
        )
    head = ["search", "coverage@200", "5th percentile", "items scored", "fastest setting at 0.995", "ms per query"]
    return (
        f"{neural['items']:,} items, k {neural['k']}, one thread; coverage and items scored are those of the default "
        f"settings, means over {len(neural['builds'])} graphs.\n\n"
        + table(head, rows)
        + f"\nThe surrogate search scores {summary['surrogate_scored_vs_best_first']:.2f} times the items of "
        f"best-first and takes {summary['surrogate_time_vs_best_first']:.2f} times as long, at a coverage of at least "
        "0.995 each."
    )


def asked(found: Found) -> str:
    """Returns what is found for the coverages that are asked for, and what fixed settings cost for as much."""
    kinds = list(next(iter(found["asked"].values()))["fixed"])
    rows = [
        [
            wanted,
            f"{one['coverage']:.4f}",
            f"{one['coverage_lowest']:.4f}",
            f"{one['coverage_5th_percentile']:.3f}",
            f"{one['estimated']:.4f}",
            f"{one['items_scored']:,.0f}",
            *("-" if one["fixed"][kind] is None else f"{one['fixed'][kind]:,.0f}" for kind in kinds),
        ]
        for wanted, one in found["asked"].items()
    ]
    head = ["asked", "found", "lowest graph", "5th percentile", "estimated", "evaluations"]
    return (
        f"k {found['k']}; rules fitted on {found['fitted_on_cases']} cases of validation users, judged on "
        f"{found['cases']} of test users; means over {len(found['builds'])} graphs. The last columns\nhave the "
        "evaluations of fixed settings that find as much.\n\n" + table(head + kinds, rows)
    )


def reference(found: Found) -> str:
    """Returns both searches on the reference models."""
    rows = []
    for name, searches in found["reference"].items():
        cells = [f"{one['coverage']:.3f}, {one['items_scored']:,.0f}" for one in searches.values()]
        fell_back = [one["fell_back"] for search, one in searches.items() if search != "best_first"]
        rows.append([name, *cells, f"{100 * fell_back[0]:.0f} %"])
    searches = next(iter(found["reference"].values()))
    return table(["model", *(name.replace("_", "-") for name in searches), "fell back"], rows)


def evaluated(found: Found) -> str:
    """Returns the tables of the attention model compared with baselines, and of its searches."""
    figures = _run(found, "attention_seed0")["evaluation"]
    k = str(figures["k"])
    rows = [["the model, brute force", *_with_interval(figures["recall_all"], figures["recall_all_interval"]), ""]]
    for name, at in figures["baselines"].items():
        one = at[k]
        low, high = one["difference_interval"]
        minus = f"{one['model_minus_baseline']:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append([title_of(name), *_with_interval(one["recall"], one["interval"]), minus])
    searches = []
    for name, one in figures["searches"].items():
        low, high = one["intervals"]["coverage"]
        searches.append(
            [
                title_of(name),
                f"{one['recall_delta']:.4f}",
                f"{one['coverage']:.4f} ({low:.4f} to {high:.4f})",
                f"{one['coverage_5th_percentile']:.4f}",
                f"{one['items_scored']:,.0f} ({100 * one['scored_fraction']:.1f} %)",
                f"{one['ms_per_case']:.1f}",
            ]
        )
    return (
        f"{figures['items']:,} items, {figures['cases']:,} cases of {figures['users']:,} users that training never saw."
        "\n\n"
        + table([f"at {k}", "recall", "95 % interval", "model minus baseline, paired"], rows)
        + "\n"
        + table(["search", "recall-Δ", "coverage", "5th percentile", "items scored", "ms per case"], searches)
    )


def paper_table(found: Found) -> str:
    """Returns the table of recall-retrieval, recall-all and recall-delta of the paper's rounds, and the paper's own."""
    ours = {
        "two-sided": ("two_sided_seed0", "two_sided_epsilon0.1"),
        "deep, without attention": ("dnn_epsilon0", "dnn"),
        "attention": ("attention_epsilon0", "attention_seed0"),
    }
    theirs = {
        "two-sided": ("11.3 / 11.4 / 0.74", "12.4 / 12.5 / 0.40"),
        "deep, without attention": ("12.8 / 13.1 / 2.30", "13.1 / 13.3 / 1.20"),
        "attention": ("23.9 / 24.7 / 3.48", "24.9 / 25.6 / 3.00"),
    }
    rows = []
    for name, runs in ours.items():
        cells = []
        for run in runs:
            figures = _run(found, run)["evaluation"]
            search = figures["searches"]["rounds"]
            parts = [f"{100 * value:.1f}" for value in (search["recall_retrieval"], figures["recall_all"])]
            cells.append(" / ".join([*parts, f"{100 * search['recall_delta']:.2f}"]))
        rows.append([name, *cells, *theirs[name]])
    baselines = _run(found, "attention_seed0")["evaluation"]["baselines"]
    for name in ("most_popular", "own_history"):
        rows.append([title_of(name), f"{100 * baselines[name]['200']['recall']:.1f}", "", "", ""])
    return table(["", "ε 0", "ε 0.1", "the paper, UserBehavior, no aux", "aux"], rows)


def _run(found: Found, name: str) -> Found:
    return next(run for run in found["runs"] if run["name"] == name)


def _with_interval(value: float, interval: tuple[float, float]) -> list[str]:
    return [f"{value:.4f}", f"{interval[0]:.4f} to {interval[1]:.4f}"]


def _cost(one: Found) -> list[str]:
    return [str(one["cases"]), f"{one['coverage']:.4f}", f"{one['ms_per_query']:.1f}"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
