"""Files in the layouts of other people, against what each row means, written out or computed row by row in Python."""

import gzip
import json
import re
import zipfile
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tfserving_ext.cli import app
from tfserving_ext.cli import data as command
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.layouts.layout import Layout, Mapped, make_layout, parse_pairs
from tfserving_ext.data.layouts.presets import PRESETS
from tfserving_ext.data.layouts.recognition import suggestion
from tfserving_ext.data.layouts.times import DATE, guess_unit, unix_seconds
from tfserving_ext.data.layouts.translation import translated
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequence_format import read_manifest
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError

ALL = Rules(min_item_count=1, min_user_count=1, validation=0, test=0)


def seconds(*date):
    return int(datetime(*date, tzinfo=timezone.utc).timestamp())


# For each preset: the name of its file, what it holds, and its rows as user, item, category, behaviour and time.
EXAMPLES = {
    "movielens": (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,11,4.0,964982703\n7,13,2.5,964981247\n",
        [(1, 11, 0, "pv", 964982703), (7, 13, 0, "pv", 964981247)],
    ),
    "retailrocket": (
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,3,view,5,\n1433221432117,3,addtocart,5,\n"
        "1433221532999,3,transaction,5,7\n",
        [(3, 5, 0, "pv", 1433221332), (3, 5, 0, "cart", 1433221432), (3, 5, 0, "buy", 1433221532)],
    ),
    "yoochoose": (
        "yoochoose-clicks.dat",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n",
        [
            (1, 214536502, 1, "pv", seconds(2014, 4, 7, 10, 51, 9)),
            (1, 214536500, 2, "pv", seconds(2014, 4, 7, 10, 54, 9)),
        ],
    ),
    "tmall": (
        "user_log_format1.csv",
        "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n8,11,833,2,26,829,0\n8,12,833,2,,1111,2\n",
        [(8, 11, 833, "pv", seconds(2014, 8, 29)), (8, 12, 833, "buy", seconds(2014, 11, 11))],
    ),
    "tianchi": (
        "tianchi_mobile_recommend_train_user.csv",
        "user_id,item_id,behavior_type,user_geohash,item_category,time\n"
        "9,23,1,,4,2014-12-06 02\n9,24,4,9q,5,2014-12-06 13\n",
        [(9, 23, 4, "pv", seconds(2014, 12, 6, 2)), (9, 24, 5, "buy", seconds(2014, 12, 6, 13))],
    ),
    "taobao-ad": (
        "behavior_log.csv",
        "user,time_stamp,btag,cate,brand\n2,1493741625,pv,6250,91\n2,1493741725,fav,6250,92\n",
        [(2, 91, 6250, "pv", 1493741625), (2, 92, 6250, "fav", 1493741725)],
    ),
    "amazon": (
        "ratings_Books.csv",
        "AX,B0002,5.0,1299283200\nAA,B0001,4.0,1376524800\n",
        [(2, 2, 0, "pv", 1299283200), (1, 1, 0, "pv", 1376524800)],
    ),
    "amazon-2023": (
        "Books.jsonl",
        '{"rating": 5.0, "asin": "B2", "user_id": "AE", "timestamp": 1588687728923, "images": [{"small": "x"}]}\n'
        '{"rating": 1.0, "title": "no", "asin": "B1", "user_id": "AE", "timestamp": 1588697728000}\n',
        [(1, 2, 0, "pv", 1588687728), (1, 1, 0, "pv", 1588697728)],
    ),
    "gowalla": (
        "loc-gowalla_totalCheckins.txt",
        "0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n0\t2010-10-18T22:17:43Z\t30.2\t-97.7\t420315\n",
        [
            (0, 22847, 0, "pv", seconds(2010, 10, 19, 23, 55, 27)),
            (0, 420315, 0, "pv", seconds(2010, 10, 18, 22, 17, 43)),
        ],
    ),
    "recbole": (
        "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t11\t3\t978300760.0\n2\t12\t4\t978300861\n",
        [(1, 11, 0, "pv", 978300760), (2, 12, 0, "pv", 978300861)],
    ),
    "s3rec": (
        "Beauty.txt",
        "1 5 6 5\n2 9\n",
        [(1, 5, 0, "pv", 0), (1, 6, 0, "pv", 1), (1, 5, 0, "pv", 2), (2, 9, 0, "pv", 3)],
    ),
}


