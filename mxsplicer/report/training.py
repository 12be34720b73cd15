"""The section "Training": the loss of each chunk."""

from pathlib import Path
from typing import Any

from mxsplicer import pl
from mxsplicer.pl.training import last_losses, read_log
from mxsplicer.report.figures import inline_figure, new_figure


def training_section(log: Path | None) -> dict[str, Any] | None:
    """Return the loss of each chunk during training, as a figure and a table.

    Parameters
    ----------
    log
        ``log.jsonl`` of the run folder.
    """
    if log is None or not log.is_file():
        return None
    table = read_log(log)
    if table.empty:
        return None
    chunks = table["chunk"].nunique()
    columns = min(6, chunks)
    figure = new_figure(9.6 if columns > 3 else 2.8 * columns, 1.15 * -(-chunks // columns) + 0.5)
    pl.losses(table, figure=figure)
    last = last_losses(table)
    return {
        "figure": inline_figure(figure, f"Loss of {chunks} chunks over {table['step'].max()} steps.", vector=True),
        "steps": int(table["step"].max()),
        "columns": list(last.columns),
        "rows": [
            (name, [f"{value:.3g}" for value in row]) for name, row in zip(last.index, last.to_numpy(), strict=True)
        ],
    }
