"""Draw docs/images/demo.png from the result of `make demo`.

.venv/bin/python docs/images/make_demo_picture.py
"""

from pathlib import Path

import anndata
from matplotlib.figure import Figure

from mxsplicer import open_slide, pl

root = Path(__file__).parents[2]
slide = open_slide(root / "demo/tissue.ome.tiff")
adata = anndata.read_h5ad(root / "demo/tissue.mxs/cells.h5ad")

figure = Figure(figsize=(15, 5.2), layout="constrained")
tissue, clusters, features = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.2))
pl.slide(slide, markers=["Hoechst", "Pan-CK", "CD3e", "CD20"], ax=tissue)
pl.spatial(adata, color="leiden", ax=clusters)
pl.correlation(adata, ax=features)
for axes, title in ((tissue, "slide"), (clusters, "clusters"), (features, "features and markers")):
    axes.set_title(title)
figure.savefig(root / "docs/images/demo.png", dpi=80)