def rows_of(sources, layout, tmp_path):
    with translated(sources if isinstance(sources, list) else [sources], layout, tmp_path / "data") as made:
        return pl.read_parquet(made.behaviors).rows(), {path.stem: pl.read_parquet(path) for path in made.keys}


def test_every_preset_has_an_example_and_is_on_the_command_line():
    assert set(EXAMPLES) == set(PRESETS)
    assert command._PRESETS.split(", ") == list(PRESETS)


@pytest.mark.parametrize("preset", EXAMPLES)
def test_presets_read_what_the_rows_mean(tmp_path, preset):
    name, text, wanted = EXAMPLES[preset]
    (tmp_path / name).write_text(text)
    assert rows_of(tmp_path / name, PRESETS[preset], tmp_path)[0] == wanted
    # The whole conversion, by its arguments, gives the histories of these rows.
    made = Sequences.open(convert(Mapped([tmp_path / name], PRESETS[preset]), tmp_path / "data", ALL))
    assert sorted(made.item_ids.tolist()) == sorted({row[1] for row in wanted})
    assert made.user_ids.tolist() == sorted({row[0] for row in wanted})
    manifest = read_manifest(tmp_path / "data")
    assert [source["file"] for source in manifest["sources"]] == [name]
    assert manifest["layout"]["rows_read"] == len(wanted)


@pytest.mark.parametrize("preset", EXAMPLES)
def test_a_known_layout_is_suggested_with_the_command(tmp_path, preset):
    name, text, _ = EXAMPLES[preset]
    (tmp_path / name).write_text(text)
    hint = suggestion([tmp_path / name])
    assert hint == f"it looks like {preset}: nann convert {tmp_path / name} --preset {preset}"
    with pytest.raises(NannError, match=re.escape(hint)):
        convert(tmp_path / name, tmp_path / "data", ALL)


def test_other_columns_are_suggested_by_their_names(tmp_path):
    (tmp_path / "a.csv").write_text("order_date;customer_id;product_sku;qty\n2024-01-01;7;x;1\n")
    hint = suggestion([tmp_path / "a.csv"])
    assert hint.endswith("--columns user=customer_id,item=product_sku,time=order_date")
    columns = parse_pairs("--columns", hint.rpartition(" ")[2])
    assert rows_of(tmp_path / "a.csv", make_layout(columns=columns), tmp_path)[0] == [
        (7, 1, 0, "pv", seconds(2024, 1, 1))
    ]


