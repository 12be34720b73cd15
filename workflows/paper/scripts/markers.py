"""How well z follows the markers (figure 3c), in three forms, each the mean and deviation over markers.

The paper's mean absolute r over the features rewards a redundant z; so the other two forms are the largest
absolute r, and the held-out R² of ridge regression from all of z to the marker's mean intensity in the cell.
"""

import numpy as np
import pandas as pd
from score import COLUMNS, arguments, read_cells

import mxsplicer
from mxsplicer import tl
from mxsplicer.splicer.run import untrained

FORMS = {"mean |r|": "mean_abs_r", "largest |r|": "max_abs_r", "ridge R²": "r2_mean"}


def main() -> None:
    """Correlate z of the run, and of the same encoder untrained, with mean intensities: one row per form."""
    parser = arguments(__doc__)
    parser.add_argument("--baselines", action="store_true", help="of the untrained encoder, instead of the run")
    given = parser.parse_args()
    run = mxsplicer.load_run(given.run)
    stores = [read_cells(store, table)[0] for store, table in zip(given.stores, given.labels, strict=True)]
    adata = mxsplicer.embed(untrained(run) if given.baselines else run, stores)
    tl.correlate(adata, use_rep=f"X_{run.method}")
    rows = [
        {
            "label": form,
            "representation": "untrained" if given.baselines else "z",
            "balanced_accuracy": np.mean(adata.var[f"{run.method}_{name}"]),
            "balanced_accuracy_sd": np.std(adata.var[f"{run.method}_{name}"]),
            "chance": 0.0,
            "n_cells": adata.n_obs,
            "folds_by": "sd is over markers",
        }
        for form, name in FORMS.items()
    ]
    pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
