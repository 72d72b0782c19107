"""`nann bench`: puts load on a server, or on a model in process, and reports the measurements."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tfserving_ext.artifacts import check_folder
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import check_beside, check_json, check_page
from tfserving_ext.progress import outcome

_EXAMPLES = """Example: nann bench --target grpc://127.0.0.1:8500 --signature retrieve --data data --concurrency 1:16

nann bench --target http://127.0.0.1:8501 --model my_model --rate 200 --seconds 30 --fail-if "p99_ms > 20"

nann bench --target session --path models/nann/1 --signature retrieve --concurrency 8

nann bench --max-rate-with "p99_ms <= 20" --signature retrieve

nann bench --init bench.yaml ; nann bench --config bench.yaml -o result.json

nann bench compare before.json after.json"""

# Codes that blame the request rather than the load: by gRPC, by REST and in process.
WRONG_REQUEST = ("INVALID_ARGUMENT", "HTTP 400", "InvalidArgumentError")
MOST_ERRORS = 0.5  # With a larger share of failed requests, the figures of the others say little about the server.

app = typer.Typer(
    invoke_without_command=True, no_args_is_help=True, context_settings={"help_option_names": ["--help", "-h"]}
)


@app.callback(epilog=_EXAMPLES)
def bench(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file with the options; flags override it.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Write a commented configuration file here and exit.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="grpc://HOST:PORT or http://HOST:PORT, grpcs:// or https:// for TLS; session or function, in process.",
            show_default="grpc://127.0.0.1:8500",
        ),
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust for a TLS server.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM file of the client's certificate; requires --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the key of --cert.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name in requests.", show_default="nann")] = None,
    signature: Annotated[
        str | None, typer.Option(help="The model's signature.", show_default="serving_default")
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            help="The SavedModel: for a target in process, for made-up inputs and for the hash in the result."
        ),
    ] = None,
    input_data: Annotated[
        Path | None, typer.Option(help="JSON or npz file of requests; by default they are made up.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Output of `nann convert`: send the histories of test users.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Closed loop: clients that each wait for an answer; N, 1:64 or 10:50:10.", show_default="1"),
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: requests per second; N, 10:640 or 100:500:100.")] = None,
    arrivals: Annotated[
        Literal["constant", "poisson"] | None, typer.Option(help="Arrivals of an open loop.", show_default="poisson")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="JSON lines of recorded requests, sent at the recorded times.")
    ] = None,
    max_rate_with: Annotated[
        list[str] | None,
        typer.Option(help='Search for the highest rate that meets a condition such as "p99_ms <= 20".'),
    ] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(
            help="Longest warm-up in seconds; it ends once throughput and latency are steady.", show_default="10"
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds to measure each level; by default until --bound is met.")
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(help="A level ends once its 95 % intervals are within this many per cent.", show_default="5"),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Longest measurement of a level, in seconds.", show_default="60")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a request counts as failed.", show_default="10")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of made-up inputs and arrivals.", show_default="0")] = None,
    swap_every: Annotated[float | None, typer.Option(help="Seconds between two swaps to a new version.")] = None,
    swap_in: Annotated[
        Path | None, typer.Option(help="The folder of versions that the server watches, in which to swap.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="URL of the server's metrics, read before and after each level.")
    ] = None,
    pid: Annotated[int | None, typer.Option(help="Record the processor time and memory of this process.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Folder for a TensorBoard trace.")] = None,
    profile_server: Annotated[str | None, typer.Option(help="HOST:PORT of the server's profiler.")] = None,
    trace: Annotated[
        int | None,
        typer.Option(help="Requests to send afterwards to measure time by stage; 0 for none.", show_default="50"),
    ] = None,
    fail_if: Annotated[
        list[str] | None, typer.Option(help='Exit with status 1 if a condition such as "p99_ms > 20" holds.')
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file for the result; the HTML report is written beside it.")
    ] = None,
) -> None:
    """Measure throughput, latency, errors and limits of a server, or of a model in process.

    Latency is measured from the time when a request should have been sent. docs/bench.md describes every option and
    the format of the result.
    """
    if context.invoked_subcommand is not None:
        return
    from tfserving_ext.loadtest.template import write_template

    if init is not None:
        write_template(init)
        outcome("bench", f"a commented configuration: {init}; run it with `nann bench --config {init}`")
        return
    from tfserving_ext.loadtest.scenario import make_scenario, read_scenario

    fields, lines = ({}, {}) if config is None else read_scenario(config)
    given = {
        "target": target, "ca": ca, "cert": cert, "key": key, "concurrency": concurrency, "rate": rate,
        "arrivals": arrivals, "replay": replay, "max_rate_with": max_rate_with, "warm_up": warm_up,
        "seconds": seconds, "bound": bound, "max_seconds": max_seconds, "timeout": timeout, "seed": seed,
        "prometheus": prometheus, "pid": pid, "profile": profile, "profile_server": profile_server, "trace": trace,
        "fail_if": fail_if,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if {"concurrency", "rate", "replay"} & set(given):  # A load given by a flag replaces the file's load.
        replaced = {"concurrency", "rate", "replay"} | (set() if "rate" in given else {"arrivals"})
        fields = {name: value for name, value in fields.items() if name not in replaced}
    fields |= given
    _add_model(fields, {"name": model, "signature": signature, "path": path, "input_data": input_data, "data": data})
    if swap_every is not None or swap_in is not None:
        fields["swap"] = {
            **(fields.get("swap") or {}),
            **({} if swap_every is None else {"every": swap_every}),
            **({} if swap_in is None else {"base_path": swap_in}),
        }
    _measure(make_scenario(fields, "" if config is None else str(config), lines), out)


def _add_model(fields: dict[str, Any], given: dict[str, Any]) -> None:
    """Adds the fields of the model that flags give; there may then be only one model."""
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return
    models = fields.get("models") or [{}]
    if not isinstance(models, list) or len(models) != 1 or not isinstance(models[0], dict):
        raise NannError(
            f"--{next(iter(given)).replace('name', 'model')} applies to one model, but the configuration has several"
        )
    fields["models"] = [{**models[0], **given}]


def _measure(scenario: Any, out: Path | None) -> None:
    from tfserving_ext.artifacts import write_json
    from tfserving_ext.loadtest.bench_report import write_report
    from tfserving_ext.loadtest.live import live, print_result
    from tfserving_ext.loadtest.run import LOST
    from tfserving_ext.loadtest.run import bench as run

    files = None if out is None else _files(out)
    with live(scenario) as on_window:
        result = run(scenario, on_window)
    print_result(result)
    if files is not None:
        write_json(files[0], result)
        write_report(files[1], result)
        outcome("report", f"{files[0]} and {files[1]}")
    if result["failure"] is not None:
        raise NannError(f"{result['failure'].rstrip('.')}; what was measured before is above")
    if result["stopped_by"] == LOST:
        raise NannError(f"the server at {scenario.target} no longer answers; what was measured before is above")
    search = result["search"]
    if search is not None and search["rate"] is None and result["stopped_by"] is None:
        raise NannError(
            f"even the lowest rate, {search['tried'][-1]['rate']:g} requests per second, does not meet "
            f"{' and '.join(search['conditions'])}"
        )
    for level in result["levels"] if search is None else []:
        _check_answered(level)
    if result["conditions"]:
        first = result["conditions"][0]
        raise NannError(f"failed: {first['condition']} at {first['level']}")


def _check_answered(level: dict[str, Any]) -> None:
    """Raises NannError if a level's requests were wrong, or if none was answered or most of them failed."""
    if level["errors"] and not level["answered"]:
        raise NannError(f"no request was answered successfully at {level['name']}: {', '.join(level['errors'])}")
    for code, count in level["errors"].items():
        example = next(iter(level["error_examples"].get(code, [])), "")
        if code in WRONG_REQUEST:
            raise NannError(
                f"{count:,} of {level['requests']:,} requests at {level['name']} were refused as wrong, {code}: "
                f"{example[:200]}; send real requests with --data or --input-data, or let values be made up that the "
                "model knows: give its SavedModel with --path, whose warm-up records are used, or set `inputs` in a "
                "configuration (docs/bench.md)"
            )
    if level["error_rate"] > MOST_ERRORS:
        raise NannError(
            f"{100 * level['error_rate']:.0f} % of the requests at {level['name']} failed: {', '.join(level['errors'])}"
        )


