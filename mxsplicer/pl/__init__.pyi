"""Public names of the figures, loaded when they are first used."""

from .clusters import markers_by_cluster as markers_by_cluster
from .clusters import neighbourhoods as neighbourhoods
from .colors import CHANNELS as CHANNELS
from .colors import QUALITATIVE as QUALITATIVE
from .colors import composite as composite
from .colors import contrast_limits as contrast_limits
from .correlations import correlation as correlation
from .correlations import marker_diagonal as marker_diagonal
from .correlations import marker_support as marker_support
from .correlations import volcano as volcano
from .galleries import draw_cell as draw_cell
from .galleries import gallery as gallery
from .slides import slide as slide
from .spectra import spectrum as spectrum
from .tissue import local_map as local_map
from .tissue import spatial as spatial
from .training import losses as losses
from .umap import embedding as embedding
