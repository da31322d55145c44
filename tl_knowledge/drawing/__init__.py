"""Arrays and labels in, plotly figures and pages out. Knows no results.

One look for the whole package: sequential single-hue scales (readable without colour vision, and in print), tokens top to
bottom, layers left to right, every axis named, sizes that fit a notebook.
"""

from tl_knowledge.drawing.bars import bar_chart, grouped_bars, labelled_points
from tl_knowledge.drawing.graphs import Arrow, GraphPoint, graph
from tl_knowledge.drawing.heat_maps import HeatMap, heat_maps
from tl_knowledge.drawing.lines import Line, LinePanel, line_panels
from tl_knowledge.drawing.look import PALETTE, dark
from tl_knowledge.drawing.page import HtmlView, PagePart, Table, ViewPage, html_page
from tl_knowledge.drawing.scatter import Points, scatter

__all__ = [
    "PALETTE",
    "Arrow",
    "GraphPoint",
    "HeatMap",
    "HtmlView",
    "Line",
    "LinePanel",
    "PagePart",
    "Points",
    "Table",
    "ViewPage",
    "bar_chart",
    "dark",
    "graph",
    "grouped_bars",
    "heat_maps",
    "html_page",
    "labelled_points",
    "line_panels",
    "scatter",
]