def _files(out: Path) -> tuple[Path, Path]:
    """Returns the files for the JSON and the report, after checking that both can be written."""
    from tfserving_ext.loadtest.run import FORMAT

    page = out.with_suffix(".html")
    if page == out:
        raise NannError(
            f"{out} is the file of the report; -o must name a file for the JSON, such as {out.with_suffix('.json')}"
        )
    for one in (out, page):
        if one.exists() and not one.is_file():
            raise NannError(
                f"{one} is not a regular file; -o must name a file for the JSON, the report is written beside it"
            )
    check_json(out, "a result of `nann bench`", "format", FORMAT)
    check_beside(out, page)
    check_folder(out.resolve().parent)
    check_folder(page.resolve().parent)
    return _followed(out), _followed(page)


def _followed(file: Path) -> Path:
    """Resolves a symbolic link, so that its target is written and the link stays."""
    return file.resolve() if file.is_symlink() else file


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="JSON of `nann bench -o`.")],
    other: Annotated[Path, typer.Argument(help="Another result with the same levels.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the ratios.")] = None,
) -> None:
    """Compare two results: the ratios of each level's figures, with 95 % intervals."""
    from tfserving_ext.artifacts import write_json
    from tfserving_ext.loadtest.compare import compare as run
    from tfserving_ext.loadtest.compare import print_comparison
    from tfserving_ext.loadtest.result import read_result

    if out is not None:
        check_json(out, "a comparison of `nann bench compare`", "levels")
    found = run(read_result(baseline), read_result(other))
    print_comparison(found)
    if out is not None:
        write_json(out, found)


@app.command()
def report(
    result: Annotated[Path, typer.Argument(help="JSON of `nann bench -o`.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; by default beside the JSON.")] = None,
) -> None:
    """Write the report of a result again."""
    from tfserving_ext.loadtest.bench_report import write_report
    from tfserving_ext.loadtest.result import read_result

    target = out or result.with_suffix(".html")
    found = read_result(result)
    if target.resolve() == result.resolve():
        raise NannError(f"{target} is the result itself; give another file for the report with -o")
    check_page(target)
    write_report(target, found)
    outcome("report", str(target))


def add_to(nann: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    nann.add_typer(app, name="bench")
