"""The result folder: ``embed_slides`` runs all stages and writes one; other modules open, extend and check it.

pipeline.py    embed_slides: the stages in order          folder.py        names of the files
options.py     what can be chosen                         slides.py        one record of a slide
cohort.py      the table of slides                        merging.py       merge_results, append_slides
opening.py     open, check, begin or continue             status.py        how far a folder is
job.py         one call                                   choices.py       patch size and steps that are not given
stages.py      masks, cells, patches, models, z           verification.py  inputs and results compared
analysis.py    correlations, clusters, scores             outcomes.py      how commands of a workflow ended
reporting.py   the report                                 planning.py      memory, time and disk in advance
                                                          trials.py        a part of each slide, for planning
"""
