"""A report as a page: each part with what it is, how to read it, and what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tl_knowledge.attention import AttentionAnalysis
from tl_knowledge.circuits import Circuit, compare
from tl_knowledge.drawing import PagePart, SideBySide, Table, heading, html_page, marked_prompt, markup, note, provenance_footer
from tl_knowledge.engine.batches import in_words
from tl_knowledge.evaluation import Consequences
from tl_knowledge.report.findings import EditedFact, FactFindings, NeuronFindings
from tl_knowledge.report.settings import ReportSettings
from tl_knowledge.tracing import SUMMARY_HEADER, CausalTrace, effect_view, summary_rows
from tl_knowledge.tracing import compare as compare_traces
from tl_knowledge.wording import counted

__all__ = ["report_page"]

_INTRO = (
    "<p>The clean run of {{ trace.provenance.model }} "
    "{% if trace.known %}predicts it{% else %}<b>does not predict it</b>, so read everything below with care{% endif %}: "
    "P({{ answer }}) = {{ probability }}. {{ samples }} noise samples.</p>"
    "<ul>{% for sentence in sentences %}<li>{{ sentence }}</li>{% endfor %}</ul>"
)


def report_page(report: FactFindings) -> str:
    """The whole page."""
    parts: list[PagePart] = [*_summary(report), *_traces(report), *_neurons(report.neurons, report.settings), *_circuits(report), *_attention(report)]
    if report.edited is not None:
        parts += _edit(report, report.edited)
    return html_page(f"{report.fact.text} {report.fact.target.strip()}", [*parts, provenance_footer(report.provenance)])


def _summary(report: FactFindings) -> list[PagePart]:
    """What the model says, and everything that follows in one list."""
    first = report.traces["subject"][0]
    return [
        marked_prompt(first.labels, first.spans, first.target),
        note("Violet: the subject. Orange: the relation, every other token. Yellow: the answer."),
        markup(
            _INTRO,
            trace=first,
            answer=_answer(report),
            probability=f"{first.clean_probability:.1%}",
            samples=first.settings.samples,
            sentences=list(_sentences(report)),
        ),
    ]


def _sentences(report: FactFindings) -> Iterator[str]:
    """One sentence a part."""
    circuit = report.circuits["subject"]
    for side, traces in report.traces.items():
        yield _passage(traces, side)
    yield (
        f"A circuit of {counted(len(circuit.nodes), 'site')}, kept alone, keeps {circuit.faithfulness:.0%} of what the subject contributes to "
        f"P({_answer(report)}); held out, it takes {circuit.completeness:.0%} of it."
    )
    if report.attention is not None:
        best = report.attention.top(1).iloc[0]
        yield (
            f"The head that restores most at the last token is {int(best['layer'])}.{int(best['head'])} ({best['effect_subject']:+.3f}); it gives "
            f"{best['subject_from_last']:.0%} of its attention to the subject and writes {best['direct']:+.1f} logits of the answer."
        )
    if len(report.neurons.neurons):
        p = report.neurons.probability
        yield f"Suppressing {counted(len(report.neurons.neurons), 'knowledge neuron')}: P {p['left alone']:.1%} to {p['suppressed']:.1%}."
    if report.edited is not None:
        new = report.edited.circuit
        low = float(new.corrupted_probability.mean())
        yield f"The edit moves P({new.target.strip()!r}) from {low:.1%} to {new.clean_probability:.1%}."


def _answer(report: FactFindings) -> str:
    return repr(report.fact.target.strip())


def _passage(traces: Sequence[CausalTrace], side: str) -> str:
    """Where one side's information passes, in a sentence."""
    modules = [trace for trace in traces if trace.component in ("mlp_out", "attn_out") and not trace.severed]
    best = max(modules, key=lambda trace: float(trace.mean_effect.nan_to_num().max()))
    site = best.top(1).iloc[0]
    what = "MLPs" if best.component == "mlp_out" else "attention"
    around = f"around layer {site['layer']}" if best.window > 1 else f"in layer {site['layer']}"
    return (
        f"Corrupting the {side} costs {float(best.total_effect.mean()):.1%}; of that, {what} {around} at {site['token'].strip()!r} restored alone "
        f"bring back {site['share']:.0%}."
    )


