"""How the explorer shows things: in the package's colours, with a figure's words as text above it."""

from __future__ import annotations

import re
from importlib.resources import files

import plotly.graph_objects as go
import pytest

from tl_knowledge import drawing
from tl_knowledge.drawing.look import NIGHT, ROLE_COLOURS
from tl_knowledge.explore.page.draw import figure_part


def test_the_explorer_has_the_roles_colours_by_day_and_by_night():
    sheet = (files("tl_knowledge.explore") / "page" / "assets" / "explorer.css").read_text(encoding="utf-8")
    for role in ("subject", "relation", "answer"):
        day = ROLE_COLOURS[role]
        assert re.findall(rf"--{role}: (#[0-9a-f]{{6}});", sheet) == [day, NIGHT.get(day, day)]


@pytest.mark.parametrize("night", [False, True])
def test_a_figures_words_stand_above_it_as_text_and_it_is_as_high_as_what_is_drawn(night: bool):
    figure = drawing.bar_chart(["a", "b"], [1.0, 2.0], title="<unk> & more", subtitle="of <b>", value_axis="x", colours="MLP")
    heading, small, graph, words = figure_part(figure, "it", night=night, words="seen").children
    assert (heading.children, small.children, words.children) == ("<unk> & more", "of <b>", "seen")
    head = figure.layout.meta["head"]
    assert graph.style["height"] == f"{figure.layout.height - head}px" and graph.figure.layout.margin.t == figure.layout.margin.t - head
    assert graph.figure.layout.title.text is None and graph.figure.layout.width is None
    day = ROLE_COLOURS["MLP"]
    assert graph.figure.data[0].marker.color == (NIGHT[day] if night else day)
    assert isinstance(graph.figure, go.Figure) and figure.layout.title.text == "&lt;unk&gt; &amp; more"  # the figure itself stays
