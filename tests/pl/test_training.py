import json

import pandas as pd
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.pl.training import last_losses, read_log


def test_losses_have_a_panel_per_chunk_and_an_incomplete_line_is_skipped(tmp_path):
    entries = [{"step": i, "chunks": {"DAPI": {"loss": 10 - i}, "CD4": {"loss": 20 - i}}} for i in range(1, 6)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(entry) for entry in entries) + '\n{"step": 6, "chu')

    figure = pl.losses(log, figure=Figure())

    assert [panel.get_title() for panel in figure.axes if panel.get_visible()] == ["DAPI", "CD4"]
    assert last_losses(read_log(log)).loc["CD4"].tolist() == [19, 15]


def test_the_long_name_of_a_chunk_is_shortened_and_keeps_its_end():
    table = pd.DataFrame({"step": [1, 2], "chunk": "Cytoker_651((3356))Pr141 interior", "loss": [2.0, 1.0]})

    title = pl.losses(table, figure=Figure()).axes[0].get_title()

    assert len(title) <= 22
    assert title.startswith("Cytoker_65")
    assert title.endswith("41 interior")