def _traces(report: FactFindings) -> list[PagePart]:
    by_side = report.traces
    plain = [trace for traces in zip(*by_side.values(), strict=True) for trace in traces if not trace.severed]
    severed = [trace for trace in by_side["subject"] if trace.component == "resid_post"]
    coloured = effect_view(by_side["subject"][1])
    rows = summary_rows([trace for traces in by_side.values() for trace in traces])
    return [
        heading("Where the information is: causal traces"),
        "Noise on the corrupted tokens (bold, with an asterisk) makes the model lose the answer. Each cell restores one clean activation and "
        "shows how much of the answer's probability comes back: cells in full colour are sites through which the information passes, brown ones take "
        "from the answer.",
        *(compare_traces(*plain[i : i + 2]).plot() for i in range(0, len(plain), 2)),
        heading("With modules severed", 3),
        "The same states, with the MLPs or the attention at the restored token pinned to the corrupted run. A cell that loses its colour acts "
        "through the severed module.",
        compare_traces(*severed).plot(),
        Table(SUMMARY_HEADER, rows),
        coloured,
        note(coloured.note),
    ]


def _neurons(findings: NeuronFindings, settings: ReportSettings) -> list[PagePart]:
    parts: list[PagePart] = [
        heading("Which neurons raise the answer"),
        f"Integrated gradients at the subject's last token, {_wordings(findings, settings)}. Suppressing sets the neurons' activations to zero "
        "there; random neurons of the same layers are the control.",
    ]
    if findings.view is None or findings.circuit is None:
        return [*parts, "No neuron is shared by the wordings, so there is nothing to scale."]
    rows = [(what, f"{value:.2%}") for what, value in findings.probability.items()]
    parts += [Table(("the neurons are", "P(answer)"), rows), findings.view, note(findings.view.note)]
    return [*parts, heading("How what they write reaches the answer", 3), _kept(findings.circuit), findings.circuit.plot()]


def _wordings(findings: NeuronFindings, settings: ReportSettings) -> str:
    reached = f"{counted(len(findings.neurons), 'neuron')} with at least {settings.threshold:.0%} of the largest score"
    if findings.wordings == 1:
        return f"in this wording alone: {reached}"
    return f"in {counted(findings.wordings, 'wording')}: {reached} in more than {settings.shared_by:.0%} of them"


def _kept(circuit: Circuit) -> str:
    return (
        f"{counted(len(circuit.nodes), 'site')}: kept alone they keep {circuit.faithfulness:.0%} of the total effect "
        f"(faithfulness), {circuit.wired:.0%} when "
        "each hears the others through the drawn arrows only; held at their corrupted values they take "
        f"{circuit.completeness:.0%} of it (completeness)."
    )


def _circuits(report: FactFindings) -> list[PagePart]:
    circuit = report.circuits["subject"]
    rows = [
        (*(f"{row[end]} at {row[f'{end}_token'].strip()!r}" for end in ("source", "target")), f"{row['weight']:+.3f}", f"{row['need']:+.3f}")
        for row in circuit.top(12).to_dict(orient="records")
    ]
    return [
        heading("How the sites work together: the circuit"),
        "An arrow from A to B is an exact path intervention: A is restored, every other site of the circuit stays corrupted, and the value that "
        "B then takes is written into the corrupted run. Its width is what that brings back of the answer, or what the circuit alone loses when "
        "the arrow is cut, whichever is more; dotted arrows lower the answer. Marks are as large as what is lost without the site, or what it "
        "restores alone. Hover over marks and arrows.",
        _kept(circuit),
        circuit.plot(),
        Table(("from", "to", "carries", "lost when cut"), rows),
        circuit.plot_growth(),
        heading("Relation against subject", 3),
        "The same with the relation corrupted, drawn over the subject's circuit.",
        compare(circuit, report.circuits["relation"], names=("subject", "relation")).plot(),
    ]


