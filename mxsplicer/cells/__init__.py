"""Cells: measure the cells of a mask on its slide, one row per cell."""

MIN_AREA_UM2 = 5.0  # smaller cells are left out by default, and counted in the ledger
