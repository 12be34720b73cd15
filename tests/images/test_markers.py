"""Marker names are found in the tables that people have."""

import logging

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.images.markers import (
    MarkerPanel,
    agree,
    distinct,
    find_nuclear_marker,
    nuclear_candidates,
    parse_renames,
    read_panel,
)
from mxsplicer.images.opening import open_slide
from mxsplicer.images.slide import Slide, drop_markers

TABLES = {
    "mcmicro": "cycle,marker_name,filter\n1,DNA1,DAPI\n1,CD3e,FITC\n1,CD20,Cy3\n",
    "mcmicro with a channel number": "channel_number,cycle_number,marker_name\n1,1,DNA1\n2,1,CD3e\n3,1,CD20\n",
    "steinbock": "channel,name,keep,deepcell\nIr191,DNA1,1,1\nPr141,CD3e,1,\nNd142,CD20,1,2\n",
    "mcmicro in another order": "channel_number,marker_name\n3,CD20\n1,DNA1\n2,CD3e\n",
    "numbered from 0": "channel_number,marker_name\n1,CD3e\n0,DNA1\n2,CD20\n",
    "of the last cycles": "channel_number,cycle_number,marker_name\n21,6,DNA1\n22,6,CD3e\n23,7,CD20\n",
    "numbered from 1 in each cycle": "channel_number,cycle_number,marker_name\n1,2,CD20\n1,1,DNA1\n2,1,CD3e\n",
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

    assert read_panel(path).names == ("DNA1", "CD3e", "CD20")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"marker_name\nDNA1,\n,\nCD3e", "no name|is empty|DNA1"),
        (b"cycle,marker_name\n1,DNA1\n2,\n", "no name in row 3"),
        (b"marker_name\nCD3\0\n", "not text"),
        (b"marker_name\n\x81\n", "cannot be read"),
        (b"PK\x03\x04marker_name\n", "is a spreadsheet.. Save it as CSV"),
        (b"marker_name\n", "a header and no rows"),
        (b"channel_number,marker_name\n1,DNA1\n3,CD3e\n", "no channel_number between 1 and 3"),
        (b"channel_number,marker_name\n1,DNA1\n1,CD3e\n", "gives the channel_number 1 twice"),
        (b"marker_name,remove\nDNA1,\nCD3e,perhaps\n", "has 'perhaps' in its column 'remove'. Write TRUE or FALSE"),
    ],
)
def test_a_table_without_names_is_refused(tmp_path, content, sentence):
    path = tmp_path / "markers.csv"
    path.write_bytes(content)

    if b"\n,\n" in content:  # an empty row is not a channel
        assert read_panel(path).names == ("DNA1", "CD3e")
    else:
        with pytest.raises(InputError, match=sentence):
            read_panel(path)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"marker table .*markers\.csv was not found"):
        read_panel(tmp_path / "markers.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_any_unicode_is_read(tmp_path, encoding):
    path = tmp_path / "markers.csv"
    path.write_bytes("marker_name\tcycle\r\nβ-catenin\t1\r\nKi-67\t1\r\n".encode(encoding))

    assert read_panel(path).names == ("β-catenin", "Ki-67")


IMAGE = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)


def write_slide(folder, names=("DNA", "CD3e", "DNA", "CD20")):
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, **({"Channel": {"Name": list(names)}} if names else {})}
    tifffile.imwrite(folder / "S01.ome.tif", IMAGE, photometric="minisblack", metadata=metadata, ome=True)
    return folder / "S01.ome.tif"


def write_table(folder, content):
    (folder / "markers.csv").write_text(content, encoding="utf-8")
    return folder / "markers.csv"


@pytest.mark.parametrize("true", ["true", "TRUE", "1"])
def test_channels_that_mcmicro_removes_are_dropped_and_cycles_distinguish_repeated_names(tmp_path, true):
    table = f"channel_number,cycle_number,marker_name,remove\n1,1,DNA,\n2,1,CD3e,{true}\n3,4,DNA,\n4,4,CD20,FALSE\n"

    slide = open_slide(write_slide(tmp_path), markers=write_table(tmp_path, table))

    assert slide.markers == ("DNA", "DNA_4", "CD20")
    assert slide.markers_in_file == ("DNA", "DNA", "CD20")
    np.testing.assert_array_equal(slide.image[:, 1:4, 5], IMAGE[[0, 2, 3], 1:4, 5])
    np.testing.assert_array_equal(slide.image[1:, :2], IMAGE[2:, :2])
    np.testing.assert_array_equal(slide.image[1], IMAGE[2])


