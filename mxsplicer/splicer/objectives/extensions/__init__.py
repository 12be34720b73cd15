"""Our extensions of SpliCER, one file each; without them an objective is the paper's sum over chunks.

====================  ==============================================================  ================================
file                  what it adds                                                    field of ``Recipe``
====================  ==============================================================  ================================
``redundancy``        a term that keeps chunks from repeating each other              ``redundancy_weight``
``consistency``       a loss between two views of the same component                  ``consistency_weight``
``selection``         training k of n components in each step, round-robin            ``components_per_step``
``missing_markers``   leaving cells out of components whose markers their slide lacks  – (``train(panel="union")``)
====================  ==============================================================  ================================

All are functions of their arguments. Weights, widths and losses of single chunks are in
:class:`~mxsplicer.splicer.losses.chunks.Chunks`.
"""
