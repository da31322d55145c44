"""Any text and any number in LaTeX, Markdown, GraphML, JSON and on a terminal: each output is read back by a strict reader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
import typer
from markdown_it import MarkdownIt
from support.payloads import HALVES, PAYLOADS
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.circuits.exports import as_graphml, as_json
from tl_knowledge.cli import app
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written
from tl_knowledge.evaluation import Score, ScoreTable
from tl_knowledge.results.plain_text import latex_text, markdown_text, printable, strict_json

EVERYTHING = [*PAYLOADS, *HALVES, "a--b", "007", "1e5", "*", "[a]", "", " x ", "100%", "\N{GREEK SMALL LETTER ALPHA}", "\U0001f600", "tab\there"]
NAN = float("nan")


def on_one_line(text):
    return " ".join(printable(text).split())


def strictly(text):
    """JSON as the standard has it: no NaN, and text that UTF-8 can write."""

    def refuse(word):
        raise ValueError(word)

    read = json.loads(text, parse_constant=refuse)
    json.dumps(read, ensure_ascii=False).encode()
    return read


LATEX = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<", r"\textgreater{}": ">"}
LATEX |= {r"\textbar{}": "|", "-{}": "-", "{[}": "[", "{*}": "*"} | {f"\\{c}": c for c in "&%$#_{}"}
LATEX_TOKEN = re.compile("|".join([*map(re.escape, LATEX), r"[^\\&%$#_{}~^<>|]"]))


def read_latex(text):
    """What LaTeX prints; fails on anything that is a command, a comment or a group of its own."""
    tokens, at = [], 0
    while at < len(text):
        found = LATEX_TOKEN.match(text, at)
        assert found is not None, text[at:]
        tokens.append(LATEX.get(found[0], found[0]))
        at = found.end()
    return "".join(tokens)


def score_table(names):
    number = Score(50.0, 40.0, NAN)
    return ScoreTable({name: {"S": number, "a_b|c": Score(NAN, NAN, NAN)} for name in names}, 3, PAYLOADS[0] + "\n\n" + HALVES[0])


@pytest.mark.parametrize("text", EVERYTHING)
def test_latex_prints_a_text_as_it_is(text):
    escaped = latex_text(text)
    assert read_latex(escaped) == on_one_line(text)
    assert not escaped.startswith(("[", "*")) and "--" not in escaped
    escaped.encode()


def test_a_latex_table_holds_any_name():
    names = [name for name in dict.fromkeys(EVERYTHING) if name not in HALVES]
    lines = score_table(names).to_latex("S", "a_b|c").splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r" \\")]
    assert [read_latex(cell) for cell in rows[0]] == ["model", "S", "a_b|c"]
    assert [read_latex(row[0].strip()) for row in rows[1:]] == [on_one_line(name) for name in names] and {len(row) for row in rows} == {3}
    (caption,) = [line for line in lines if line.startswith(r"\caption{")]
    assert read_latex(caption[len(r"\caption{") : -1]).startswith(f"3 cases, {on_one_line(PAYLOADS[0])}")


@pytest.mark.parametrize("text", EVERYTHING)
def test_markdown_shows_a_text_as_it_is(text):
    ((cell,),) = read_markdown(f"| name |\n| --- |\n| {markdown_text(text)} |")[1:]
    assert cell == on_one_line(text)


def read_markdown(text):
    """The cells of a Markdown table; fails on any markup in them."""
    rows, tokens = [], MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert tokens[0].type == "table_open" and [token.type for token in tokens].count("table_open") == 1
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.children
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def test_a_markdown_table_holds_any_name():
    names = [name for name in dict.fromkeys(EVERYTHING) if name not in HALVES]
    header, *rows = read_markdown(score_table(names).to_markdown("S", "a_b|c"))
    assert header == ["model", "S", "a_b|c"]
    assert [row[0] for row in rows] == [on_one_line(name) for name in names] and {row[1] for row in rows} == {"50.0 [40.0, nan]"}


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf"), np.float32("nan"), np.float64("inf")])
def test_json_has_null_for_what_is_no_number(value):
    data = {"a": [value, {"b": value}], "c": (1, np.int64(2), np.float32(0.5), True, None)}
    assert strictly(strict_json(data)) == {"a": [None, {"b": None}], "c": [1, 2, 0.5, True, None]}


def test_json_holds_any_text():
    text = strict_json({word: [word] for word in EVERYTHING})
    assert text.isascii() and strictly(text) == {whole: [whole] for word in EVERYTHING for whole in [re.sub("[\ud800-\udfff]", "\ufffd", word)]}


@pytest.fixture(scope="module")
def circuit(factlm):
    fact = tlk.load_facts("factlm")[0]
    prompt = tlk.Prompt.from_fact(factlm, fact)
    traced = tlk.trace(factlm, prompt, component="mlp_out", samples=1, progress=False)
    return tlk.circuits.from_trace(factlm, prompt, traced, limit=3, progress=False)


@pytest.mark.parametrize("text", EVERYTHING)
def test_graphs_hold_any_text_and_nan(circuit, text, tmp_path):
    named = replace(circuit, labels=(text,) * len(circuit.labels), target=text, total_effect=NAN)
    graph = named.to_networkx()
    next(iter(graph.nodes.values()))["effect"] = float("inf")
    root = ElementTree.fromstring(as_graphml(graph))
    assert root.tag.endswith("graphml")
    read = nx.read_graphml(named.to_graphml(tmp_path / "c.graphml"))
    assert set(read) == set(graph) and read.number_of_edges() == graph.number_of_edges() and "total_effect" not in read.graph
    assert {about["token"] for about in read.nodes.values()} == {printable(text)} or text.strip() == ""
    assert read.graph["faithfulness"] == pytest.approx(circuit.faithfulness)
    data = strictly(named.to_json(tmp_path / "c.json").read_text(encoding="utf-8"))
    assert data["graph"]["total_effect"] is None and strictly(as_json(graph))["nodes"][0]["effect"] is None


@pytest.mark.parametrize("text", EVERYTHING)
def test_a_terminal_prints_a_text_as_it_is(capfd, monkeypatch, text):
    monkeypatch.setenv("COLUMNS", "400")
    print_line(text, (text, "bold"))
    print_written(text, "page")
    print_json({"a": text, "b": NAN})
    printed, _ = capfd.readouterr()
    shown = printable(text)
    assert printed.startswith(f"{shown}{shown}\npage written to {shown}\n{{") or "\t" in text  # rich draws tabs as blanks
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed)
    print_table(tlk.drawing.Table((text, "b"), [(text, text)]))
    printed, _ = capfd.readouterr()
    assert all(printed.count(word) >= 3 for word in shown.split())  # in lines of their own where the text has line breaks


def test_json_of_the_command_line_is_strict():
    """One case has no interval: its ends are no numbers."""
    result = CliRunner().invoke(app, ["evaluate", "--method", "ft", "--limit", "1", "--setting", "steps=1", "--json"], catch_exceptions=False)
    score = strictly(result.stdout)["scores"]["ft"]["ES"]
    assert score["low"] is None and 0 <= score["mean"] <= 100


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "tl_knowledge", *arguments], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("subject", "shown"),
    [("[/b]", "'[/b]'"), ("[k k^T]", "'[k k^T]'"), (":cat:\\", r"':cat:\\\\'"), (b"\xff", r"'\\udcff'"), ("\x1b[2J", r"'\\x1b\[2J'")],
)
def test_an_error_of_the_command_line_is_its_text(subject, shown):
    done = command("trace", "[bold] x", "--subject", subject)
    assert done.returncode == 2 and done.stdout == b""
    message = done.stderr.decode()
    assert message.startswith("SubjectNotFoundError: subject ") and message.count("\n") == 1
    assert shown.replace("\\\\", "\\").replace("\\[", "[") in message and "'[bold] x'" in message


def test_a_mistyped_argument_is_its_text():
    runner = CliRunner()
    for arguments in (["[/b]"], ["trace", "--[/b]"], ["trace", "--samples", "[/b]"]):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit), arguments
    assert "[/b]" in runner.invoke(app, ["[/b]"]).output


def test_help_is_its_text():
    """As the command line makes it: brackets are brackets, in a help text and in a default."""
    other = typer.Typer(rich_markup_mode=app.rich_markup_mode, pretty_exceptions_enable=app.pretty_exceptions_enable)

    @other.command()
    def only(name: str = typer.Option("[/b]", help="of [k k^T], [bold]or[/bold] :cat:")) -> None:
        """Means [k k^T] over [/b]."""

    shown = " ".join(CliRunner().invoke(other, ["--help"]).output.split())
    assert "Means [k k^T] over [/b]." in shown and "of [k k^T], [bold]or[/bold] :cat: [default: [/b]]" in shown
    assert "the mean of k k^T over" in CliRunner().invoke(app, ["moments", "--help"]).output
