"""From slides to a result folder: the composition of all stages, each of which is a public function of its own.

Every stage writes under a temporary name and renames when it is done, and ``settings.json`` remembers what the folder
was begun with; so the same call goes on where it stopped, a finished one does nothing, and another one is refused.
"""

from mxsplicer.pipeline.composition import embed_slides, write_result_report
from mxsplicer.pipeline.options import Options, Running
from mxsplicer.pipeline.planning import EmbeddingPlan, plan_slides

__all__ = ["EmbeddingPlan", "Options", "Running", "embed_slides", "plan_slides", "write_result_report"]
