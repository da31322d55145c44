"""Colours of roles in figures that several rooms draw."""

from __future__ import annotations

from tl_knowledge import drawing
from tl_knowledge.drawing.look import ROLE_COLOURS


def test_what_is_restored_together_has_its_roles_colour_beside_the_other_curves():
    from tl_knowledge.circuits.sets.figures import SHARE_NAMES

    lines = [drawing.Line(name, [0], [1.0], [1.0], [1.0], style) for style, name in enumerate(SHARE_NAMES.values())]
    figure = drawing.line_panels([drawing.LinePanel("", lines)], title="", subtitle="", x_axis="x", y_axis="y")
    drawn = {trace.name: trace.line.color for trace in figure.data if trace.showlegend}
    assert drawn[SHARE_NAMES["restored"]] == ROLE_COLOURS["restored"] and len(set(drawn.values())) == 3
