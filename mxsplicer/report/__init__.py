"""One self-contained HTML page about what was done to a slide and what came out."""

from mxsplicer.report.page import write_report

__all__ = ["write_report"]
