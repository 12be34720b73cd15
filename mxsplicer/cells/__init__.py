"""Cells: a mask and its slide become a table with one row per cell."""

MIN_AREA_UM2 = 5.0  # smaller cells are left out by default, and counted in the ledger
