"""The section "Cell ledger": the outcome of every cell of the mask."""

from typing import Any

import pandas as pd

_TOTAL = "in mask"


def ledger_section(about: dict[str, Any]) -> dict[str, Any] | None:
    """Return the number of cells with each outcome, per slide and in total, and whether they add up.

    Parameters
    ----------
    about
        ``uns["mxsplicer"]``.
    """
    entries = about.get("ledger")
    if not entries:
        return None
    table = pd.DataFrame({name: dict(outcomes) for name, outcomes in entries.items()}).T.fillna(0).astype(int)
    outcomes = [column for column in table.columns if column != _TOTAL]
    table = table[[*outcomes, *([_TOTAL] if _TOTAL in table else [])]]
    adds_up = _TOTAL not in table or bool((table[outcomes].sum(axis=1) == table[_TOTAL]).all())
    rows = [(name, [f"{n:,}" for n in row]) for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return {"columns": list(table.columns), "rows": rows, "total": [f"{n:,}" for n in table.sum()], "adds_up": adds_up}
