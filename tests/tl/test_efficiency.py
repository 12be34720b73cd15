import numpy as np

from mxsplicer import tl
from mxsplicer.tl.efficiency import probe_few_labels
from mxsplicer.tl.tasks import set_task


def test_balanced_accuracy_rises_with_the_number_of_labels(cells):
    adata = cells(3000)
    adata.obsm["X_splicer"][:, :4] *= 0.4
    task = set_task(adata, label="kind")

    curve = probe_few_labels(adata, task, labels_per_class=(10, 50, 100_000), representations=["SpliCER"])
    whole = tl.probe(adata, label="kind", representations=["SpliCER"])

    splicer = curve[curve["representation"] == "SpliCER"].set_index("labels_per_class")
    assert list(splicer.index) == [10, 50]  # no class has the third
    assert splicer["balanced_accuracy"].is_monotonic_increasing
    assert splicer["balanced_accuracy"][50] < whole["balanced_accuracy"].iloc[0]
    np.testing.assert_allclose(curve[curve["representation"] == "mean intensity"]["gain"], 0)
