"""Tables are read by one set of rules, however people write them."""

import gzip

import pandas as pd
import pytest

from mxsplicer.errors import InputError
from mxsplicer.system.tables import as_values, count_values, find_columns, read_header, read_rows, read_table

HEADER, ROWS = ["Slide", "patient", "type µ"], [["001", "P#1", "B cell"], ["1E2", "", "naïve"]]


def joined(delimiter):
    return "\n".join(delimiter.join(row) for row in [HEADER, *ROWS]) + "\n"


SPELLINGS = {
    "commas": joined(",").encode(),
    "semicolons": joined(";").encode(),
    "tabs": joined("\t").encode(),
    "blanks": joined(" , ").encode(),
    "byte-order mark": joined(",").encode("utf-8-sig"),
    "UTF-16": joined("\t").encode("utf-16"),
    "UTF-16 without a mark": joined("\t").encode("utf-16-le"),
    "big-endian UTF-16 without a mark": joined("\t").encode("utf-16-be"),
    "Latin-1": joined(";").encode("latin-1"),
    "Windows": joined(";").replace("\n", "\r\n").encode("cp1252"),
    "old Mac": joined(",").replace("\n", "\r").encode(),
    "comments": ("# my study; 2026, of\n" + joined(",").replace("\n1E2", "\n#2,left out\n  # 3, too\n1E2")).encode(),
    "empty lines": ("\n" + joined(",").replace("\n", "\n\n,,\n")).encode(),
    "the spreadsheet's own line": ("sep=;\n" + joined(";")).encode(),
    "quotes": ",".join(f'"{name}"' for name in HEADER).encode() + b"\n" + joined(", ").split("\n", 1)[1].encode(),
    "trailing delimiters": joined(",").replace("\n", ",,\n").encode(),
    "delimiters behind rows": joined(",").replace("cell\n", "cell,\n").replace("naïve\n", "naïve,\n").encode(),
    "gzipped": gzip.compress(joined(",").encode()),
}


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.txt"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_table_is_the_same_table(tmp_path, spelling, name):
    path = tmp_path / name
    path.write_bytes(SPELLINGS[spelling])

    table = read_table(path)

    assert list(table.columns) == read_header(path) == HEADER
    assert table.to_numpy().tolist() == ROWS


def test_a_row_that_lacks_fields_is_filled_and_knows_its_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("slide,mask\n# one\nS1\nS2,m.tif\n")

    table = read_table(path)

    assert table.index.tolist() == [3, 4]
    assert table["mask"].tolist() == ["", "m.tif"]


@pytest.mark.parametrize("content", [",cell_id,type\nS1_3,3,T\n", "cell_id,type\nS1_3,3,T\n"], ids=["pandas", "R"])
def test_names_of_rows_are_a_column_without_a_name(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_text(content)

    assert read_table(path).to_dict("list") == {"": ["S1_3"], "cell_id": ["3"], "type": ["T"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"# nothing else\n", "it is empty"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields, and the header 2"),
        (b"a,b\n1,2\0\n", "not text"),
        (b"PK\x03\x04...", "a spreadsheet"),
        (b"a,b\n\x81,2\n", "cannot be read"),
    ],
)
def test_what_is_not_a_table_is_refused(tmp_path, content, sentence):
    path = tmp_path / "table.csv"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"table\.csv cannot be read .*{sentence}.*|table\.csv {sentence}") as error:
        read_table(path)
    assert "Save it as CSV" in error.value.remedy


def test_columns_that_are_not_wanted_are_not_kept(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b,a\n1,2,3\n")

    assert read_table(path, columns=["b"]).to_dict("list") == {"b": ["2"]}
    assert list(read_table(path).columns) == ["a", "b", "a.1"]


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["61", "48", "-3"], [61, 48, -3]),
        (["2.5", "0.25"], [2.5, 0.25]),
        (["61", ""], [61, None]),
        (["2.5", "NA"], [2.5, None]),
        (["001", "2"], ["001", "2"]),
        (["1E2", "100"], ["1E2", "100"]),
        (["1.10", "1.2"], ["1.10", "1.2"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["3b", "1"], ["3b", "1"]),
        (["inf", "1"], ["inf", "1"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["12345678901234567890123", "2"], ["12345678901234567890123", "2"]),
        (["True", ""], ["True", None]),
    ],
)
def test_texts_are_numbers_only_where_nothing_is_lost(texts, values):
    found = as_values(texts)

    assert [None if pd.isna(one) else one for one in found.tolist()] == values


def test_columns_are_found_whatever_their_capitals_and_blanks():
    assert find_columns(["Object ID", "SLIDE", "x"], ["slide", "object_id"]) == ["SLIDE", "Object ID"]
    assert find_columns(["Slide", "slide"], ["slide"]) == ["slide"]
    with pytest.raises(InputError, match="'Slide' and 'SLIDE' are one name"):
        find_columns(["Slide", "SLIDE"], ["slide"])


def test_values_are_counted_in_columns_of_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "id,type,mixed,area,name\n" + "".join(f"{i},{'TB'[i % 2]},{i % 2 or 'x'},{i}.5,n{i}\n" for i in range(9))
    )

    assert count_values(path, 5) == {"type": 2, "mixed": 2}
    assert [line for line, _ in read_rows(path)] == list(range(1, 11))
