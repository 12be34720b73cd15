"""Public names of the exports, loaded when they are first used."""

from .labels import write_labels as write_labels
from .outlines import write_outlines as write_outlines
from .spatialdata import write_spatialdata as write_spatialdata
from .tables import write_table as write_table
from .web.page import write_web as write_web
