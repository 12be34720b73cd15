"""Settings of the simulated tissue: panel, cells, optics, camera. docs/simulation-settings.md gives their sources."""

from dataclasses import dataclass

REGIONS = ("empty", "epithelium", "stroma", "lymphoid")
EMPTY, EPITHELIUM, STROMA, LYMPHOID = range(4)
LINEAGES = ("epithelial", "T cell", "B cell", "macrophage", "endothelial", "fibroblast", "other immune")
EPITHELIAL, T_CELL, B_CELL, MACROPHAGE, ENDOTHELIAL, FIBROBLAST, OTHER = range(7)
T_CELL_SUBTYPES = ("helper", "cytotoxic", "regulatory")
HELPER, CYTOTOXIC, REGULATORY = range(3)
LOCALISATIONS = ("whole membrane", "one side")  # of PD-L1 in an epithelial cell
COINCIDENCES = ("same side", "opposite sides")  # of the caps of PD-1 and CD45RO on a T cell
ALIGNMENTS = ("parallel", "crossing")  # of F-actin and microtubules in an epithelial cell
DOCKINGS = ("docked", "apart")  # bodies with DCP1A and stress granules with G3BP1 in an epithelial cell
GROWTHS = ("outwards", "inwards")  # of microtubules with EB1 at their ends, in an epithelial cell
SYNAPSES = ("towards", "away")  # granules of a T cell, seen from the infected cell that it touches

HALO_UM = 32.0  # beyond a block: two of the largest cells and the reach of the optics


@dataclass(frozen=True)
class Marker:
    """The settings of a simulated channel: how bright it is, in which cells and where in them."""

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

# Markers of the lineages, and seven whose states are visible only in how things are arranged (arrangements.py).
ARRANGEMENT_PANEL = (
    *(
        marker
        for marker in PANEL
        if marker.name in ("Hoechst", "CD45", "CD68", "CD20", "CD3e", "E-Cadherin", "Pan-CK", "SMA")
    ),
    Marker("F-actin", 1500, "actin", ((EPITHELIAL, 1.0),), 0.2, 60),
    Marker("alpha-tubulin", 1500, "microtubules", ((EPITHELIAL, 1.0),), 0.2, 60),
    Marker("G3BP1", 600, "stress granules", ((EPITHELIAL, 1.0),), 0.2, 60),
    Marker("DCP1A", 600, "bodies", ((EPITHELIAL, 1.0),), 0.2, 60),
    Marker("EB1", 600, "comets", ((EPITHELIAL, 1.0),), 0.2, 60),
    Marker("viral antigen", 25, "nucleus", (), 0.05, 60),
    Marker("Perforin", 900, "granules of T cells", ((T_CELL, 1.0),), 0.1, 60),
)
PANELS = {"orion-crc": PANEL, "arrangements": ARRANGEMENT_PANEL}

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

FIBRE_PERIODS_UM = (1.8, 2.4)  # of F-actin and of microtubules
N_GRANULES, N_COMETS = 6, 6  # in a cell
DOCKING_UM = 2.0  # from the centre of a granule to that of a body next to it
OVERLAP_UM, OVERLAPPING_SHARE = 1.0, 0.28  # the same, and how often, in cells whose bodies lie apart
COMET_LENGTH_UM, COMET_DEPTH_UM = 2.4, 2.5  # length of a comet; of its centre below the border of the cell
INFECTED_SHARE = 0.2  # of cells of any lineage
TOUCHING = 1.1  # cells whose centres are nearer than this share of the sum of their radii touch each other
OPPOSITE_DEGREES = 120.0  # between an infected neighbour and another one, at least

MEMBRANE_UM = 0.5
FOCUS_UM, OUT_OF_FOCUS_UM, OUT_OF_FOCUS_SHARE = 0.40, 2.0, 0.50
BLEED_THROUGH = 0.01  # of each channel into the next
OFFSET = 100.0  # counts of the camera in the dark
ELECTRONS_PER_COUNT, READ_NOISE_ELECTRONS = 0.46, 1.6
FIELD_UM, VIGNETTING = 512.0, 0.08  # side of a field of view; residual loss of illumination at its corners
SPREAD_OF_GAIN = 0.25  # standard deviation of log gain between slides

BY_LINEAGE = {"diameter": DIAMETER_UM, "elongation": ELONGATION, "nucleus": NUCLEUS_SIZE, "cycling": CYCLING_SHARES}
