"""Which method works on which architecture: each is run on a tiny random model and compared with whole forwards.

As a program it prints the outcomes for the installed TransformerLens as JSON; `write_page` makes ``docs/models.md`` of two such files.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import tl_knowledge as tlk
from support import tokenizer_of_sixty_words
from support.architectures import ARCHITECTURES, HOOKED_TRANSFORMERS, NotHere, build_architecture
from support.whole_forwards import add, attributed, restored_effect, run_with
from tl_knowledge.editing.optimise.fact_batch import FactBatch
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.values import ValueSettings
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.rows import rows_engine
from tl_knowledge.errors import TLKnowledgeError
from tl_knowledge.models.weights import output_hook

FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w5")
STEPS = 3
CLOSE = 1e-6  # some models take norms and softmax in float32, whatever their weights are

Outcome = dict[str, str]


def _close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    gap, size = float((ours - expected).abs().max()), float(expected.abs().max())
    if not gap <= CLOSE * size + 1e-9:
        raise AssertionError(f"differs by {gap / size if size else gap:.1%}")


def trace_of(component: str) -> Callable[[Any, tlk.Prompt], str]:
    def check(model: Any, prompt: tlk.Prompt) -> str:
        noise = tlk.GaussianNoise(1.0)
        trace = tlk.trace(model, prompt, noise, component=component, samples=2, progress=False)
        for layer, pos in ((1, 2), (2, 4)):
            _close(trace.indirect_effect[:, layer, pos].mean(), torch.tensor(restored_effect(model, prompt, noise, component, layer, pos)).double())
        return "ok" if trace.provenance.engine.startswith("rows") else "slow"

    return check


def neurons(model: Any, prompt: tlk.Prompt) -> str:
    result = tlk.attribute_neurons(model, prompt, steps=STEPS, progress=False)
    for layer in (0, 2):
        _close(result.scores[0, layer], attributed(model, prompt.tokens, 5, layer, STEPS))
    return "ok" if prefix_engine(model) == "rows on a frozen prefix" else "slow"


def edits(model: Any, prompt: tlk.Prompt) -> str:
    model = tlk.load_model(model)  # which refuses what no method can work on
    rows = rows_of(model, FACT, ("{}", "w5 w6 {}"), "subject")
    site, delta = output_hook(model, 1), torch.linspace(-1, 1, int(model.cfg.d_model), dtype=torch.float64)
    batch = FactBatch(model, [rows], 1, site, ValueSettings())
    logits = batch._logits([delta.expand(len(group), -1) for group, _ in batch.parts])
    with torch.no_grad():
        for k, pos in enumerate([*rows.scored[:, 0].tolist(), rows.essence]):
            _close(logits[k], run_with(model, rows.tokens[k : k + 1, : pos + 1], [(site, add(int(rows.edited[k]), delta))])[0, pos])
        edit = tlk.plan_edit(model, FACT, tlk.FineTune(1, steps=2, learning_rate=0.05))
        hooked = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
        plain = model(prompt.tokens)
        with edit.applied(model):
            applied = model(prompt.tokens)
    _close(hooked - plain, applied - plain)
    return "ok" if prefix_engine(model) == "rows on a frozen prefix" else "slow"


def direct(model: Any, prompt: tlk.Prompt) -> str:
    result = tlk.direct_logit_attribution(model, prompt)
    with torch.no_grad():
        logits = model(prompt.tokens)[0, -1]
    _close(torch.tensor(float(result.table["direct"].sum()) + result.biases), torch.tensor(result.logit))
    capped = getattr(model.original_model.config, "final_logit_softcapping", None) if hasattr(model, "original_model") else None
    if not capped:  # what is split is the logit before the cap
        _close(torch.tensor(result.logit), (logits[5] - logits.mean()).double())
    return "ok"


def lens(model: Any, prompt: tlk.Prompt) -> str:
    table = tlk.logit_lens(model, prompt).table
    last = table.query("layer == layer.max() and pos == 4")["probability"].item()
    with torch.no_grad():
        _close(torch.tensor(last), model(prompt.tokens)[0, -1].softmax(-1)[5].double())
    return "ok"


METHODS: dict[str, Callable[[Any, tlk.Prompt], str]] = {
    "trace states": trace_of("resid_post"),
    "trace MLPs": trace_of("mlp_out"),
    "trace attention": trace_of("attn_out"),
    "neurons": neurons,
    "edits": edits,
    "direct logits": direct,
    "logit lens": lens,
}


def outcomes(name: str) -> Outcome:
    """What each method does on an architecture: ``ok``, ``slow`` (another engine; exact), ``refused: why``, or what is wrong."""
    try:
        model = build_architecture(name)
    except NotHere as reason:
        return dict.fromkeys(METHODS, f"absent: {reason}")
    model.tokenizer = tokenizer_of_sixty_words()
    try:
        tlk.load_model(model)
        model(torch.tensor([[1, 2, 3]]))
    except TLKnowledgeError as refusal:
        return dict.fromkeys(METHODS, f"refused: {refusal}")
    except (RuntimeError, TypeError, ValueError) as error:
        return dict.fromkeys(METHODS, f"absent: its own forward fails in float64 ({error})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {method: _outcome(check, model) for method, check in METHODS.items()}


def _outcome(check: Callable[[Any, tlk.Prompt], str], model: Any) -> str:
    try:
        return check(model, tlk.Prompt.from_fact(model, FACT))
    except TLKnowledgeError as error:
        return f"refused: {error}"
    except AssertionError as error:
        return f"WRONG: {error}"
    except Exception as error:
        return f"CRASH: {type(error).__name__}: {str(error)[:100]}"


def engines(name: str) -> tuple[str, str]:
    """Which engines run on an architecture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_architecture(name)
        return rows_engine(model), prefix_engine(model)


