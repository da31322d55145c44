"""A report as a page: each part with what it is, how to read it, and what it found."""

from __future__ import annotations

import html
from collections.abc import Sequence

from tl_knowledge.attention import AttentionAnalysis
from tl_knowledge.circuits import Circuit, compare
from tl_knowledge.drawing import PagePart, Table, html_page, marked_prompt, provenance_footer
from tl_knowledge.engine.batches import in_words
from tl_knowledge.report.findings import EditedFact, FactFindings, NeuronFindings
from tl_knowledge.tracing import SUMMARY_HEADER, CausalTrace, effect_view, summary_rows
from tl_knowledge.tracing import compare as compare_traces

__all__ = ["report_page"]


def report_page(report: FactFindings) -> str:
    """The whole page."""
    first = report.traces["subject"][0]
    target = report.fact.target.strip()
    parts: list[PagePart] = [*_summary(report), *_traces(report), *_neurons(report.neurons), *_circuits(report), *_attention(report)]
    if report.edited is not None:
        parts += _edit(report, report.edited)
    return html_page(f"{report.fact.text} {target}", [*parts, provenance_footer(first.provenance)])


def _summary(report: FactFindings) -> list[PagePart]:
    """What the model says, and the findings in one list."""
    first = report.traces["subject"][0]
    known = "predicts it" if first.known else "<b>does not predict it</b>, so read everything below with care"
    circuit = report.circuits["subject"]
    answer = html.escape(repr(report.fact.target.strip()))
    findings = [_finding(report.traces[side], side) for side in report.traces]
    findings.append(
        f"A circuit of {len(circuit.nodes)} sites, kept alone, keeps {circuit.faithfulness:.0%} of what the subject contributes to P({answer}); "
        f"held out, it takes {circuit.completeness:.0%} of it."
    )
    if report.attention is not None:
        best = report.attention.top(1).iloc[0]
        findings.append(
            f"The head that restores most at the last token is {int(best['layer'])}.{int(best['head'])} ({best['effect_subject']:+.3f}); it gives "
            f"{best['subject_from_last']:.0%} of its attention to the subject and writes {best['direct']:+.1f} logits of the answer."
        )
    if len(report.neurons.neurons):
        rows = report.neurons.probability
        findings.append(f"Suppressing {len(report.neurons.neurons)} knowledge neurons: P {rows['left alone']:.1%} to {rows['suppressed']:.1%}.")
    if report.edited is not None:
        new = report.edited.circuit
        findings.append(f"The edit moves P({html.escape(repr(new.target.strip()))}) from {_low(new):.1%} to {new.clean_probability:.1%}.")
    items = "".join(f"<li>{finding}</li>" for finding in findings)
    return [
        f"<p class='prompt'>{marked_prompt(first.labels, first.spans, first.target)}</p>",
        "<p class='note'>Violet: the subject. Green: the relation, every other token. Orange: the answer.</p>",
        f"<p>The clean run of {html.escape(first.provenance.model)} {known}: P({answer}) = {first.clean_probability:.1%}. "
        f"{len(first.total_effect)} noise samples.</p><ul>{items}</ul>",
    ]


def _finding(traces: Sequence[CausalTrace], side: str) -> str:
    """Where one side's information passes, in a sentence."""
    modules = [trace for trace in traces if trace.component in ("mlp_out", "attn_out") and not trace.severed]
    best = max(modules, key=lambda trace: float(trace.mean_effect.nan_to_num().max()))
    site = best.top(1).iloc[0]
    what = "MLPs" if best.component == "mlp_out" else "attention"
    around = f"around layer {site['layer']}" if best.window > 1 else f"in layer {site['layer']}"
    return (
        f"Corrupting the {side} costs {float(best.total_effect.mean()):.1%}; of that, {what} {around} at {html.escape(repr(site['token'].strip()))} "
        f"restored alone bring back {site['share']:.0%}."
    )


def _low(circuit: Circuit) -> float:
    return float(circuit.corrupted_probability.mean())


def _traces(report: FactFindings) -> list[PagePart]:
    by_side = report.traces
    plain = [trace for traces in zip(*by_side.values(), strict=True) for trace in traces if not trace.severed]
    severed = [trace for trace in by_side["subject"] if trace.component == "resid_post"]
    coloured = effect_view(by_side["subject"][1])
    rows = summary_rows([trace for traces in by_side.values() for trace in traces])
    return [
        "<h2>Where the information is: causal traces</h2>",
        "<p>Noise on the corrupted tokens (bold, with an asterisk) makes the model lose the answer. Each cell restores one clean activation and "
        "shows how much of the answer's probability comes back: dark cells are sites through which the information passes.</p>",
        *(compare_traces(*plain[i : i + 2]).plot() for i in range(0, len(plain), 2)),
        "<h3>With modules severed</h3>",
        "<p>The same states, with the MLPs or the attention at the restored token pinned to the corrupted run. A cell that turns pale acts through "
        "the severed module.</p>",
        compare_traces(*severed).plot(),
        Table(SUMMARY_HEADER, rows),
        coloured,
        f"<p class='note'>{html.escape(coloured.note)}</p>",
    ]


