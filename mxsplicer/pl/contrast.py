"""Which markers are shown together in an image of tissue."""

import numpy as np
from anndata import AnnData

from mxsplicer.images.markers import find_nuclear_marker, is_nuclear
from mxsplicer.pl import colors

_CELLS = 20_000


def contrasting_markers(adata: AnnData) -> list[str]:
    """Return the markers in the images of the tissue: the nuclear one and three with high contrast between cells."""
    names = [str(name) for name in adata.var_names]
    nuclear = find_nuclear_marker(names)
    some = adata.X[:: max(1, adata.n_obs // _CELLS)]
    logged = np.log1p(np.maximum(some.toarray() if hasattr(some, "toarray") else np.asarray(some), 0))
    contrast = np.percentile(logged, 98, axis=0) - np.percentile(logged, 40, axis=0)
    sd = logged.std(axis=0)
    z = (logged - logged.mean(axis=0)) / np.where(sd > 0, sd, 1)
    chosen = [names.index(nuclear)] if nuclear else []
    nuclear_stains = {i for i, name in enumerate(names) if is_nuclear(name)}
    while len(chosen) < min(len(colors.CHANNELS), len(names)):
        free = [i for i in range(len(names)) if i not in chosen and (i not in nuclear_stains or len(names) <= 4)]
        if not free:
            break
        similarity = np.abs(z[:, free].T @ z[:, chosen]).max(axis=1, initial=0) / len(z)
        chosen.append(free[int(np.argmax(contrast[free] * (1 - similarity)))])
    return [names[i] for i in chosen]
