import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.report.markers import marker_cards
from mxsplicer.report.quality import quality_section


def test_staining_that_differs_is_flagged_and_a_median_near_zero_is_not():
    rng = np.random.default_rng(0)
    x = rng.gamma(4, 50, (900, 3))
    x[:300, 0] *= 8
    x[:, 1] = rng.poisson(0.4, 900)  # counts: some slides have a median of 0, and one a median just above
    x[300:600, 1] += 0.01
    obs = pd.DataFrame({"slide": np.repeat(["S01", "S02", "S03"], 300)}, index=[str(i) for i in range(900)])
    adata = AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=["CD3e", "CD20", "CD8a"]))

    rows = quality_section(adata, marker_cards(adata, []))["rows"]

    first, *others = [row["flags"] for row in rows]
    assert first.startswith("differs from other slides: CD3e (6×)")
    assert others == ["–", "–"]
