"""A folder with a web page of a result: tissue, UMAP, correlations and example cells, without a server."""

MAX_MEGAPIXELS = 100.0  # of the finest level, per channel; 17 channels of it take about 0.5 GB
