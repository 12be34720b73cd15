"""The napari panel of mxsplicer: clusters and cells to name, and which feature follows which marker, and where.

napari finds it by ``napari.yaml``. Only ``widgets`` imports Qt; reading, computing and painting do not.
"""
