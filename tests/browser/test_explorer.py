"""The explorer's page in a real browser, offline: one types, marks, traces, clicks, edits and undoes, in two tabs, and the server dies."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pytest
from support.devtools import Chromium, Tab
from support.places import FACTLM_LAYER
from support.served import ServedExplorer

import tl_knowledge as tlk

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROMPT = "Paul McCartney plays the"
MARKED = f"#prompt={quote_plus(PROMPT)}&subject=1-3"
SLOW = f"#prompt={quote_plus(' '.join(['Paul McCartney plays the piano and'] * 20))}&subject=1-3&components=&samples=200"
"""A trace that nobody waits for."""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedExplorer]:
    running = ServedExplorer(tmp_path_factory.mktemp("explorer"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory) -> Iterator[Chromium]:
    with Chromium(chromium, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def tab(browser, served) -> Iterator[Tab]:
    """A tab with the page, which at the end has asked nobody but the server for anything and has complained of nothing."""
    opened = fresh(browser, served)
    yield opened
    assert opened.complaints() == [] and opened.value("document.querySelector('#error-link').innerText") == ""
    assert [each for each in opened.requested() if not each.startswith((served.address, "data:", "blob:", "about:"))] == []
    opened.close()


def fresh(browser: Chromium, served: ServedExplorer, link: str = "") -> Tab:
    opened = browser.open(served.address + link)
    opened.wait("document.querySelector('#read')", 60)
    opened.wait("document.querySelector('#undo').disabled", 60)
    return opened


def read(tab: Tab, text: str = PROMPT) -> None:
    tab.type("#prompt", text)
    tab.click("#read")
    tab.says("What comes next")


def drawn_maps(tab: Tab, count: int = 3) -> list[np.ndarray]:
    """The numbers of the maps on the page."""
    tab.wait(f"document.querySelectorAll('#maps .hm').length == {count}", 60)
    maps = tab.value("[...document.querySelectorAll('#maps .js-plotly-plot')].map(each => each.calcdata[0][0].z)")
    return [np.array([[each[str(i)] if isinstance(each, dict) else each[i] for i in range(len(each))] for each in rows]) for rows in maps]


def click_cell(tab: Tab, number: int, row: int, column: int, rows: int, columns: int) -> None:
    """Click into the middle of a cell of a map."""
    place = f"document.querySelectorAll('#maps .js-plotly-plot')[{number}]"
    tab.value(f"{place}.scrollIntoView({{block: 'center'}})")
    area = tab.value(f"(() => {{ const b = {place}.querySelector('.nsewdrag').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()")
    tab.click_at(area[0] + (column + 0.5) / columns * area[2], area[1] + (row + 0.5) / rows * area[3])


def compared(tab: Tab) -> list[list[str]]:
    """What stands there of before and after: prompt, answer, before, after."""
    return tab.value(
        "[...document.querySelectorAll('.comparison')].flatMap(each => [...each.querySelectorAll('tbody tr')].map(row =>"
        " [each.querySelector('.asked').innerText, ...[...row.querySelectorAll('td')].map(cell => cell.innerText)]))"
    )


def test_a_prompt_is_typed_marked_and_traced(tab, factlm):
    read(tab)
    tab.wait("document.querySelector('#prediction .name').innerText.includes('piano')")
    tab.click("#tokens button[data-pos='1']")
    tab.wait("document.querySelectorAll('#tokens .subject').length == 1")
    tab.click("#tokens button[data-pos='2']", shift=True)
    tab.wait("document.querySelectorAll('#tokens .subject').length == 2")
    tab.click("#trace")
    prompt = tlk.Prompt.from_text(factlm, PROMPT, subject="Paul McCartney")
    parts = ("resid_post", "mlp_out", "attn_out")
    for shown, part in zip(drawn_maps(tab), parts, strict=True):
        direct = tlk.trace(factlm, prompt, corrupt="subject", component=part, samples=10, window="auto")
        np.testing.assert_allclose(shown, direct.mean_effect.T.numpy(), atol=1e-5)
    tab.says("Most comes back at token")
    assert "subject=1-3" in tab.value("location.hash")


def test_tokens_are_marked_by_dragging_and_by_keys(tab):
    read(tab)
    tab.drag("#tokens button[data-pos='1']", "#tokens button[data-pos='2']")
    tab.wait("document.querySelectorAll('#tokens .subject').length == 2")
    tab.click("#role label:nth-of-type(2)")
    tab.value("document.querySelector(\"#tokens button[data-pos='3']\").focus()")
    tab.press("Enter")
    tab.wait("document.querySelectorAll('#tokens .relation').length == 1")
    tab.value("document.querySelector(\"#tokens button[data-pos='3']\").focus()")
    tab.press("ArrowRight")
    tab.press("Enter", shift=True)
    tab.wait("document.querySelectorAll('#tokens .relation').length == 2")
    assert {"subject=1-3", "relation=3-5"} <= set(tab.value("location.hash").strip("#").split("&"))


def test_a_cell_opens_its_neurons_and_what_is_switched_off_is_undone(browser, served, factlm):
    tab = fresh(browser, served, MARKED)
    drawn_maps(tab)
    click_cell(tab, 1, row=2, column=FACTLM_LAYER, rows=5, columns=8)
    tab.wait("document.querySelector('#site table')", 60)
    tab.says(f"MLP output, layer {FACTLM_LAYER}, token 2")
    assert tab.value("document.querySelectorAll('#site tbody tr').length") == 12
    strongest = tab.value("document.querySelector('#site tbody td').innerText")
    tab.click("#site tbody button")
    tab.says(f"neuron {strongest} of layer {FACTLM_LAYER} suppressed")
    tab.wait("document.querySelector('#compared table')", 60)
    prompt = tlk.Prompt.from_text(factlm, PROMPT)
    hooks = tlk.NeuronSet.of(factlm, [(FACTLM_LAYER, int(strongest))]).suppress()
    expected = [factlm.run_with_hooks(prompt.tokens, fwd_hooks=own)[0, -1].softmax(-1).max() for own in ([], hooks)]
    assert compared(tab)[0][2:4] == [f"{float(value.detach()):.1%}" for value in expected]
    tab.click("#undo")
    tab.wait("!document.querySelector('#compared table')")
    tab.says("Nothing is changed in this tab.")
    assert "suppressed" not in tab.value("location.hash")
    assert tab.complaints() == []
    tab.close()


def test_a_cell_of_attention_opens_its_heads(browser, served):
    tab = fresh(browser, served, f"{MARKED}&samples=1&components=attn_out&cell=attn_out-4-4")
    tab.wait("document.querySelectorAll('#site .js-plotly-plot').length == 2", 60)
    tab.says("Attention of head")
    tab.click("#site tbody button")
    tab.says("of layer 4 knocked out")
    tab.close()


def test_an_edit_is_seen_in_its_tab_and_in_no_other(browser, served, factlm):
    mine, other = (
        fresh(browser, served, f"{MARKED}&components="),
        fresh(browser, served, f"{MARKED}&components=&further=Paul+McCartney+performs+on+the"),
    )
    mine.says("What comes next", 60)
    mine.type("#target-new", " guitar")
    mine.click("#edit")
    mine.says("rome: Paul McCartney plays the", 60)
    mine.wait("document.querySelectorAll('#compared tbody tr').length == 2", 120)
    shares = {row[1]: row[2:] for row in compared(mine)}
    before, after = (float(share.strip("%")) for share in shares["' guitar'"])
    assert before < 5 and after > 50
    other.type("#further", "The capital of France is")
    other.click("#compare")
    other.wait("document.querySelectorAll('#compared tbody tr').length == 2 && document.querySelector('#compared').innerText.includes('France')", 60)
    answer = int(factlm(tlk.Prompt.from_text(factlm, PROMPT).tokens)[0, -1].argmax())
    direct = [factlm(tlk.Prompt.from_text(factlm, text).tokens)[0, -1].softmax(-1)[answer].item() for text in (PROMPT, "The capital of France is")]
    assert [row[2:] for row in compared(other)] == [[f"{share:.1%}"] * 2 for share in direct]
    mine.click("#undo")
    mine.says("Nothing is changed in this tab.")
    mine.close()
    other.close()


def test_an_edit_of_what_is_read_acts_beside_the_unchanged_maps(browser, served, factlm):
    tab = fresh(browser, served, f"{MARKED}&components=mlp_out&samples=3&further=The+capital+of+France+is")
    maps = drawn_maps(tab, 1)
    tab.value("dash_clientside.set_props('method', {value: 'ike'})")
    tab.type("#target-new", " guitar")
    tab.click("#edit")
    tab.says("After the edit, IKE has the model read", 120)
    tab.says("ike: Paul McCartney plays the")
    tab.says("are the unchanged model's: only Before and after has what is changed.")
    np.testing.assert_array_equal(drawn_maps(tab, 1)[0], maps[0])
    pool = tlk.editing.Demonstrations.from_cases([case for case in tlk.load_edit_cases() if case.fact.subject != "Paul McCartney"])
    edit = tlk.plan_edit(factlm, tlk.Fact("Paul McCartney", "{} plays the", " guitar"), tlk.editing.IKE(k=1, pool=pool))
    answers = [tlk.Prompt.from_text(factlm, PROMPT, target=target).answer[0] for target in (" piano", " guitar")]
    expected: list[str] = []
    for text in (PROMPT, "The capital of France is"):
        tokens = tlk.Prompt.from_text(factlm, text).tokens
        before = factlm(tokens)[0, -1].softmax(-1)
        with edit.applied(factlm):
            after = factlm(tokens)[0, -1].softmax(-1)
        expected += [f"{float(share[answer]):.1%}" for answer in answers for share in (before, after)]
    tab.wait("document.querySelectorAll('#compared tbody tr').length == 4", 60)
    assert [share for row in compared(tab) for share in row[2:]] == expected
    tab.click("#undo")
    tab.says("Nothing is changed in this tab.")
    tab.wait("!document.querySelector('main').innerText.includes('IKE has the model read')")
    tab.wait("document.querySelector('#unchanged').innerText == ''")
    assert tab.complaints() == []
    tab.close()
    lost = quote_plus('["mend","Paul McCartney","{} plays the"," guitar","0123456789ab"]')
    tab = fresh(browser, served, f"{MARKED}&components=&edits={lost}")
    tab.says("start the explorer with --editor FILE, which tl-knowledge train writes. This edit was made with the trained MEND 0123456789ab.", 60)
    tab.close()


def test_a_trace_is_cancelled_and_says_so_every_second(browser, served):
    tab = fresh(browser, served, SLOW)
    tab.says("What comes next", 60)
    tab.value(
        "window.silent = 0; window.said = ['', performance.now()]; setInterval(() => { const words = document.querySelector('#pulse').innerText;"
        " if (words !== said[0]) said = [words, performance.now()]; silent = Math.max(silent, performance.now() - said[1]); }, 50)"
    )
    tab.click("#trace")
    tab.says("tracing restoring every")
    tab.browser.listen(4)
    assert tab.value("silent") < 2500  # a second, and what a busy machine adds
    tab.click("#cancel")
    tab.says("Cancelled; what was traced by then is shown.")
    tab.says("ready")
    assert tab.complaints() == []
    tab.close()


@pytest.mark.parametrize(
    "text", ["<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>", "=cmd()", "$x^2$ %{y} {}", "</textarea>&lt;b>"]
)
def test_a_hostile_prompt_is_text(browser, served, text):
    tab = fresh(browser, served, f"#prompt={quote_plus(text)}&subject=1-2&samples=1&components=mlp_out&cell=mlp_out-0-1&further={quote_plus(text)}")
    drawn_maps(tab, 1)
    tab.wait("document.querySelector('#compared table') && document.querySelector('#site table')", 60)
    shown = tab.value("[...document.querySelectorAll('#tokens button')].map(each => each.textContent).join('')")
    assert shown.replace(" ", "") == text.replace(" ", "")
    assert tab.value("document.querySelector('#prompt').value") == text
    assert compared(tab)[1][0] == text
    assert tab.value("window.hacked === undefined && !document.querySelector('main img, main script')")
    assert tab.complaints() == []
    tab.close()


def test_ten_thousand_characters_are_shown_and_refused_in_a_sentence(tab):
    tab.type("#prompt", "word " * 2000)
    tab.click("#read")
    tab.wait("document.querySelector('#error-predict').innerText.includes('128')", 60)
    assert len(tab.value("document.querySelector('#prompt').value")) == 10_000
    read(tab)
    assert tab.value("document.querySelector('#error-predict').innerText") == ""


def test_a_link_reproduces_the_tab(browser, served):
    link = f"{MARKED}&components=mlp_out&cell=mlp_out-0-2&samples=3&suppressed=0.123&knocked_out=5.0&further=The+capital+of+France+is"
    first = fresh(browser, served, link)
    seen = []
    for tab in (first, fresh(browser, served, first.value("location.hash"))):
        maps = drawn_maps(tab, 1)
        tab.wait("document.querySelectorAll('#compared tbody tr').length == 2 && document.querySelector('#site table')", 60)
        fields = tab.value("['prompt', 'further', 'samples'].map(name => document.getElementById(name).value)")
        seen.append((maps[0].tolist(), compared(tab), fields, tab.value("document.querySelector('#site').innerText")))
        assert fields == [PROMPT, "The capital of France is", "3"]
        assert tab.complaints() == []
        tab.close()
    assert seen[0] == seen[1]


def test_a_link_that_is_no_link_says_what_is_wrong(browser, served):
    tab = fresh(browser, served, "#prompt=Rome&cell=<script>")
    tab.says("This cannot be opened: the link's cell")
    tab.close()


def test_what_is_on_the_screen_is_kept(browser, served, tmp_path, factlm):
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab = fresh(browser, served, f"{MARKED}&components=mlp_out&samples=3")
    drawn_maps(tab, 1)
    tab.wait("document.querySelector('#code').textContent.includes('tlk.trace(')")
    for button, ending in (("#save-page", "html"), ("#save-data", "zip")):
        tab.click(button)
        wanted = tmp_path / f"paul_mccartney_plays_the.{ending}"
        for _ in range(300):
            if wanted.exists():
                break
            browser.listen(0.1)
        assert wanted.exists(), list(tmp_path.iterdir())
    assert "Paul" in Path(tmp_path / "paul_mccartney_plays_the.html").read_text(encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "paul_mccartney_plays_the.zip") as archive:
        assert {"state.json", "program.py", "mlp_out.csv"} <= set(archive.namelist())
    tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_narrow_window(browser, served, dark):
    tab = fresh(browser, served, f"{MARKED}&samples=1&cell=attn_out-4-4&knocked_out=5.0")
    tab.look(600, 1400, dark=dark)
    drawn_maps(tab)
    tab.wait("document.querySelectorAll('#site .js-plotly-plot').length == 2 && document.querySelector('#compared table')", 60)
    wanted = "rgb(16, 19, 25)" if dark else "rgb(255, 255, 255)"
    tab.wait(f"getComputedStyle(document.body).backgroundColor == '{wanted}'")
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    ink = "230, 232, 236" if dark else "31, 36, 48"
    tab.wait(f"getComputedStyle(document.querySelector('#maps .xtick text')).fill.includes('{ink}')", 60)
    tab.close()


def test_a_server_that_dies_is_missed_and_the_page_goes_on_where_it_was(browser, served):
    tab = fresh(browser, served, f"{MARKED}&components=mlp_out&samples=3")
    before = drawn_maps(tab, 1)
    served.kill()
    tab.says("No answer from the server for", 30)
    tab.says("trying again")
    served.start()
    tab.wait("!document.documentElement.classList.contains('no-answer')", 60)
    click_cell(tab, 0, row=2, column=0, rows=5, columns=8)
    tab.says("MLP output, layer 0, token 2", 60)
    np.testing.assert_array_equal(drawn_maps(tab, 1)[0], before[0])
    assert tab.value("document.querySelector('#prompt').value") == PROMPT
    tab.close()


def test_another_model_on_the_same_port_is_not_taken_for_the_old_one(browser, served):
    tab = fresh(browser, served, f"{MARKED}&components=mlp_out&samples=3")
    before = drawn_maps(tab, 1)
    served.kill()
    served.start("--no-prepend-bos")
    try:
        tab.says("Another model answers here now.", 60)
        np.testing.assert_array_equal(drawn_maps(tab, 1)[0], before[0])
        again = fresh(browser, served, MARKED)
        again.says("What comes next", 60)
        again.close()
    finally:
        served.kill()
        served.start()
    tab.close()


def test_a_tab_that_is_left_says_so_and_one_that_comes_back_asks_again(browser, served):
    tab = fresh(browser, served, f"{MARKED}&components=mlp_out&samples=3")
    before = drawn_maps(tab, 1)
    tab.value("dispatchEvent(new Event('pagehide'))")
    tab.wait("performance.getEntriesByType('resource').some(each => each.name.endsWith('/leave') && each.responseStatus == 204)", 30)
    click_cell(tab, 0, row=2, column=0, rows=5, columns=8)
    tab.says("MLP output, layer 0, token 2", 60)
    np.testing.assert_array_equal(drawn_maps(tab, 1)[0], before[0])
    assert tab.complaints() == []
    tab.close()
