"""Public names of the analyses, loaded when they are first used."""

from .clustering import cluster as cluster
from .clustering import cluster_profiles as cluster_profiles
from .clustering import name_clusters as name_clusters
from .clustering import names_fit as names_fit
from .clustering import names_of_clusters as names_of_clusters
from .correlation import correlate as correlate
from .correlation import partial_correlation as partial_correlation
from .correlation import partners as partners
from .efficiency import probe_few_labels as probe_few_labels
from .enrichment import enrich_neighbourhoods as enrich_neighbourhoods
from .examples import pick_examples as pick_examples
from .importance import permutation_importance as permutation_importance
from .local import local_correlation as local_correlation
from .mixing import measure_mixing as measure_mixing
from .outlines import cells_inside as cells_inside
from .outlines import restricted as restricted
from .outlines import rows_inside as rows_inside
from .probing import probe as probe
from .scaling import whiten_markers as whiten_markers
from .similarity import index_cells as index_cells
from .similarity import similar as similar
from .spillover import find_confounders as find_confounders
from .spillover import neighbourhood_intensity as neighbourhood_intensity
from .structure import measure_structure as measure_structure
from .tasks import set_task as set_task
from .verdicts import verdict as verdict
