"""Arrays and labels in, plotly figures and pages out. Knows no results.

One look for the whole package: sequential single-hue scales (readable without colour vision, and in print), tokens top to
bottom, layers left to right, every axis named, sizes that fit a notebook.
"""

from tl_knowledge.drawing.bars import bar_chart, grouped_bars, labelled_points
from tl_knowledge.drawing.heat_maps import HeatMap, heat_maps
from tl_knowledge.drawing.lines import Line, LinePanel, line_panels
from tl_knowledge.drawing.look import PALETTE
from tl_knowledge.drawing.page import Table, html_page
from tl_knowledge.drawing.views import HtmlView

__all__ = [
    "PALETTE",
    "HeatMap",
    "HtmlView",
    "Line",
    "LinePanel",
    "Table",
    "bar_chart",
    "grouped_bars",
    "heat_maps",
    "html_page",
    "labelled_points",
    "line_panels",
]
