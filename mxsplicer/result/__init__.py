"""The result folder: ``embed_slides`` runs all stages and writes one; other modules open, extend and check it.

job.py         one call: its slides, opened and checked   pipeline.py      embed_slides: the stages in order
options.py     what can be chosen, and how it is written  cohort.py        the slides that a call or a table names
slides.py      one record of a slide                      folder.py        names of the files of a result
settings.py    what a result was begun with               config.py        the same, as a file of options
patch_size.py  patches that fit the cells                 planning.py      memory, time, disk and steps in advance
trials.py      a part of each slide, for planning         analysis.py      correlations, clusters, scores
features.py    the copy of z that a viewer reads          reporting.py     the report
merging.py     merge_results, append_slides               status.py        how far a folder is
verification.py  inputs and results compared              outcomes.py      how commands of a workflow ended
simulated.py   a small result without training
"""
