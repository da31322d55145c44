"""Tables and self-contained HTML pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import plotly.io

__all__ = ["Table", "html_page"]


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def html_page(title: str, parts: Sequence[str | Table | go.Figure]) -> str:
    """A self-contained page: no network needed. Strings are taken as HTML paragraphs, escape them first."""
    body: list[str] = []
    script_written = False
    for part in parts:
        if isinstance(part, str):
            body.append(part)
        elif isinstance(part, Table):
            body.append(_html_table(part))
        else:
            chart = plotly.io.to_html(
                part, full_html=False, include_plotlyjs=not script_written, config={"displayModeBar": False, "responsive": False}
            )
            body.append(f"<figure>{chart}</figure>")
            script_written = True
    content = "\n".join(body)
    name = html.escape(title)
    head = f"<meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body><main>\n<h1>{name}</h1>\n{content}\n</main></body></html>\n"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


_STYLE = """
body { margin: 0; background: white; color: #1f2430; font: 15px/1.5 Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 32px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 32px 0 4px; }
p { max-width: 76ch; } .prompt { font: 17px/2.1 ui-monospace, 'DejaVu Sans Mono', monospace; }
.prompt span { padding: 3px 1px; border-bottom: 3px solid transparent; white-space: pre; }
.prompt .subject { background: #efe6f7; border-color: #6a51a3; } .prompt .relation { background: #e5f3e8; border-color: #238b45; }
.prompt .answer { background: #fdeee0; border-color: #d94801; }
table { border-collapse: collapse; margin: 12px 0; } th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #e4e7ec; }
th { font-weight: 600; color: #667085; } td { font-variant-numeric: tabular-nums; }
figure { margin: 12px 0; overflow-x: auto; } footer, .note { color: #667085; font-size: 13px; }
"""
