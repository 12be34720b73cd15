"""Defaults of the analyses, which the command line shows too; importing them loads nothing else."""

RESOLUTION, N_NEIGHBORS = 1.0, 15  # of Leiden and of the graph of neighbours
MAX_CLUSTERED_CELLS = 50_000
MAX_R2_CELLS = 50_000
N_PARTNERS = 3  # features shown for each marker
SCALE = "neighbourhood"  # of local correlation
MAX_SCORED_CELLS = 100_000  # of one label
MAX_IMAGE_CELLS = 10_000  # whose patches are read for baselines
MAX_IMPORTANCE_CELLS = 1_000  # that an encoder embeds once per marker
