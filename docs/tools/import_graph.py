"""Draw who imports whom as ``docs/images/import_graph.svg``, and fail if an arrow points up or runs in a circle.

python docs/tools/import_graph.py             draw it
python docs/tools/import_graph.py --check     only look

The floors are those that import-linter holds (pyproject.toml). Imports under ``TYPE_CHECKING`` count, and a namespace counts as importing
whatever its stub (``__init__.pyi``) names, so that a lazy import cannot hide a circle.
"""

from __future__ import annotations

import sys
from html import escape

import grimp
import networkx as nx
from reference import ROOT, exports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PICTURE = ROOT / "docs" / "images" / "import_graph.svg"
OUTSIDE = {"tl_knowledge", "tl_knowledge.__main__"}
WIDTH, FLOOR, BOX_WIDTH, BOX_HEIGHT, TOP, ASIDE = 1120, 84, 118, 42, 56, 110
STYLE = """
text { font-family: system-ui, sans-serif; text-anchor: middle; fill: #1f1b2e; }
.floor { fill: #f5f3fa; } .room { fill: #fff; stroke: #5e35b1; stroke-width: 1.5; }
.name { font-size: 14px; font-weight: 600; } .files { font-size: 10.5px; fill: #6b6580; } .title { font-size: 15px; }
.needed { stroke: #5e35b1; stroke-width: 1.4; fill: none; } .implied { stroke: #5e35b1; stroke-width: 1; fill: none; opacity: .16; }
"""


def main() -> None:
    """Look at every import, and draw the rooms."""
    modules = module_graph()
    rooms = room_graph(modules)
    floors = read_floors()
    problems = [f"a circle of files: {', '.join(sorted(circle))}" for circle in nx.strongly_connected_components(modules) if len(circle) > 1]
    height = {room: number for number, floor in enumerate(floors) for room in floor}
    problems += [f"no floor: {room}" for room in rooms if room not in height]
    problems += [f"an arrow that does not point down: {a} -> {b}" for a, b in rooms.edges if a in height and b in height and height[a] >= height[b]]
    if problems:
        sys.exit("\n".join(problems))
    title = f"{len(rooms)} rooms, {len(modules)} files, {modules.number_of_edges()} imports: all point down, none run in a circle"
    sys.stdout.write(f"{title}\n")
    if "--check" not in sys.argv:
        PICTURE.write_text(picture(rooms, floors, title), encoding="utf-8")


def module_graph() -> nx.DiGraph:
    """Who imports whom, file by file."""
    imports = grimp.build_graph("tl_knowledge", cache_dir=None)
    graph = nx.DiGraph((module, other) for module in imports.modules for other in imports.find_modules_directly_imported_by(module))
    graph.add_nodes_from(imports.modules)
    for module in imports.modules - OUTSIDE:
        if ROOT.joinpath(*module.split("."), "__init__.pyi").exists():
            graph.add_edges_from((module, f"{module}.{part}") for part in exports(module) if f"{module}.{part}" in imports.modules)
    graph.remove_nodes_from(OUTSIDE)
    return graph


def room_graph(modules: nx.DiGraph) -> nx.DiGraph:
    """The same, room by room; a room's ``files`` says how many it has."""
    graph = nx.DiGraph()
    for module in modules:
        room = module.split(".")[1]
        graph.add_node(room, files=graph.nodes[room]["files"] + 1 if room in graph else 1)
    for module, other in modules.edges:
        if module.split(".")[1] != other.split(".")[1]:
            graph.add_edge(module.split(".")[1], other.split(".")[1])
    graph.remove_nodes_from([room for room in list(graph) if not graph.degree(room)])  # the bundled model's folder
    return graph


def read_floors() -> list[list[str]]:
    """The floors that import-linter holds, top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip(" ()") for room in floor.replace(":", "|").split("|")] for floor in layers]


def picture(rooms: nx.DiGraph, floors: list[list[str]], title: str) -> str:
    """Floors as bands, rooms as boxes, imports as lines; dark where nothing else implies them."""
    place = {  # a room that is alone on its floor stands left or right of the middle, so that arrows past it can be seen
        room: (WIDTH * (number + 1) / (len(floor) + 1) + (len(floor) == 1) * ASIDE * (-1) ** level, TOP + FLOOR * (level + 0.5))
        for level, floor in enumerate(floors)
        for number, room in enumerate(floor)
    }
    needed = set(nx.transitive_reduction(rooms).edges)
    bands = [
        f'<rect class="floor" x="12" y="{TOP + FLOOR * level + 6}" width="{WIDTH - 24}" height="{FLOOR - 12}" rx="8"/>'
        for level in range(len(floors))
    ]
    lines = [_line(place[a], place[b], "needed" if (a, b) in needed else "implied") for a, b in sorted(rooms.edges, key=lambda edge: edge in needed)]
    boxes = [_box(room, rooms.nodes[room]["files"], *place[room]) for room in rooms]
    height = TOP + FLOOR * len(floors) + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
            f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#5e35b1"/></marker></defs>',
            f'<text class="title" x="{WIDTH / 2}" y="32">{escape(title)}</text>',
            *bands,
            *lines,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    (x, y), (u, v) = (start[0], start[1] + BOX_HEIGHT / 2), (end[0], end[1] - BOX_HEIGHT / 2)
    bend = (v - y) * 0.45
    tip = ' marker-end="url(#tip)"' if kind == "needed" else ""
    return f'<path class="{kind}" d="M{x:.0f} {y:.0f} C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"{tip}/>'


def _box(room: str, files: int, x: float, y: float) -> str:
    plural = "file" if files == 1 else "files"
    return (
        f'<rect class="room" x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x:.0f}" y="{y:.0f}">{escape(room)}</text><text class="files" x="{x:.0f}" y="{y + 14:.0f}">{files} {plural}</text>'
    )


if __name__ == "__main__":
    main()
