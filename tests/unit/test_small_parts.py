"""Windows, metrics, storage, drawing, provenance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.drawing import HeatMap, grouped_bars, heat_maps, html_page
from tl_knowledge.editing.optimise.linear_system import solved
from tl_knowledge.errors import ComponentError, DataError, InputError, NumericalError, TLKnowledgeError
from tl_knowledge.metrics import answer_probability
from tl_knowledge.results.storage import read_result, write_result
from tl_knowledge.runs.windows import resolve_window, window_layers


def window_of_their_program(layer: int, window: int, n_layers: int) -> list[int]:
    """The expression of Meng et al.'s program, written out."""
    return list(range(max(0, layer - window // 2), min(n_layers, layer - (-window // 2))))


@pytest.mark.parametrize("window", range(1, 12))
@pytest.mark.parametrize("layer", range(12))
def test_windows(layer, window):
    first, last = window_layers(layer, window, 12, "meng2022_code")
    assert list(range(first, last + 1)) == window_of_their_program(layer, window, 12)
    first, last = window_layers(layer, window, 100, "ours")
    if window % 2:
        assert (first, last) == window_layers(layer, window, 100, "meng2022_code")
    assert last - first + 1 <= window
    assert first <= layer <= last


def test_automatic_window(gpt2):
    assert resolve_window(gpt2, "mlp_out", "auto", "ours") == 1  # a fifth of four layers
    assert resolve_window(gpt2, "resid_post", "auto", "ours") == 1
    assert resolve_window(gpt2, "mlp_out", "auto", "meng2022_code") == resolve_window(gpt2, "mlp_out", 10, "meng2022_code") == 10  # of four layers
    with pytest.raises(ComponentError, match="window 5 does not fit the model; pass 1 to 4"):
        resolve_window(gpt2, "mlp_out", 5, "ours")
    with pytest.raises(ComponentError, match="window 0 does not fit"):
        resolve_window(gpt2, "mlp_out", 0, "meng2022_code")


def test_answer_probability_is_a_product_of_softmaxes():
    logits = torch.randn(700, 2, 9, dtype=torch.float64)
    expected = logits[:, 0].softmax(-1)[:, 3] * logits[:, 1].softmax(-1)[:, 8]
    torch.testing.assert_close(answer_probability(logits, torch.tensor([[3, 8]])), expected, rtol=0, atol=0)


def test_save_and_load_are_the_identity(gpt2, prompt, tmp_path):
    result = tlk.trace(gpt2, prompt, 0.5, samples=2, component="head", layers=[1], positions=[2, 4], sever="mlp_out")
    loaded = tlk.CausalTrace.load(result.save(tmp_path / "deep" / "trace"))
    for field in dataclasses.fields(result):
        before, after = getattr(result, field.name), getattr(loaded, field.name)
        if isinstance(before, torch.Tensor):
            torch.testing.assert_close(before, after, rtol=0, atol=0, equal_nan=True)
        else:
            assert before == after, field.name
    assert not list(tmp_path.rglob("*.partial"))


def test_a_comparison_of_traces_is_a_result(gpt2, prompt, tmp_path):
    traces = [tlk.trace(gpt2, prompt, 0.5, samples=2, corrupt=side, progress=False) for side in ("subject", "relation")]
    comparison = tlk.compare(*traces)
    loaded = tlk.tracing.TraceComparison.load(comparison.save(tmp_path / "both"))
    assert loaded.to_dataframe().equals(comparison.to_dataframe()) and [t.settings for t in loaded.traces] == [t.settings for t in traces]
    assert loaded.top(1)["effect"].item() == comparison.to_dataframe()["effect"].max()
    assert "residual state (relation corrupted)" in repr(loaded) and repr(traces[0]).count("\n") == 0
    assert "<table" in traces[0]._repr_html_()


def test_one_or_several_layers_positions_and_units(gpt2, prompt):
    one = tlk.trace(gpt2, prompt, 0.5, samples=1, component="head", layers=1, positions=2, units=3, corrupt=1, progress=False)
    same = tlk.trace(gpt2, prompt, 0.5, samples=1, component="head", layers=[1], positions=[2], units=[3], corrupt=[1], progress=False)
    assert one.settings == same.settings and torch.equal(one.indirect_effect.nan_to_num(), same.indirect_effect.nan_to_num())


def test_prompts_are_values():
    first, again = (tlk.Prompt.from_tokens(torch.arange(5), subject=[1, 2], target=[3]) for _ in range(2))
    assert first == again and len({first, again}) == 1
    assert first != tlk.Prompt.from_tokens(torch.arange(5), subject=[1, 2], target=[4])
    assert first != tlk.Prompt.from_tokens(torch.arange(5), subject=[2], target=[3])


def test_reading_what_is_not_ours(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.safetensors.* as a saved CausalTrace"):
        tlk.CausalTrace.load(tmp_path / "none")
    path = write_result(tmp_path / "x", "Other", {"a": torch.ones(1)}, {})
    with pytest.raises(DataError, match="holds a Other, not a CausalTrace"):
        read_result(path, "CausalTrace")


def test_heat_maps_share_one_colour_range_and_name_everything():
    maps = [HeatMap(np.full((2, 3), v), ["a", "b<"], ["0", "1", "2"], "t", "token", "layer", marked=frozenset({0})) for v in (0.1, 0.7)]
    figure = heat_maps(maps, title="T", subtitle="n = 10", colour_axis="effect")
    assert {(t.zmin, t.zmax) for t in figure.data} == {(0.0, 0.7)}
    assert figure.layout.yaxis.ticktext == ("<b>a*</b>", "b&lt;")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("layer", "token")
    assert figure.layout.title.subtitle.text == "n = 10"


def test_pages_carry_their_script_once_and_need_no_network():
    figure = heat_maps([HeatMap(np.ones((1, 1)), ["a"], ["0"], "", "token", "layer")], title="T", subtitle="", colour_axis="x")
    page = html_page("<Title>", [figure, figure])
    assert page.count('drawFigure("figure-') == 2 and page.count("const drawFigure =") == 1
    assert "cdn.plot.ly" not in page.split("<script", 1)[0]
    assert "&lt;Title&gt;" in page
    assert 'src="http' not in page


def test_every_error_is_ours_and_a_builtin_one():
    classes = [each for each in vars(tlk.errors).values() if isinstance(each, type) and issubclass(each, Exception) and not issubclass(each, Warning)]
    assert len(classes) == 12
    for error in classes:
        assert issubclass(error, TLKnowledgeError)
        if error is not TLKnowledgeError:
            assert issubclass(error, ValueError if issubclass(error, InputError) else RuntimeError)


def test_exported_names_are_sorted_and_there():
    assert tlk.__all__ == sorted(set(tlk.__all__))
    assert all(hasattr(tlk, name) for name in tlk.__all__)


@pytest.mark.parametrize(
    ("name", "layer", "clamp"),
    [("gpt2", 5, 4.0), ("gpt2-medium", 8, 3.0), ("EleutherAI/gpt-j-6B", 5, 4.0), ("gpt-neox-20b", 15, 4.0), ("openai-community/gpt2-xl", 17, 4.0)],
)
def test_published_layers_by_name(gpt2, monkeypatch, name, layer, clamp):
    monkeypatch.setattr(gpt2.cfg, "model_name", name)
    method = tlk.ROME.for_model(gpt2)
    assert (method.layer, method.value.clamp) == (layer, clamp)


def test_no_bar_is_lost_beyond_the_palette():
    bars = {str(k): [(0.5, 0.4, 0.6)] for k in range(9)}
    drawn = grouped_bars(["S"], bars, title="t", subtitle="s", group_axis="g", value_axis="v").data
    assert [bar.name for bar in drawn] == list(bars)
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in drawn}) == 9


@pytest.mark.parametrize("size", [5, 50])
def test_a_system_that_is_singular_but_for_rounding_is_refused(size):
    """Its pivots are not zero, and its solution is made of their rounding."""
    draw = torch.Generator().manual_seed(size)
    keys, right = torch.randn(size, size, generator=draw, dtype=torch.float64), torch.randn(size, 2, generator=draw, dtype=torch.float64)
    whole, lacking = keys @ keys.T, keys[:, 1:] @ keys[:, 1:].T
    torch.testing.assert_close(whole @ solved(whole, right, "the keys"), right, rtol=0, atol=1e-9)
    assert torch.linalg.solve_ex(lacking, right).info == 0
    with pytest.raises(NumericalError, match=rf"the keys give a singular system of {size} equations"):
        solved(lacking, right, "the keys")
    badly_scaled = torch.diag(torch.logspace(0, -14, size, dtype=torch.float64))  # far apart, and still told exactly
    torch.testing.assert_close(badly_scaled @ solved(badly_scaled, right, "the keys"), right, rtol=0, atol=1e-12)