def test_userbehavior_gets_no_suggestion(tmp_path):
    for text in ("1,2,3,pv,4\n", "user_id,item_id,category_id,behavior_type,timestamp\n1,2,3,pv,4\n", "1,2,3\n", ""):
        (tmp_path / "a.csv").write_text(text)
        assert suggestion([tmp_path / "a.csv"]) is None


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=4)
ROW = st.tuples(
    st.sampled_from(["7", "u", "é", "07", "9" * 19]) | TEXT,
    st.integers(0, 2**63 - 1) | st.integers(0, 5),
    st.sampled_from(["view", "order", "scroll"]),
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["1", "3.5", "4", "5.0"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from([",", "\t", ";"]), st.booleans())
def test_any_mapping_equals_a_row_by_row_reference(tmp_path, rows, separator, as_json):
    """Texts are numbered in their order, rows are dropped by event and rating, and dates are seconds in UTC."""
    names = ["kind", "who", "when", "what", "stars"]
    fields = [
        (kind, who, when.isoformat(timespec="seconds"), str(what), stars) for who, what, kind, when, stars in rows
    ]
    path = tmp_path / "some.data"
    if as_json:
        path.write_text("".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in fields))
    else:
        quoted = [['"' + field.replace('"', '""') + '"' for field in line] for line in [names, *fields]]
        path.write_text("".join(separator.join(line) + "\n" for line in quoted))
    layout = Layout(
        "who",
        "what",
        event="kind",
        time="when",
        rating="stars",
        events=(("view", "pv"), ("order", "buy")),
        min_rating=3.5,
    )
    kept = [row for row in rows if row[2] != "scroll" and float(row[4]) >= 3.5]
    if not kept:
        with pytest.raises(NannError, match=f"none of {len(rows)} rows is left"):
            rows_of(path, layout, tmp_path)
        return
    users = sorted({row[0] for row in kept}, key=str.encode)
    whole = all(re.fullmatch("0|[1-9][0-9]*", user) and int(user) < 2**63 for user in users)
    wanted = [
        (
            int(who) if whole else 1 + users.index(who),
            what,
            0,
            {"view": "pv", "order": "buy"}[kind],
            int(when.replace(tzinfo=timezone.utc, microsecond=0).timestamp()),
        )
        for who, what, kind, when, _ in kept
    ]
    got, keys = rows_of(path, layout, tmp_path)
    assert got == wanted
    assert whole or keys["user_keys"].rows() == list(enumerate(users, 1))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2014-04-07", seconds(2014, 4, 7)),
        ("2014/4/7 9:05", seconds(2014, 4, 7, 9, 5)),
        ("2014-04-07T10:51:09.277Z", seconds(2014, 4, 7, 10, 51, 9)),
        ("2014-04-07 10:51:09 UTC", seconds(2014, 4, 7, 10, 51, 9)),
        ("2014-04-07T10:51:09+08:00", seconds(2014, 4, 7, 2, 51, 9)),
        ("2014-04-07T10:51:09-0330", seconds(2014, 4, 7, 14, 21, 9)),
        ("2014-02-30", None),
        ("2014-13-01", None),
        ("yesterday", None),
    ],
)
def test_dates(text, wanted):
    assert pl.DataFrame({"t": [text]}).select(unix_seconds("t", DATE)).item() == wanted


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_numbers_is_told_by_their_size(unit):
    times = [datetime(1980, 1, 1) + timedelta(days=int(day)) for day in np.linspace(0, 15000, 9)]
    counts = [int(time.replace(tzinfo=timezone.utc).timestamp()) for time in times]
    texts = pl.Series([str(count * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]) for count in counts])
    assert guess_unit(texts) == unit
    assert pl.DataFrame({"t": texts}).select(unix_seconds("t", unit)).to_series().to_list() == counts


def test_archives_folders_and_parquet(tmp_path):
    name, text, wanted = EXAMPLES["movielens"]
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr(f"ml-25m/{name}", text)
        archive.writestr("ml-25m/movies.csv", "movieId,title,genres\n11,x,y\n")
    with gzip.open(tmp_path / "ratings.csv.gz", "wt") as file:
        file.write(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_text(text)
    (folder / "movies.csv").write_text("movieId,title,genres\n11,x,y\n")
    for source in (tmp_path / "ml.zip", tmp_path / "ratings.csv.gz", folder):
        assert rows_of(source, PRESETS["movielens"], tmp_path)[0] == wanted
    frame = pl.DataFrame({"u": [1], "i": ["x"], "t": [datetime(2020, 1, 2, 3)]})
    frame.write_parquet(tmp_path / "a.parquet")
    both = [tmp_path / "a.parquet", tmp_path / "a.parquet"]
    assert rows_of(both, Layout("u", "i", time="t"), tmp_path)[0] == [(1, 1, 0, "pv", seconds(2020, 1, 2, 3))] * 2


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ("user=who", {}, "columns give no item"),
        (
            "user=who,item=what,price=p",
            {},
            "columns name 'price'; allowed are user, item, category",
        ),
        ("user=who,item=2", {}, "columns are user=who,item=2: give all of them by name, or all by number"),
        ("user=0,item=1", {}, "numbers of columns begin at 1"),
        ("user=who,item=what", {"events": {"view": "pv"}.items()}, "add event=COLUMN"),
        ("user=who,item=what", {"min_rating": 4.0}, "add rating=COLUMN"),
        (
            "user=who,item=what,event=kind",
            {"events": {"view": "look"}.items()},
            "counts as 'look'; allowed are",
        ),
        ("user=who,item=what", {"time_unit": "h"}, "the unit of time is 'h'; allowed are s, ms, us, ns, mmdd"),
        ("user=who,item=what", {"separator": "::"}, "the separator is '::'"),
    ],
)
def test_mappings_that_are_refused(columns, options, words):
    with pytest.raises(NannError, match=re.escape(words)):
        make_layout(columns=parse_pairs("--columns", columns), **options)