@pytest.mark.parametrize("column", ["keep\nDNA,1\nArgon,0\n", "remove\nDNA,\nArgon,1\n"])
def test_channels_that_are_not_wanted_may_be_absent_from_the_image(tmp_path, column):
    table = f"name,{column}CD3e,\nDNA,\nCD20,\n"

    assert open_slide(write_slide(tmp_path), markers=write_table(tmp_path, table)).markers == (
        "DNA",
        "CD3e",
        "DNA_2",
        "CD20",
    )


def test_markers_are_renamed_all_at_once_and_dropped_by_their_new_names(tmp_path):
    slide = open_slide(write_slide(tmp_path), rename={"CD3e": "CD20", "CD20": "CD3e"}, drop=["CD20", "DNA_2"])

    assert slide.markers == ("DNA", "CD3e")
    np.testing.assert_array_equal(slide.image[...], IMAGE[[0, 3]])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rename": {"CD3": "CD8"}}, "no marker 'CD3'. Did you mean 'CD3e'"),
        ({"rename": {"CD3e": "CD20"}}, "has a marker 'CD20' already"),
        ({"drop": ["CD21"]}, "no marker 'CD21'. Did you mean 'CD20'"),
        ({"drop": ["DNA", "DNA_2", "CD3e", "CD20"]}, "all 4 markers of slide 'S01' are to be dropped"),
    ],
)
def test_renaming_and_dropping_what_is_not_there_is_refused(tmp_path, options, sentence):
    with pytest.raises(InputError) as refused:
        open_slide(write_slide(tmp_path), **options)

    assert sentence in str(refused.value)


def test_an_image_of_fewer_channels_reads_no_other():
    class Watched:
        shape, dtype, ndim, asked = (4, 6, 8), np.dtype(np.uint16), 3, []

        def __getitem__(self, key):
            self.asked.append(key[0])
            return IMAGE[key]

    slide = drop_markers(Slide("S01", Watched(), ("A", "B", "C", "D"), 0.5, pyramid=(Watched(),)), ["A", "C"])

    np.testing.assert_array_equal(slide.image[:, 2:4], IMAGE[[1, 3], 2:4])
    np.testing.assert_array_equal(slide.pyramid[0][0], IMAGE[1])
    assert Watched.asked == [[1, 3], 1]


def test_renames_are_read_from_text():
    assert parse_renames([" CD3 = CD3e "]) == {"CD3": "CD3e"}
    for pairs in (["CD3"], ["=CD3"], ["CD3="], ["CD3=a", "CD3=b"]):
        with pytest.raises(InputError, match="`rename`"):
            parse_renames(pairs)


def test_a_wrong_number_of_names_is_shown_next_to_the_channels_with_differences_marked(tmp_path):
    table = write_table(tmp_path, "marker_name\nDNA\nCD3e\nCD20\n")

    with pytest.raises(InputError) as refused:
        open_slide(write_slide(tmp_path), markers=table)

    assert str(refused.value).splitlines() == [
        "S01.ome.tif has 4 channels but 3 marker names (markers.csv); one row per channel is needed. "
        "Rows that differ are marked:",
        "    channel  in the file  in markers.csv",
        "    1        DNA          DNA",
        "    2        CD3e         CD3e",
        "  > 3        DNA          -",
        "    4        CD20         CD20",
    ]


def test_another_number_of_names_is_refused_where_the_file_has_none(tmp_path):
    with pytest.raises(InputError, match=r"4 channels but 2 marker names \(given\).*The names: DNA, CD3e\.$"):
        open_slide(write_slide(tmp_path, names=None), markers=["DNA", "CD3e"])


def test_the_same_names_in_another_order_are_refused_for_one_of_the_two_is_mislabelled(tmp_path):
    table = write_table(tmp_path, "marker_name\nDNA\nCD20\nDNA\nCD-3E\n")

    with pytest.raises(InputError, match=r"one of the two is mislabelled(.|\n)*`rename`(.|\n)*> 2        CD3e"):
        open_slide(write_slide(tmp_path), markers=table)


