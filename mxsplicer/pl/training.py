"""The loss of each chunk during training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mxsplicer.pl import colors

_TERMS = ("invariance", "variance", "covariance")


def read_log(path: str | Path) -> pd.DataFrame:
    """Read the losses of a training to plot, from its log: ``step``, ``epoch``, ``seconds``, ``chunk``, ``loss``, ...

    The last line of a run that was killed may be incomplete; lines that cannot be parsed are skipped.
    """
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        times = {key: entry.get(key) for key in ("step", "epoch", "seconds")}
        rows += [times | {"chunk": chunk} | terms for chunk, terms in entry.get("chunks", {}).items()]
    return pd.DataFrame(rows, columns=None if rows else ["step", "epoch", "seconds", "chunk", "loss"])


def losses(log: str | Path | pd.DataFrame, *, figure: Figure | None = None) -> Figure:
    """Show the loss of every chunk during training, one small panel each, with shared axes.

    Parameters
    ----------
    log
        ``log.jsonl`` of a run folder, or the table that :func:`read_log` returns.
    figure
        Where to draw; a new one by default.
    """
    table = log if isinstance(log, pd.DataFrame) else read_log(log)
    chunks = list(dict.fromkeys(table["chunk"]))
    n_columns = min(6, max(1, len(chunks)))
    n_rows = max(1, -(-len(chunks) // n_columns))
    size = (1.9 * n_columns + 0.6, 1.25 * n_rows + 0.5)
    figure = figure or plt.figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(chunks) :]:
        panel.set_visible(False)
    loss = table["loss"].to_numpy(dtype=np.float64)
    finite = loss[np.isfinite(loss)]
    for panel, chunk in zip(panels.flat, chunks, strict=False):
        rows = table[table["chunk"] == chunk]
        window = max(1, len(rows) // 60)
        panel.plot(rows["step"], rows["loss"], color=colors.ABSENT, linewidth=0.7)
        smooth = rows["loss"].rolling(window, min_periods=1, center=True).median()
        panel.plot(rows["step"], smooth, color=colors.QUALITATIVE[0], linewidth=1.3)
        panel.set_title(_short(chunk), fontsize=8, pad=2)
        panel.tick_params(labelsize=7, length=2)
        panel.spines[["top", "right"]].set_visible(False)
    if finite.size:
        panels.flat[0].set_ylim(min(0.0, finite.min()), np.percentile(finite, 99.5) * 1.05 or 1.0)
    figure.supxlabel("step", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    return figure


def _short(chunk: str) -> str:
    # The end of the name says which part of the cell it is.
    return chunk if len(chunk) <= 22 else f"{chunk[:10]}…{chunk[-11:]}"


def last_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return the losses of a training that a figure names: mean of each chunk in the first 5 % and the last 5 %."""
    terms = ["loss", *(term for term in _TERMS if term in table)]
    steps = np.sort(table["step"].unique())
    few = max(1, len(steps) // 20)
    first = table[table["step"] <= steps[few - 1]].groupby("chunk", sort=False)["loss"].mean()
    last: pd.DataFrame = table[table["step"] >= steps[-few]].groupby("chunk", sort=False)[terms].mean()
    last.insert(0, "first loss", first)
    return last
