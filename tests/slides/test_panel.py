"""Marker names are found in the tables that people have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.slides.panel import distinct, find_nuclear_marker, read_markers

TABLES = {
    "mcmicro": "cycle,marker_name,filter\n1,DNA1,DAPI\n1,CD3e,FITC\n1,CD20,Cy3\n",
    "mcmicro with a channel number": "channel_number,cycle_number,marker_name\n1,1,DNA1\n2,1,CD3e\n3,1,CD20\n",
    "steinbock": "channel,name,keep,deepcell\nIr191,DNA1,1,1\nPr141,CD3e,1,\nNd142,CD20,1,2\n",
    "steinbock, where an image lacks a channel": "name,keep\nDNA1,1\nArgon,0\nCD3e,1\nCD20,1\n",
    "of targets": "channel,metal,target\n1,Ir191,DNA1\n2,Pr141,CD3e\n3,Nd142,CD20\n",
    "without a header": "DNA1\nCD3e\nCD20\n",
    "numbered, without a header": "1,DNA1\n2,CD3e\n3,CD20\n",
    "of semicolons": "cycle;marker_name\n1;DNA1\n1;CD3e\n1;CD20\n",
    "of tabs": "Marker\tcycle\nDNA1\t1\nCD3e\t1\nCD20\t1\n",
    "of a spreadsheet, with a byte order mark": "\ufeffmarker_name,cycle\r\nDNA1,1\r\nCD3e,1\r\nCD20,1\r\n",
    "with blank lines and spaces": "marker_name\n DNA1 \n\nCD3e\n CD20\n\n",
    "with quotes": 'marker_name,clone\n"DNA1","a, b"\n"CD3e",\n"CD20",x\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_names_are_read_from_a_table(tmp_path, kind):
    path = tmp_path / "markers.csv"
    path.write_bytes(TABLES[kind].encode())

    assert read_markers(path) == ("DNA1", "CD3e", "CD20")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"marker_name\nDNA1,\n,\nCD3e", "no name|is empty|DNA1"),
        (b"cycle,marker_name\n1,DNA1\n2,\n", "no name in row 3"),
        (b"marker_name\n\xff\xfeCD3\n", "not text in UTF-8"),
    ],
)
def test_a_table_without_names_is_refused(tmp_path, content, sentence):
    path = tmp_path / "markers.csv"
    path.write_bytes(content)

    if b"DNA1,\n" in content:  # an empty row is no channel
        assert read_markers(path) == ("DNA1", "CD3e")
    else:
        with pytest.raises(InputError, match=sentence):
            read_markers(path)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no marker table .*markers\.csv"):
        read_markers(tmp_path / "markers.csv")


@given(st.lists(st.sampled_from(["DNA", "DNA_2", "DNA_2_2", "CD3e", "DNA_3"]), max_size=8))
def test_repeated_names_are_kept_apart_and_others_stay(names):
    apart = distinct(names)

    assert len(set(apart)) == len(names) == len(apart)
    for place, (name, new) in enumerate(zip(names, apart, strict=True)):
        assert new == name or (name in names[:place] and new.startswith(name))


@pytest.mark.parametrize(
    ("markers", "nuclear"),
    [
        (["CD3e", "Hoechst", "DNA2"], "Hoechst"),
        (["CD3e", "DNA_1", "DNA_2"], "DNA_1"),
        (["Background", "dsDNA", "HH3"], "dsDNA"),
        (["H3", "CD99"], "H3"),
        (["Histone H3", "CD99"], "Histone H3"),
        (["CD45", "193Ir"], "193Ir"),
        (["Laminin_681", "H3K27Ac_1977"], "H3K27Ac_1977"),
        (["CD3e", "CD20", "CDH1"], None),
    ],
)
def test_the_nuclear_marker_is_known_by_its_name(markers, nuclear):
    assert find_nuclear_marker(markers) == nuclear
