"""``docs/what_runs_where.md`` of what `support.run_table` measures.

As a program it writes the outcomes for the installed TransformerLens as JSON; with two files of them, the page.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from support import BUILDERS
from support.models import HARD_BUILDERS
from support.run_table import FACTORIES, FORWARD, MODELS, RUNS, Outcome, edits_on, outcomes
from tl_knowledge.editing import METHODS

__all__ = ["cell", "edits_row", "measured", "write_page"]

PAGE = """# What runs where

Which hooks and which edits may be used in a plain forward, in `generate` with and without a key-value cache, in bfloat16, and on which of
TransformerLens' classes? Every cell is measured: `make models` writes this page, and some rows are part of `make test`.

- **yes**: equal to a loop of whole forwards, to rounding.
- **an error's name**: refused, by this error; the message says what to do instead.
- Where the classes differ, the cell says which is which.

## Hooks

Plain hooks, on {models}, in float64; in bfloat16 no further from float64 than the rounding of the model itself allows.
"A forward" is `run_with_hooks` and `with model.hooks(...)`, which give the same logits bit for bit. `NeuronSet.suppress`, `enhance` and `scale` are
`scale_neurons`; `RelationMap.edit_hooks` and `RelationVector.hooks` are `relations.add_vector`.

| hooks | {runs} |
|---|{dashes}|
{factories}

In short: what acts at **every** position runs everywhere. What acts at **a position**, the last one too, needs the whole text in every forward, so
pass `use_past_kv_cache=False` to `generate`. What is **recorded** (`restore`, `sever`) has the length of its prompt, so it runs in forwards of
that length only. `HookedTransformer.generate` embeds without passing `hook_embed`, so a corruption would be left out silently; it is refused.

```python
import tl_knowledge as tlk

model = tlk.load_model("factlm")
prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France")
hooks = tlk.ablate(modules=(0, "mlp_out"), positions=prompt.subject.last)
with model.hooks(fwd_hooks=hooks):
    model.generate(prompt.tokens, max_new_tokens=3, use_past_kv_cache=False, verbose=False)  # every forward sees the whole text
    try:
        model.generate(prompt.tokens, max_new_tokens=3, use_past_kv_cache=True, verbose=False)
    except tlk.errors.ComponentError as refusal:
        print(refusal)  # position 4 means the prompt's token, but a single token came after a prompt of 6 ...
```

## Editing methods

Each with its small settings, planned on the model as it is. "A forward": the edit acts, its hooks and the weights (or the codebook, or the context)
that it puts into the model give the same logits, and afterwards the model is bit for bit what it was. `generate`: with `edit.hooks()` and with
`edit.applied(model)` the same text as a loop of whole forwards. bfloat16: planned on the model in bfloat16, hooks and weights equal to its rounding.
`ike` and `serac` have no hooks: the text is compared with that of what they read.

| method | {runs} |
|---|{dashes}|
{methods}

## Editing methods on more models

Planned, applied, and the same as hooks and as weights, on tiny random models in float64. [Which models work](models.md) has tracing, attribution and
lenses on fifty.

| model | methods that work | refused, with the error's name |
|---|---|---|
{edits}

Names that begin with `ht-` are `HookedTransformer`, the others `TransformerBridge`. Made with TransformerLens {first} and {second}; a mark in
parentheses is the second's, where it differs.
"""


def cell(by_model: Outcome) -> str:
    """What a run gives on all models, or on the models of each class where they differ."""
    of_class: dict[str, set[str]] = {}
    for name, outcome in by_model.items():
        if outcome != "absent":
            of_class.setdefault(MODELS[name], set()).add(_mark(outcome))
    everywhere = set[str]().union(*of_class.values())
    if len(everywhere) == 1:
        return everywhere.pop()
    return ", ".join(f"{kind}: {' or '.join(sorted(marks))}" for kind, marks in sorted(of_class.items()))


def _mark(outcome: str) -> str:
    if outcome.startswith("refused: "):
        return f"`{outcome.removeprefix('refused: ')}`"
    return outcome if outcome == "yes" else f"**{outcome}**"


def edits_row(by_method: Outcome) -> str:
    """The methods that work on a model, and those that are refused, by their errors."""
    refused: dict[str, list[str]] = {}
    for method, outcome in by_method.items():
        if outcome != "yes":
            refused.setdefault(_mark(outcome), []).append(f"`{method}`")
    works = [f"`{method}`" for method, outcome in by_method.items() if outcome == "yes"]
    if not refused:
        return f"all {len(works)} | "
    said = "; ".join(f"{why}: {' '.join(names)}" for why, names in refused.items())
    return f"{' '.join(works) or 'none'} | {said}"


def measured() -> dict[str, Any]:
    """All outcomes of the installed TransformerLens."""
    rows = {row: {name: outcomes(row, name) for name in MODELS} for row in [*FACTORIES, *METHODS]}
    edits = {
        name: {method: rows[method][name][FORWARD] for method in METHODS} if name in MODELS else edits_on(name) for name in BUILDERS | HARD_BUILDERS
    }
    return {"version": version("transformer-lens"), "rows": rows, "edits": edits}


def write_page(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The page from the outcomes of two TransformerLens lines; the first has both classes."""

    def row(name: str) -> str:
        cells = []
        for run in RUNS:
            ours, theirs = ({model: by_run[run] for model, by_run in line["rows"][name].items()} for line in (first, second))
            bridges = {model: outcome for model, outcome in ours.items() if theirs[model] != "absent"}
            cells.append(cell(ours) if cell(bridges) == cell(theirs) else f"{cell(ours)} ({cell(theirs)})")
        return f"| {name if name in FACTORIES else f'`{name}`'} | {' | '.join(cells)} |"

    def edits(name: str) -> str:
        ours, theirs = first["edits"][name], second["edits"].get(name, {})
        same = not theirs or theirs == ours or "absent" in theirs.values()
        return f"| {name} | {edits_row(ours)} |" + ("" if same else f"\n| {name} ({second['version']}) | {edits_row(theirs)} |")

    return PAGE.format(
        first=first["version"],
        second=second["version"],
        models=", ".join(f"`{name}`" for name in MODELS),
        runs=" | ".join(RUNS),
        dashes="|".join("---" for _ in RUNS),
        factories="\n".join(map(row, FACTORIES)),
        methods="\n".join(map(row, METHODS)),
        edits="\n".join(map(edits, first["edits"])),
    )


def main() -> None:
    """Write the outcomes of the installed TransformerLens; with two files of them, the page."""
    if len(sys.argv) > 3:
        first, second, page = map(Path, sys.argv[1:4])
        page.write_text(write_page(json.loads(first.read_text()), json.loads(second.read_text())), encoding="utf-8")
        return
    Path(sys.argv[1]).write_text(json.dumps(measured(), indent=1))


if __name__ == "__main__":
    main()
