"""Settings of the simulated tissue: its panel, cells, optics and camera. docs/simulation.md gives their sources."""

from dataclasses import dataclass

REGIONS = ("empty", "epithelium", "stroma", "lymphoid")
EMPTY, EPITHELIUM, STROMA, LYMPHOID = range(4)
LINEAGES = ("epithelial", "T cell", "B cell", "macrophage", "endothelial", "fibroblast", "other immune")
EPITHELIAL, T_CELL, B_CELL, MACROPHAGE, ENDOTHELIAL, FIBROBLAST, OTHER = range(7)
T_CELL_SUBTYPES = ("helper", "cytotoxic", "regulatory")
HELPER, CYTOTOXIC, REGULATORY = range(3)
LOCALISATIONS = ("whole membrane", "one side")  # of PD-L1 in an epithelial cell
COINCIDENCES = ("same side", "opposite sides")  # of the caps of PD-1 and CD45RO on a T cell

HALO_UM = 32.0  # beyond a block: two of the largest cells and the reach of the optics


@dataclass(frozen=True)
class Marker:
    """A channel: how bright it is, in which cells and where in them."""

    name: str
    counts: float = 0.0  # mean over a positive cell, above background
    pattern: str = "membrane"
    expressed_by: tuple[tuple[int, float], ...] = ()  # lineage, level relative to `counts`
    nonspecific: float = 0.0  # median signal of cells without the protein, relative to `counts`
    autofluorescence: float = 60.0  # counts of tissue without any antibody


# Orion-CRC's panel in its order.
PANEL = (
    Marker("Hoechst", 9000, "nucleus", tuple((lineage, 1.0) for lineage in range(7)), 0.02, 80),
    Marker("AF1", autofluorescence=900),
    Marker("CD31", 2500, "membrane", ((ENDOTHELIAL, 1.0),), 0.03, 150),
    Marker("CD45", 3000, "membrane", ((T_CELL, 1.0), (B_CELL, 0.9), (MACROPHAGE, 0.6), (OTHER, 0.8)), 0.03, 120),
    Marker("CD68", 1800, "cytoplasm", ((MACROPHAGE, 1.0),), 0.04, 120),
    Marker("Argo550", autofluorescence=40),
    Marker("CD4", 400, "membrane", ((MACROPHAGE, 0.5),), 1.0, 100),
    Marker("FOXP3", 300, "nucleus", (), 1.0, 60),
    Marker("CD8a", 450, "membrane", (), 1.0, 80),
    Marker("CD45RO", 900, "cap", ((T_CELL, 1.0),), 0.2, 80),
    Marker("CD20", 4000, "membrane", ((B_CELL, 1.0),), 0.03, 60),
    Marker("PD-L1", 600, "membrane", ((EPITHELIAL, 1.0), (MACROPHAGE, 0.8)), 0.1, 60),
    Marker("CD3e", 2200, "membrane", ((T_CELL, 1.0),), 0.04, 60),
    Marker("CD163", 1500, "membrane", ((MACROPHAGE, 1.0),), 0.04, 50),
    Marker("E-Cadherin", 5000, "membrane", ((EPITHELIAL, 1.0),), 0.02, 50),
    Marker("PD-1", 450, "cap", ((T_CELL, 1.0),), 0.4, 40),
    Marker("Ki-67", 2500, "nucleus", (), 0.03, 40),
    Marker("Pan-CK", 12000, "cytoplasm", ((EPITHELIAL, 1.0),), 0.01, 40),
    Marker("SMA", 8000, "cytoplasm", ((FIBROBLAST, 1.0), (ENDOTHELIAL, 0.15)), 0.01, 40),
)
MARKERS = tuple(marker.name for marker in PANEL)

SPACING_UM = {EPITHELIUM: 10.8, STROMA: 11.0, LYMPHOID: 7.7}  # of the jittered lattice of cells of each region
LINEAGES_OF = {  # region: share of each lineage, in the order of LINEAGES
    EPITHELIUM: (0.95, 0.03, 0.0, 0.02, 0.0, 0.0, 0.0),
    STROMA: (0.0, 0.20, 0.04, 0.14, 0.10, 0.44, 0.08),
    LYMPHOID: (0.0, 0.48, 0.44, 0.04, 0.02, 0.0, 0.02),
}
SUBTYPE_SHARES = (0.45, 0.35, 0.20)  # of T cells, the same in every region
DIAMETER_UM = (13.5, 8.6, 8.6, 12.0, 10.0, 11.5, 9.5)  # by lineage, where no neighbour is in the way
ELONGATION = (1.35, 1.1, 1.1, 1.35, 2.4, 3.2, 1.15)  # long axis over short axis
NUCLEUS_SIZE = (0.62, 0.80, 0.80, 0.60, 0.70, 0.62, 0.68)  # diameter relative to the cell's
CYCLING_SHARES = (0.30, 0.06, 0.15, 0.02, 0.02, 0.03, 0.02)  # share with Ki-67
SPREAD_OF_EXPRESSION = 0.5  # standard deviation of log counts between cells that express a marker
SPREAD_OF_NONSPECIFIC = 0.6  # and between those that do not

MEMBRANE_UM = 0.5
FOCUS_UM, OUT_OF_FOCUS_UM, OUT_OF_FOCUS_SHARE = 0.40, 2.0, 0.50
BLEED_THROUGH = 0.01  # of each channel into the next
OFFSET = 100.0  # counts of the camera in the dark
ELECTRONS_PER_COUNT, READ_NOISE_ELECTRONS = 0.46, 1.6
FIELD_UM, VIGNETTING = 512.0, 0.08  # side of a field of view; residual loss of illumination at its corners
SPREAD_OF_GAIN = 0.25  # standard deviation of log gain between slides

BY_LINEAGE = {"diameter": DIAMETER_UM, "elongation": ELONGATION, "nucleus": NUCLEUS_SIZE, "cycling": CYCLING_SHARES}
