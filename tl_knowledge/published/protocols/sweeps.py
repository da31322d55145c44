"""The protocol of layer sweeps: does localisation inform editing?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.editing import EditMethod, Objective
from tl_knowledge.errors import DataError
from tl_knowledge.localised import EditingProblem, LayerSweep, SweepVariant, compare_sweeps, move_method, sweep_layers
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.published.protocol import Measured, Protocol, number
from tl_knowledge.published.protocols.editing import methods_of
from tl_knowledge.published.workbench import Editor, Workbench
from tl_knowledge.wording import counted

__all__ = ["SweepProtocol"]


@dataclass(frozen=True)
class SweepProtocol(Protocol):
    """Edit and trace every layer, and regress the score on the layer and on the tracing effect.

    Attributes:
        problems: editing problems.
        editors: methods; those of several layers, and those whose label says so, edit five around each layer.
        variant: whose objectives, noise, effects, scores and regression.
        noise: of the corruption.
        window: layers restored together.
        samples: noise draws.
    """

    problems: tuple[EditingProblem, ...]
    editors: tuple[Editor, ...]
    variant: SweepVariant = "hase2023"
    noise: float | str = "3 subject sd"
    window: int = 5
    samples: int = 10

    @override
    def measure(self, bench: Workbench) -> Measured:
        """R^2 on the layer, on the tracing effect and on both, with the F-test; the layers that edit best and trace highest; correlations."""
        methods, notes = methods_of(bench, self.editors)
        rows: list[dict[str, Any]] = []
        sweeps: list[LayerSweep] = []
        labels: list[str] = []
        figures: list[go.Figure] = []
        for problem in self.problems:
            for editor in (editor for editor in self.editors if editor.label in methods):
                name = f"{problem.replace('_', ' ')}: {editor.label}"
                try:
                    sweep = self._sweep(bench, problem, editor, methods[editor.label])
                except DataError as error:  # a problem may apply to none of a few facts
                    notes.append(f"{name}: {error}")
                    continue
                rows += self._rows(name, sweep)
                sweeps.append(sweep)
                labels.append(editor.label)
                figures.append(sweep.plot())
                notes += [f"{name}: {counted(len(sweep.skipped), 'fact')} left out ({next(iter(sweep.skipped.values()))})"] if sweep.skipped else []
        if not sweeps:
            raise DataError("; ".join(notes))
        gain = compare_sweeps(*sweeps, names=tuple(labels), variant=self.variant)
        scatter = [sweep.plot_scatter(variant=self.variant) for sweep in sweeps[:1]]
        return Measured(rows, [gain.plot(), *scatter, *figures], notes)

    def _rows(self, name: str, sweep: LayerSweep) -> list[dict[str, Any]]:
        fit, n = sweep.regressions(variant=self.variant), int(sweep.table["case_id"].nunique())
        values = {"R2 layer": fit.first, "R2 tracing": fit.second, "R2 both": fit.both, "gain of tracing": fit.both - fit.first, "p": fit.p}
        by_layer = sweep.summary()
        layers = by_layer["layer"].tolist()
        for column, score in (("best layer", "score"), ("traced layer", "tracing_effect")):
            values[column] = float(layers[int(by_layer[score].to_numpy().argmax())])
        return [number(name, column, value, n=n) for column, value in values.items()]

    def _sweep(self, bench: Workbench, problem: EditingProblem, editor: Editor, settings: EditMethod) -> LayerSweep:
        cases, layers = bench.cases(), tuple(range(layer_count(bench.model) - 1))
        moved = move_method(bench.model, settings, window=5 if editor.wide else None, layers=layers)
        moments = bench.moments([moved(layer, Objective()) for layer in layers])
        with bench.timed("edits"):
            return sweep_layers(
                bench.asked,
                cases,
                moved,
                problem=problem,
                moments=moments,
                layers=layers,
                noise=bench.noise(self.noise, [case.fact for case in cases]),
                samples=self.samples,
                window=self.window,
                variant=self.variant,
                store=bench.part(f"{problem} {editor.label}"),
                runner=bench.runner,
                workers=bench.workers,
                progress=bench.progress,
            )
