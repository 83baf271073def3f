"""Records into tables, charts, pictures and one HTML page; no torch, so a report can be made tomorrow from JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.report.charts import CHARTS, write_charts
    from rmeeto.report.evidence import Evidence, read_evidence
    from rmeeto.report.page import write_report
    from rmeeto.report.pictures import draw_batch, draw_sheet, draw_tokens, write_picture
    from rmeeto.report.table import Table, result_table
    from rmeeto.report.words import duration, verdict

_HOMES = {
    "CHARTS": "rmeeto.report.charts",
    "Evidence": "rmeeto.report.evidence",
    "Table": "rmeeto.report.table",
    "draw_batch": "rmeeto.report.pictures",
    "draw_sheet": "rmeeto.report.pictures",
    "draw_tokens": "rmeeto.report.pictures",
    "duration": "rmeeto.report.words",
    "read_evidence": "rmeeto.report.evidence",
    "result_table": "rmeeto.report.table",
    "verdict": "rmeeto.report.words",
    "write_charts": "rmeeto.report.charts",
    "write_picture": "rmeeto.report.pictures",
    "write_report": "rmeeto.report.page",
}

__all__ = [
    "CHARTS",
    "Evidence",
    "Table",
    "draw_batch",
    "draw_sheet",
    "draw_tokens",
    "duration",
    "read_evidence",
    "result_table",
    "verdict",
    "write_charts",
    "write_picture",
    "write_report",
]

__getattr__ = lazily(__name__, _HOMES)