def test_names_of_the_table_replace_those_of_the_file_and_this_is_logged(caplog):
    caplog.set_level(logging.INFO, "mxsplicer")
    panel = MarkerPanel(("DNA", "CD3E", "CD8a"), "markers.csv")

    assert agree(panel, 3, ("DNA", "CD3e", "CD20"), name="S01.ome.tif").names == panel.names
    assert caplog.messages == ["markers.csv replaces names of S01.ome.tif: CD20 → CD8a"]


def test_names_that_a_writer_made_up_are_replaced_without_a_word(caplog):
    caplog.set_level(logging.INFO, "mxsplicer")

    agree(MarkerPanel(("DNA", "CD3e")), 2, ("Channel:0:0", "Channel:0:1"), name="S01.ome.tif")

    assert caplog.messages == []


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
        (["CD45", "Nuc", "Nucleolin"], "Nuc"),
        (["Laminin_681", "H3K27Ac_1977"], "H3K27Ac_1977"),
        (["CD3e", "CD20", "CDH1"], None),
        (["CD3", "phospho Histone", "DNA1", "DNA2"], "DNA1"),
        (["CD3", "pHistone_H3", "DNA_1", "DNA_2"], "DNA_1"),
        (["CD3", "phospho Histone", "10331253Ir191Di Iridium"], "10331253Ir191Di Iridium"),
        (["CD3", "Nucleolin", "SYTO 13", "SYTO 13 (2)"], "SYTO 13"),
        (["AF_DAPI", "bg_DAPI", "DAPI"], "DAPI"),
        (["Histone H3", "HH3", "191Ir"], "191Ir"),
        (["B7-H3", "HH3"], "HH3"),
        (["H3K27me3", "Histone H3"], "Histone H3"),
    ],
)
def test_the_nuclear_marker_is_known_by_its_name(markers, nuclear):
    assert find_nuclear_marker(markers) == nuclear


NUCLEAR = """
    Hoechst, HOECHST1, Hoechst33342, Hoechst 33342, H33342, DAPI, DAPI-01, DAPI_1, 1_DAPI, nuclear_DAPI, dsDNA, DNA,
    DNA1, DNA_1, DNA-2, DNA 3, DNA (cycle 1), Ir191_DNA, DNA_Ir193, 191Ir, 193Ir, Ir191, Ir(191), Ir-193,
    10331253Ir191Di, Iridium, SYTO 13, SYTO13, SYTO, Sytox, SYTOX Green, TO-PRO-3, TOPRO3, TO-PRO, YOYO-1, DRAQ5, PI,
    Propidium Iodide, 7-AAD, NucBlue, Nuclei, nuclei_stain, Nuc, Nuclear, nucleus, NuclearStain, H3, HH3, Histone H3,
    HistoneH3, 176Yb_H3, H3K27Ac_1977, H3K27me3, H3K9ac, Hematoxylin
"""
NOT_NUCLEAR = """
    pHH3, pH3, p-H3, phospho Histone, pHistone_H3, pHistoneH3, Phospho-Histone H3, phosphoH3, H3pS10, H3-pSer10,
    Histone H3 (phospho S10), HistoneH3_pS28, H3S10ph, H3P, H2AX, gH2AX, Histone H2AX, H3K27M, H3.3K27M, HDAC1,
    histone deacetylase 1, Nucleolin, nucleophosmin, Nucleoporin, NUP98, NuMA, nuclear factor kB, AF_DAPI, bg_DAPI,
    DAPI_bg, DAPI_background, DAPI AF, blank_DAPI, DAPI-empty, Autofluorescence DAPI, AF_Hoechst, Background, DNAM1,
    DNAM-1, DNA-PK, DNAJB1, DNase1, DNMT1, DNA polymerase, mtDNA, PI16, PI3K, PIP, B7-H3, B7H3, CD276, CD3, iRFP, PCNA,
    Ki67, CIRBP, AirID, HLA-DR, IgG
"""


def test_stains_of_nuclei_are_known_in_every_spelling_and_others_are_not():
    assert [name for name in NUCLEAR.replace("\n", " ").split(",") if not nuclear_candidates([name.strip()])] == []
    assert nuclear_candidates([name.strip() for name in NOT_NUCLEAR.replace("\n", " ").split(",")]) == []
