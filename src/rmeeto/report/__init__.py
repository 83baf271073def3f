"""Records into tables, charts, pictures and one HTML page; no torch, so a report can be made tomorrow from JSON."""

from rmeeto.report.charts import CHARTS, write_charts
from rmeeto.report.evidence import Evidence, read_evidence
from rmeeto.report.page import write_report
from rmeeto.report.pictures import draw_sheet, draw_tokens, write_picture
from rmeeto.report.table import Table, result_table
from rmeeto.report.words import duration, verdict

__all__ = [
    "CHARTS",
    "Evidence",
    "Table",
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
