from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.pricing.costfile import read_costs
from frameworks.core.pricing.separated import SEPARATORS, read_text, separated

COLUMNS = ("layer", "w_bits", "a_bits", "cost")
HERE = Path("t.csv")


def table(mark, costs, more=()):
    rows = [("conv", str(8 - i), "8", cost) for i, cost in enumerate(costs)]
    return "\n".join(mark.join(row) for row in [COLUMNS, *rows, *more])


def costs(text):
    return [row["cost"] for _, row in separated(HERE, text, COLUMNS, "cost")]


@given(st.sampled_from([*SEPARATORS]), st.lists(st.floats(0, 1e6), min_size=1), st.booleans())
def test_every_separator_gives_the_same_numbers(mark, values, comma):
    """With decimal commas too, unless all of them may be those of thousands."""
    comma = comma and mark != ","
    written = [f"0{value:.7f}" for value in values]
    text = table(mark, [w.replace(".", ",") if comma else w for w in written])
    assert costs(text) == written


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t.CSV"])
def test_files_of_a_spreadsheet(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(table(";", ["0,5", "1,25"]).replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_costs(path).entries == {"conv": {(8, 8): 0.5, (7, 8): 1.25}}


def test_further_columns_and_quotes_are_no_trouble():
    text = '"layer";"w_bits";"a_bits";"cost";"note"\n"a;b";8;8;"0,5";"1,2"'
    ((where, row),) = separated(HERE, text, COLUMNS, "cost")
    assert where == "t.csv line 2"
    assert dict(row) == dict(layer="a;b", w_bits="8", a_bits="8", cost="0.5", note="1,2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table(",", ["0,5"]), r"line 2: more fields than the header has; a number with a decimal"),
        (table(";", ["1"], [("a", "8", "8", "1", "x")]), r"line 3: more fields than the header"),
        (table(";", ["0,5", "0.5"]), r"line 2: cost = '0,5', but '0\.5' elsewhere"),
        (table(";", ["1.234,5"]), r"line 2: cost = '1\.234,5'"),
        (table("\t", ["1,234", "20,500"]), r"line 2: cost = '1,234' may have a decimal comma or"),
        ("layer;w_bits,a_bits;cost\n", r"missing columns \['a_bits', 'w_bits'\].*semicolon"),
        ("layer:w_bits:a_bits:cost", "separated by one of comma, semicolon, tab, pipe"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        costs(text)


def test_a_comma_of_thousands_is_told_from_a_decimal_comma_by_its_neighbours():
    assert costs(table(";", ["1,234", "0,500"])) == ["1.234", "0.500"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (table(";", ["1"]).encode("utf-16"), "t.csv: .*UTF-16 or binary; save it as UTF-8"),
        (table(";", ["1"]).encode("utf-16-le"), "UTF-16 or binary"),
        ("Größe".encode("latin-1"), "t.csv: not a readable table: .*save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(tmp_path, raw, message):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "t.csv")


ROW = '{"rows": [{"layer": %s, "w_bits": 8, "a_bits": 8, "cost": %s}]}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", ROW % ('["a"]', 1), r"row 0: layer = \['a'\] is no name"),
        ("t.json", ROW % ("true", 1), "row 0: layer = True is no name"),
        ("t.json", ROW % (1.5, 1), r"row 0: layer = 1\.5 is no name"),
        ("t.json", ROW % ('"  "', 1), "row 0: layer = '  ' is no name"),
        ("t.json", ROW % ('"a"', "9" * 400), r"row 0: cost = 9{60} is not a number"),
        ("t.json", ROW % ('"a"', '"1_000"'), r"row 0: cost = '1_000' is not a number"),
        ("t.csv", "layer,w_bits,a_bits,cost\na,8,8,1_000\n", r"line 2: cost = '1_000' is not a"),
        ("t.json", ROW % ('"a", "cost": 2', 1), "table: the key 'cost' is there twice"),
        ("t.json", ROW % ('"a"', "9" * 5000), "not a readable table: .*digit"),
        ("t.json", '{"layers": ["a"], "latency_int8_ms": [1], "latency_int4_ms": 5}',
         "latency_int4_ms: expected a list of costs, found 5"),
        ("t.json", '{"latency_ms": [[[1]], 5]}', r"latency_ms\[1\]: expected a list of costs"),
        ("t.json", '{"latency_ms": [[[1], 5]]}', r"latency_ms\[0\]\[1\]: expected a list"),
        ("t.json", "[" * 100_000, "not a readable table: nested too deeply"),
        ("t.csv", "layer,w_bits,a_bits,cost\na,8,8,1\n" + "x" * 140_000 + ",8,8,1",
         r"t\.csv line 3: field larger"),
        ("t.csv", "x" * 140_000, "missing columns"),
        ("t.csv", "layer,w_bits,a_bits,cost,cost\na,8,8,1,2", r"columns \['cost'\] twice"),
        ("t.csv", "sep=;\nlayer;w_bits;a_bits;cost\na;8;8;1;2", r"line 3: more fields"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_place(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_costs(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("first", ["", "sep=;\n", '"sep=;"\n'])
def test_blanks_around_names_and_a_spreadsheets_first_line_do_not_count(tmp_path, first):
    path = tmp_path / "t.csv"
    path.write_text(first + "layer ; w_bits; a_bits ;cost \nconv ;8;8; 0,5 \n")
    assert read_costs(path).entries == {"conv": {(8, 8): 0.5}}