@pytest.mark.parametrize("text", ["user", "user=", "user=a,user=b", "user=a,,item=b"])
def test_pairs_that_are_refused(text):
    with pytest.raises(NannError, match="--columns"):
        parse_pairs("--columns", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,what,when,kind\n1,2,3,pv\n,2,3,pv\n", "row 2 (a header does not count): who is None; an id is expected"),
        ("who,what,when,kind\n1,2,soon,pv\n", "row 1 (a header does not count): when is 'soon'; a number or a date"),
        ("who,what,when,kind\n1,2,3,pv\n1,2,3,look\n", "kind is 'look'; allowed are pv, buy, cart, fav"),
        ("who,what,when\n1,2,3\n", "has no column 'kind'; it has who, what, when"),
        ("who,what,when,kind\n1,2,3,pv,9,9\n", "cannot be read as"),
        ("", "is empty"),
    ],
)
def test_files_that_are_refused(tmp_path, text, words):
    """Nothing is written, and nothing is left beside the target."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    layout = Layout("who", "what", time="when", event="kind", time_unit="s")
    with pytest.raises(NannError, match=re.escape(words)):
        convert(Mapped([path], layout), tmp_path / "data", ALL)
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def test_the_command(tmp_path):
    """Ratings to sequences by the command; what was dropped is told, and names of items are kept."""
    lines = [f"{user},film {item},{item % 5 + 1},{item}" for user in range(40) for item in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["who,what,stars,day", *lines, "1,film x,5,1"]) + "\n")
    columns = "user=who,item=what,rating=stars,time=day"
    paths = [str(tmp_path / "a.csv"), "-o", str(tmp_path / "data")]
    ran = CliRunner().invoke(app, ["convert", *paths, "--columns", columns, "--min-rating", "4"])
    assert ran.exit_code == 0, ran.output
    told = " ".join(ran.output.split())
    assert "160 behaviours, 40 users, 4 items" in told
    assert "240 by min_rating, 1 by rare_item (1 items with fewer than 5 rows)" in told
    keys = dict(pl.read_parquet(tmp_path / "data" / "item_keys.parquet").rows())
    ids = Sequences.open(tmp_path / "data").item_ids
    assert [keys[one] for one in ids] == ["film 3", "film 4", "film 8", "film 9"]
    assert read_manifest(tmp_path / "data")["splits"]["test"]["users"] == 4  # A tenth, of so few users.


def test_only_sequences_are_made_of_another_layout(tmp_path):
    (tmp_path / "Beauty.txt").write_text(EXAMPLES["s3rec"][1])
    mapped = Mapped([tmp_path / "Beauty.txt"], PRESETS["s3rec"])
    for options in ({"layout": "original"}, {"beam": []}):
        with pytest.raises(NannError, match="files of another layout are converted to sequences, without Beam"):
            convert(mapped, tmp_path / "data", ALL, **options)