def _neurons(found: NeuronFindings) -> list[PagePart]:
    parts: list[PagePart] = [
        "<h2>Which neurons raise the answer</h2>",
        f"<p>Integrated gradients at the subject's last token, {_wordings(found)}. Suppressing sets the neurons' activations to zero there; random "
        "neurons of the same layers are the control.</p>",
    ]
    if found.view is None or found.circuit is None:
        return [*parts, "<p>No neuron is shared by the wordings, so there is nothing to scale.</p>"]
    rows = [(what, f"{value:.2%}") for what, value in found.probability.items()]
    title = f"<h3>How what they write reaches the answer</h3><p>{_kept(found.circuit)}</p>"
    note = f"<p class='note'>{html.escape(found.view.note)}</p>"
    return [*parts, Table(("the neurons are", "P(answer)"), rows), found.view, note, title, found.circuit.plot()]


def _wordings(found: NeuronFindings) -> str:
    if found.prompts == 1:
        return f"in this wording alone: {len(found.neurons)} neurons reach a fifth of the largest score"
    return f"in {found.prompts} wordings: {len(found.neurons)} neurons reach a fifth of the largest score in more than 70% of them"


def _kept(circuit: Circuit) -> str:
    return (
        f"{len(circuit.nodes)} sites: kept alone they keep {circuit.faithfulness:.0%} of the total effect (faithfulness), {circuit.wired:.0%} when "
        "each hears the others through the drawn arrows only; held at their corrupted values they take "
        f"{circuit.completeness:.0%} of it (completeness)."
    )


def _circuits(report: FactFindings) -> list[PagePart]:
    circuit = report.circuits["subject"]
    table = circuit.top(12)
    rows = [
        (*(f"{row[end]} at {row[f'{end}_token'].strip()!r}" for end in ("source", "target")), f"{row['weight']:+.3f}", f"{row['need']:+.3f}")
        for row in table.to_dict(orient="records")
    ]
    return [
        "<h2>How the sites work together: the circuit</h2>",
        "<p>An arrow from A to B is an exact path intervention: A is restored, every other site of the circuit stays corrupted, and the value that "
        "B then takes is written into the corrupted run. Its width is what that brings back of the answer, or what the circuit alone loses when "
        "the arrow is cut, whichever is more; dotted arrows lower the answer. Marks are as large as what is lost without the site, or what it "
        "restores alone. Hover over marks and arrows.</p>",
        f"<p>{_kept(circuit)}</p>",
        circuit.plot(),
        Table(("from", "to", "carries", "lost when cut"), rows),
        circuit.plot_growth(),
        "<h3>Relation against subject</h3>",
        "<p>The same with the relation corrupted, drawn over the subject's circuit.</p>",
        compare(circuit, report.circuits["relation"], names=("subject", "relation")).plot(),
    ]


def _attention(report: FactFindings) -> list[PagePart]:
    heads: list[PagePart] = [f"<p>{html.escape(report.attention_missing)}</p>"] if report.attention is None else _heads(report.attention)
    return [
        "<h2>Which heads read it: attention</h2>",
        *heads,
        "<h3>What is written at the last token</h3>",
        "<p>With the final norm's scale frozen, the answer's logit is a sum over everything written into the stream.</p>",
        report.direct.plot(),
        report.lens.plot(),
    ]


def _heads(heads: AttentionAnalysis) -> list[PagePart]:
    columns = {
        "subject_from_last": "attends to subject",
        "relation_from_last": "to relation",
        "effect_subject": "effect, subject corrupted",
        "effect_relation": "effect, relation corrupted",
        "knockout": "P when knocked out",
        "direct": "writes (logits)",
        "direct_subject": "of that, read at the subject",
    }
    forms = (".0%", ".0%", "+.3f", "+.3f", "+.1%", "+.2f", "+.2f")
    best = heads.top(min(10, len(heads.table))).to_dict(orient="records")
    rows = [
        (f"{row['layer']}.{row['head']}", *(f"{row[name]:{form}}" for name, form in zip(columns, forms, strict=True)), str(row["rank"]))
        for row in best
    ]
    view = heads.attention_view()
    return [
        "<p>Each head at the last token: how far corrupting the subject or the relation moves its attention, and what restoring its output alone "
        "brings back. A head far up and to the right both loses its place and matters.</p>",
        heads.plot(),
        Table(("head", *columns.values(), "rank of the answer"), rows),
        "<p class='note'>Rank: how many tokens of the vocabulary the head's own output promotes more than the answer (0: none).</p>",
        f"<h3>{html.escape(view.title)}</h3><p class='note'>{html.escape(view.note)}</p>",
        view,
    ]


def _edit(report: FactFindings, edited: EditedFact) -> list[PagePart]:
    words = [(each.text, in_words(each.before), in_words(each.after)) for each in edited.continuations]
    return [
        f"<h2>What an edit changes: {html.escape(report.fact.target.strip())} to {html.escape(edited.circuit.target.strip())}</h2>",
        f"<p>{html.escape(str(edited.edit.provenance.settings.get('method', 'edit')))}; {html.escape(str(edited.health))}.</p>",
        Table(("prompt", "before", "after"), words),
        "<div class='pair'><div>",
        *edited.views.parts()[:2],
        "</div><div>",
        *edited.views.parts()[2:],
        "</div></div>",
        "<h3>Through what it acts</h3>",
        "<p>The edited run in the clean run's place, the unedited one in the corrupted run's; effects in the logarithm of the new answer's "
        f"probability. {_kept(edited.circuit)}</p>",
        edited.circuit.plot(),
        "<h3>The fact's circuit before and after</h3>",
        "<p>Both from the subject's corruption: the old answer in the unedited model, the new answer in the edited one.</p>",
        compare(report.circuits["subject"], edited.after, names=("before the edit", "after the edit")).plot(),
    ]
