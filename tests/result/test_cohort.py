"""The table of a cohort names the same slides, however it is written."""

import pytest

from mxsplicer.errors import InputError
from mxsplicer.result.cohort import read_cohort
from mxsplicer.tl.sample_tables import check_samples

SLIDES = ["001", "1E2", "NA", "1.10", "Slide #7", "TRUE"]
ROWS = [["slide", "path", "mask", "patient"], *([one, f"{one}.tif", f"{one}_mask.tif", "P#1"] for one in SLIDES)]


def text(delimiter=",", rows=ROWS):
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


SPELLINGS = {
    "as it is": text().encode(),
    "semicolons": text(";").encode(),
    "tabs in UTF-16": text("\t").encode("utf-16"),
    "Latin-1": text(";").replace("P#1", "Köln").encode("latin-1"),
    "byte-order mark": text().encode("utf-8-sig"),
    "blanks": text(" , ").encode(),
    "capitals": text().replace("slide,path,mask,patient", "Slide,PATH,Mask,Patient").encode(),
    "comments": ("# my study\n" + text().replace("\n1E2", "\n#1E1,left out for now\n1E2")).encode(),
    "number sign in a name": text().replace("patient", "Patient #").encode(),
    "number sign before the mask": text(rows=[[row[0], row[1], row[3], row[2]] for row in ROWS]).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cohort_is_read_whatever_its_spelling(tmp_path, spelling):
    path = tmp_path / "cohort.csv"
    path.write_bytes(SPELLINGS[spelling])

    records = read_cohort(path)

    assert [one.name for one in records] == SLIDES
    assert [one.image for one in records] == [tmp_path / f"{one}.tif" for one in SLIDES]
    assert [one.mask for one in records] == [tmp_path / f"{one}_mask.tif" for one in SLIDES]
    check_samples(path, SLIDES, None)


def test_files_may_be_lacking_and_written_with_the_separators_of_windows(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S1.tif").touch()
    path = tmp_path / "cohort.csv"
    path.write_text("slide,path,mask\nS1,.\\raw\\S1.tif,NA\nS2,S2.tif,\n")

    records = read_cohort(path)

    assert records[0].image == tmp_path / "raw" / "S1.tif"
    assert [one.mask for one in records] == [None, None]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("slide,mask\nS1,a.tif\n", "has no column 'path'"),
        ("slide,path\n", "has no row"),
        ("# a\nslide,path\n# b\nS1,a.tif\n,b.tif\n", "has no slide in line 5"),
        ("slide,path\nS1,a.tif\nS1,b.tif\n", "names slide 'S1' twice"),
        ("slide,path\na/b,a.tif\n", "cannot name a folder"),
    ],
)
def test_what_a_cohort_lacks_is_named_with_its_line(tmp_path, content, sentence):
    path = tmp_path / "cohort.csv"
    path.write_text(content)

    with pytest.raises(InputError, match=sentence):
        read_cohort(path)
