"""The singular values of a representation, which show how many of its dimensions are used."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, plain_number
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import learned_key, representation
from mxsplicer.tl.structure import rank_me, singular_values_of

_MOST_CELLS = 50_000


def spectrum(
    adata: AnnData, *, use_rep: str | Sequence[str] | None = None, ax: Axes | None = None, seed: int = 0
) -> Axes:
    """Show the singular values of a representation, largest first, on a logarithmic scale.

    A curve that falls early means that features are redundant; one that drops to 0 means that the representation has
    collapsed (Farndale et al. 2025, figure 2b). The legend gives RankMe, the effective rank (Garrido et al. 2023, arXiv
    2210.02885, equation 1).

    Parameters
    ----------
    adata
        Cells with representations in ``obsm``. Of more than 50,000 a random sample is used.
    use_rep
        One key or several; the embedding by default.
    ax
        Where to draw; a new figure by default.
    seed
        Seed of the sample.
    """
    keys = [use_rep] if isinstance(use_rep, str) else list(use_rep or [learned_key(adata)])
    rows = np.arange(adata.n_obs)
    if adata.n_obs > _MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(adata.n_obs, _MOST_CELLS, replace=False))
    ax = axes_or_new(ax, (5.5, 3.5))
    for code, key in enumerate(keys):
        values = singular_values_of(read_rows(representation(adata, key), rows))
        label = f"{key.removeprefix('X_')}, RankMe {rank_me(values):.1f} of {len(values)}"
        shown = np.maximum(values / max(values[0], 1e-30), 1e-12)
        ax.plot(np.arange(1, len(values) + 1), shown, color=colors.category_color(code), label=label)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(plain_number)
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("dimension, largest first")
    ax.set_ylabel("singular value / largest")
    ax.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