SIGNS = {"ok": "yes", "slow": "slow"}
PAGE = """# Which models work

Every method is run on tiny random models of these architectures, in float64, and compared with whole forwards under the model's own hooks.
`make models` writes this page; some rows of it are part of `make test`.

- **yes**: exact, by the fast engine.
- **slow**: exact. The fast engine would not be (it proves itself on a model before it is believed, see [Architecture](architecture.md)), so whole
  sequences run instead. A `SlowEngineWarning` and `provenance.engine` say why.
- **a number**: refused, for the reason below.
- **n/a**: the installed TransformerLens or transformers has no such model.

Two marks in a cell are TransformerLens {first} and {second}; one mark, both the same. Names that begin with `ht-` are `HookedTransformer` in
unusual configurations, which only TransformerLens 3 has; everything else is a `TransformerBridge`. BERT and T5 work for
knowledge neurons and their edits, and for nothing else; other tests hold that.

| model | {methods} |
|---|{dashes}|
{rows}

## Why some are refused

{reasons}
"""


def write_page(first: dict[str, Any], second: dict[str, Any]) -> str:
    """``docs/models.md`` from the outcomes of two TransformerLens lines."""
    reasons: dict[str, int] = {}

    def mark(outcome: str) -> str:
        if outcome.startswith("absent"):
            return "n/a"
        if outcome.startswith("refused: "):
            reason = outcome.removeprefix("refused: ").replace("external", "this model").replace("custom", "this model")
            return str(reasons.setdefault(reason, len(reasons) + 1))
        return SIGNS.get(outcome, f"**{outcome}**")

    rows = []
    for name in [*ARCHITECTURES, *HOOKED_TRANSFORMERS]:
        cells = []
        for method in METHODS:
            marks = [mark(line["outcomes"].get(name, {}).get(method, "absent")) for line in (first, second)]
            cells.append(marks[0] if len(set(marks)) == 1 else " / ".join(marks))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return PAGE.format(
        first=first["version"],
        second=second["version"],
        methods=" | ".join(METHODS),
        dashes="|".join("---" for _ in METHODS),
        rows="\n".join(rows),
        reasons="\n".join(f"{number}. {reason}" for reason, number in reasons.items()),
    )


def main() -> None:
    """Print the outcomes of the installed TransformerLens; with two files of them, write the page."""
    if len(sys.argv) > 3:
        first, second, page = map(Path, sys.argv[1:4])
        page.write_text(write_page(json.loads(first.read_text()), json.loads(second.read_text())), encoding="utf-8")
        return
    names = [*ARCHITECTURES, *HOOKED_TRANSFORMERS]
    Path(sys.argv[1]).write_text(json.dumps({"version": version("transformer-lens"), "outcomes": {name: outcomes(name) for name in names}}, indent=1))


if __name__ == "__main__":
    main()