def _attention(report: FactFindings) -> list[PagePart]:
    heads: list[PagePart] = [report.attention_missing] if report.attention is None else _heads(report.attention)
    return [
        heading("Which heads read it: attention"),
        *heads,
        heading("What is written at the last token", 3),
        "With the final norm's scale frozen, the answer's logit is a sum over everything written into the stream.",
        report.direct_missing if report.direct is None else report.direct.plot(),
        report.lens.plot(),
    ]


_HEAD_COLUMNS = {
    "subject_from_last": ("attends to subject", ".0%"),
    "relation_from_last": ("to relation", ".0%"),
    "effect_subject": ("effect, subject corrupted", "+.3f"),
    "effect_relation": ("effect, relation corrupted", "+.3f"),
    "knockout": ("P when knocked out", "+.1%"),
    "direct": ("writes (logits)", "+.2f"),
    "direct_subject": ("of that, read at the subject", "+.2f"),
}


def _heads(heads: AttentionAnalysis) -> list[PagePart]:
    rows = [
        (f"{row['layer']}.{row['head']}", *(f"{row[name]:{form}}" for name, (_, form) in _HEAD_COLUMNS.items()), str(row["rank"]))
        for row in heads.top(10).to_dict(orient="records")
    ]
    return [
        "Each head at the last token: how far corrupting the subject or the relation moves its attention, and what restoring its output alone "
        "brings back. A head far up and to the right both loses its place and matters.",
        heads.plot(),
        Table(("head", *(words for words, _ in _HEAD_COLUMNS.values()), "rank of the answer"), rows),
        note("Rank: how many tokens of the vocabulary the head's own output promotes more than the answer (0: none)."),
        *heads.attention_view().parts(),
    ]


def _edit(report: FactFindings, edited: EditedFact) -> list[PagePart]:
    rows = [(each.text, in_words(each.before), in_words(each.after)) for each in edited.continuations]
    return [
        heading(f"What an edit changes: {report.fact.target.strip()} to {edited.circuit.target.strip()}"),
        f"{edited.edit.method}; {edited.health.headline()}.",
        Table(("prompt", "before", "after"), rows),
        SideBySide([view.parts() for view in edited.views]),
        heading("Through what it acts", 3),
        "The edited run in the clean run's place, the unedited one in the corrupted run's; effects in the logarithm of the new answer's "
        f"probability. {_kept(edited.circuit)}",
        edited.circuit.plot(),
        heading("The fact's circuit before and after", 3),
        "Both from the subject's corruption: the old answer in the unedited model, the new answer in the edited one.",
        compare(report.circuits["subject"], edited.after, names=("before the edit", "after the edit")).plot(),
        *([] if edited.moved is None else _moved(edited.moved)),
    ]


def _moved(moved: Consequences) -> list[PagePart]:
    """What else was asked before and after the edit."""
    questions, values = moved.questions(), moved.summary()
    left_out = len(moved.table) - len(questions)
    read = values[values["questions"] == 0]
    parts: list[PagePart] = [
        heading("What this edit moved", 3),
        f"{counted(len(questions), 'question')} with a known answer, asked of the unedited and of the edited model; "
        f"{left_out} more are left out, because the "
        "unedited model does not say what they rest on. This is one edit: an interval (Wilson, 95%) is over the questions of a row, which share a "
        "model and a subject, and says nothing of other edits.",
        moved.plot(),
        Table(("kind", "question", "answer asked for", "before", "after", ""), [tuple(row) for row in questions.itertuples(index=False)]),
    ]
    if len(read):
        rows = [(str(name), f"{old:.3g}", f"{new:.3g}") for name, old, new in zip(read["moved"], read["unedited"], read["edited"], strict=True)]
        parts += [
            "Measures that ask no question: shares in percent, perplexities, ranks (0: the likeliest).",
            Table(("measure", "before", "after"), rows),
        ]
    return parts
