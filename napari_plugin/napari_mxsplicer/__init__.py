"""The napari panel of mxsplicer: which learned feature follows which marker, and where.

napari finds it by ``napari.yaml``. What reads, computes and paints knows no Qt; ``widgets`` alone does.
"""
