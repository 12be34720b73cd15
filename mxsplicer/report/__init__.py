"""One self-contained HTML page that describes a result. Each section of the page has a file of its own here."""

from mxsplicer.report.page import write_report

__all__ = ["write_report"]
