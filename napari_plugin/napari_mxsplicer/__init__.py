"""The napari panel of mxsplicer: which learned feature correlates with which marker, and where in the tissue.

napari finds it by ``napari.yaml``. Only ``widgets`` imports Qt; reading, computing and painting do not.
"""
