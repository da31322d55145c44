"""The table of bad input, continued: editing and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.editing import KE, MEND, TrainingSettings, load_training_data
from tl_knowledge.editing.optimise.fact_rows import edited_position
from tl_knowledge.results.provenance import Provenance

FACT = tlk.Fact("a", "{} is", " b")
MOMENTS = tlk.KeyMoments(
    {1: torch.eye(24, dtype=torch.float64)}, 99, {1: 0.1}, "x", "y", Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {})
)
CASES = tlk.load_edit_cases()


@dataclass(frozen=True)
class Plain(tlk.editing.EditMethod):
    """A method without an objective."""

    layer: int

    def plan(self, model, facts, moments):
        raise NotImplementedError


BAD_EDITS = {
    "plan_edit: no fact": (lambda m, p: tlk.plan_edit(m, [], tlk.ROME(layer=1)), errors.DataError, "no fact was given"),
    "ROME: several": (
        lambda m, p: tlk.ROME(layer=1).plan(m, [FACT] * 2, None),
        errors.InputError,
        "one fact at a time, not 2",
    ),
    "IKE: no pool": (lambda m, p: tlk.editing.IKE().plan(m, [FACT], None), errors.InputError, "needs as many demonstrations, and none was given"),
    "IKE: several": (lambda m, p: tlk.editing.IKE(k=0).plan(m, [FACT] * 2, None), errors.InputError, "one fact at a time, not 2"),
    "IKE: the fact itself": (
        lambda m, p: tlk.editing.IKE(k=1, pool=tlk.editing.Demonstrations.from_cases(CASES[:2])).plan(m, [CASES[0].rewrite], None),
        errors.InputError,
        "the demonstrations hold the edited fact",
    ),
    "IKE: embedding": (lambda m, p: tlk.editing.IKE(k=0, embedding="all-MiniLM"), errors.InputError, "which is not installed"),
    "Demonstrations: none": (lambda m, p: tlk.editing.Demonstrations.from_cases([]), errors.DataError, "no case was given"),
    "SERAC: untrained": (lambda m, p: tlk.editing.SERAC().plan(m, [FACT], None), errors.InputError, "these settings have none; train them with"),
    "SERAC: no memory": (lambda m, p: tlk.editing.SERAC(least=1.0), errors.InputError, "is no memory"),
    "SERAC: layers": (lambda m, p: tlk.editing.SERAC.for_model(m, layers=1), errors.InputError, "chooses its layers itself"),
    "SERAC: no encoder": (
        lambda m, p: tlk.editing.SERAC(scope="/no/such").train(m, CASES[:1], ["a"], validation=CASES[1:2]),
        errors.InputError,
        "there is no text encoder",
    ),
    "SERAC: store": (
        lambda m, p: tlk.editing.SERAC.small().train("factlm", tlk.load_edit_cases()[:1], ["a b"], validation=tlk.load_edit_cases()[1:2], store=""),
        errors.DataError,
        "'': the path is empty",
    ),
    "TrainingSettings: batch": (lambda m, p: TrainingSettings(batch_size=0), errors.InputError, "batch_size=0 trains nothing"),
    "EMMET: moments": (lambda m, p: tlk.EMMET(layer=1).plan(m, [], None), errors.InputError, "needs the second moments"),
    "FineTune: bound": (lambda m, p: tlk.FineTune(layer=1, most_change=0.0).plan(m, [], None), errors.InputError, "allows no change"),
    "GRACE: radius": (lambda m, p: tlk.editing.GRACE(layer=1, radius=0.0), errors.InputError, "radius=0.0 reaches nothing"),
    "GRACE: keys": (lambda m, p: tlk.editing.GRACE(layer=1, most_keys=0), errors.InputError, "has no room for a key"),
    "GRACE: layer": (lambda m, p: tlk.editing.GRACE(layer=99).plan(m, [FACT], None), errors.ComponentError, "layer 99 is outside"),
    "GRACE.for_model": (lambda m, p: tlk.editing.GRACE.for_model(m), errors.InputError, "nothing is published for"),
    "GRACE: matrix": (
        lambda m, p: tlk.editing.GRACE(layer=1, matrix="W_up"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "matrix 'W_up' is unknown",
    ),
    "GRACE: start": (
        lambda m, p: tlk.editing.GRACE(layer=1, start="hot"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "start 'hot' is unknown",
    ),
    "TransformerPatcher: corpus": (
        lambda m, p: tlk.editing.TransformerPatcher(corpus="no such file").plan(m, [FACT], None),
        errors.DataError,
        "neither a file nor one of",
    ),
    "TransformerPatcher: neurons": (
        lambda m, p: tlk.editing.TransformerPatcher(corpus="factlm", most_neurons=0),
        errors.InputError,
        "most_neurons=0 makes no sense",
    ),
    "TransformerPatcher: smoothing": (
        lambda m, p: tlk.editing.TransformerPatcher(corpus="factlm", label_smoothing=1.0),
        errors.InputError,
        "label_smoothing=1.0 is no share",
    ),
    "TransformerPatcher.for_model": (
        lambda m, p: tlk.editing.TransformerPatcher.for_model(m),
        errors.InputError,
        r"pass TransformerPatcher\(corpus=...\)\. Known: factlm",
    ),
    "load_edit: file": (lambda m, p: tlk.editing.load_edit("no such file"), errors.DataError, "pass a file written by save"),
    "MEMIT: order": (lambda m, p: tlk.MEMIT(layers=(2, 1)).plan(m, [], MOMENTS), errors.InputError, "do not ascend"),
    "MEMIT: moments": (lambda m, p: tlk.MEMIT(layers=(1,)).plan(m, [], None), errors.InputError, "needs the second moments"),
    "ROME: layer": (lambda m, p: tlk.ROME(layer=99).plan(m, [FACT], None), errors.ComponentError, "layer 99 is outside"),
    "ROME.for_model": (lambda m, p: tlk.ROME.for_model(m), errors.InputError, "nothing is published for"),
    "collect_key_moments: layer": (lambda m, p: tlk.collect_key_moments(m, ["a"], layers=[9]), errors.ComponentError, "layer 9 is outside"),
    "evaluate: no case": (lambda m, p: tlk.evaluate(m, [], tlk.ROME(layer=1)), errors.DataError, "no case was given"),
    "evaluate: protocol": (
        lambda m, p: tlk.evaluate(m, tlk.load_edit_cases()[:1], tlk.ROME(layer=1), protocol="all"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "protocol 'all' is unknown",
    ),
    "MEMIT: weight": (lambda m, p: tlk.MEMIT(layers=(1,), moment_weight=0.0).plan(m, [], MOMENTS), errors.InputError, "keeps nothing of other text"),
    "MEMIT.for_model": (lambda m, p: tlk.MEMIT.for_model(m), errors.InputError, "nothing is published for"),
    "ROME: variant": (
        lambda m, p: tlk.ROME(layer=1, variant="r_rome").plan(m, [FACT], MOMENTS),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'r_rome' is unknown",
    ),
    "ROME: at": (
        lambda m, p: edited_position(p, "subject_last"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "at 'subject_last' is unknown, did you mean 'subject_first'",
    ),
    "move_method: no layer": (
        lambda m, p: tlk.localised.move_method(m, tlk.localised.CausalNeuronEdit()),
        errors.InputError,
        "chooses its layers itself",
    ),
    "move_method: no objective": (lambda m, p: tlk.localised.move_method(m, Plain(layer=1)), errors.InputError, "has no objective"),
    "move_method: window": (lambda m, p: tlk.localised.move_method(m, tlk.ROME(layer=1), window=3), errors.InputError, "but ROME edits one"),
    "move_method: no window": (lambda m, p: tlk.localised.move_method(m, tlk.MEMIT(layers=(1,)), window=0), errors.ComponentError, "holds no layer"),
    "move_method: layers": (lambda m, p: tlk.localised.move_method(m, tlk.ROME(layer=1), layers=[9]), errors.ComponentError, "layer 9"),
    "layers_around: window": (lambda m, p: tlk.localised.layers_around(m, 1, window=0), errors.ComponentError, "holds no layer"),
    "measure_growth: no method": (lambda m, p: tlk.evaluation.measure_growth(m, CASES[:2], {}, [1]), errors.DataError, "no method was given"),
    "method_class: name": (lambda m, p: tlk.editing.method_class("memt"), errors.InputError, "method 'memt' is unknown, did you mean 'memit'"),
    "method_for_model: name": (lambda m, p: tlk.editing.method_for_model(m, "rom"), errors.InputError, "did you mean 'rome'"),
    "ROME: bare weight": (
        lambda m, p: tlk.ROME(layer=1, bare_weight=2.0).plan(m, [FACT], MOMENTS),
        errors.InputError,
        "bare_weight=2.0 is no weight",
    ),
    "EMMET: bare weight": (
        lambda m, p: tlk.EMMET(layer=1, bare_weight=-1.0).plan(m, [FACT], MOMENTS),
        errors.InputError,
        "bare_weight=-1.0 is no weight",
    ),
    "MEND: untrained": (
        lambda m, p: MEND(layers=(1,)).plan(m, [FACT], None),
        errors.InputError,
        "edits with trained networks, and these settings have",
    ),
    "MEND: layers": (lambda m, p: MEND(layers=(1, 1)), errors.InputError, "changes nothing, or something twice"),
    "MEND: matrix": (
        lambda m, p: MEND(layers=(1,), matrices=("W_up",)),  # pyright: ignore[reportArgumentType]
        errors.ComponentError,
        "matrix 'W_up' is unknown",
    ),
    "MEND: rank": (lambda m, p: MEND(layers=(1,), rank=0), errors.InputError, "rank must be 1 or more"),
    "MEND: scale": (lambda m, p: MEND(layers=(1,), scale=float("nan")), errors.InputError, "scale=nan leaves no edit"),
    "MEND: layer": (lambda m, p: MEND(layers=(9,)).train(m, CASES[:1], ["a"], validation=CASES[1:2]), errors.ComponentError, "layer 9 is outside"),
    "MEND: no matrix": (
        lambda m, p: MEND(layers=(1,), matrices=("W_gate",)).train(m, CASES[:1], ["a"], validation=CASES[1:2]),
        errors.UnsupportedModelError,
        "has no blocks.1.mlp.W_gate",
    ),
    "MEND: nothing to learn": (lambda m, p: MEND(layers=(1,)).train(m, [], ["a"], validation=CASES[:1]), errors.DataError, "no training case"),
    "MEND: no validation": (lambda m, p: MEND(layers=(1,)).train(m, CASES[:1], ["a"], validation=[]), errors.DataError, "no validation case"),
    "MEND: overlap": (
        lambda m, p: MEND(layers=(1,)).train(m, CASES[:3], ["a"], validation=CASES[2:4]),
        errors.InputError,
        "1 of 2 validation cases are of facts that are trained on",
    ),
    "MEND.for_model": (lambda m, p: MEND.for_model(m), errors.InputError, r"nothing is published for .*pass MEND\(layers="),
    "MEND.load": (lambda m, p: MEND.load("/no/such/file"), errors.DataError, "as a saved TrainedEditor"),
    "load_trained": (lambda m, p: tlk.editing.load_trained("/no/such/file"), errors.DataError, "as a saved TrainedEditor"),
    "KE: hidden": (lambda m, p: KE(layers=(1,), hidden=0), errors.InputError, "hidden=0 makes no edit"),
    "KE: untrained": (lambda m, p: tlk.evaluate(m, CASES[:1], KE(layers=(1,))), errors.TLKnowledgeError, "trained networks|tokenizer"),
    "TrainingSettings: steps": (
        lambda m, p: MEND(layers=(1,), training=TrainingSettings(steps=25)).train(m, CASES[:1], ["a"], validation=CASES[1:2]),
        errors.InputError,
        "steps=25 leaves an update of accumulate=10",
    ),
    "TrainingSettings: rate": (lambda m, p: TrainingSettings(learning_rate=-1.0), errors.InputError, "learning_rate must be above 0"),
    "TrainingSettings: clip": (lambda m, p: TrainingSettings(clip=0.0), errors.InputError, "clip=0.0 trains nothing"),
    "TrainingSettings: text": (lambda m, p: TrainingSettings(text_tokens=1), errors.InputError, "text_tokens=1 is no text"),
    "load_training_data: name": (lambda m, p: load_training_data("wikidata"), errors.DataError, "training data 'wikidata' is unknown"),
    "load_training_data: source": (lambda m, p: load_training_data("zsre"), errors.DataError, "has no default source"),
    "AlphaEdit: moments": (lambda m, p: tlk.AlphaEdit(layers=(1,)).plan(m, [], None), errors.InputError, "needs the second moments"),
    "AlphaEdit: ridge": (lambda m, p: tlk.AlphaEdit(layers=(1,), ridge=0.0).plan(m, [], MOMENTS), errors.InputError, "leaves the update singular"),
    "AlphaEdit.for_model": (lambda m, p: tlk.AlphaEdit.for_model(m), errors.InputError, "nothing is published for"),
    "FineTune: layers": (lambda m, p: tlk.FineTune(layer=(1, 1)).plan(m, [], None), errors.InputError, "no layer, or one twice"),
    "FineTune: variant": (lambda m, p: tlk.FineTune(layer=1, variant="meng2023").plan(m, [], None), errors.InputError, "variant 'meng2023'"),
    "FineTuneConstrained: bound": (
        lambda m, p: tlk.editing.FineTuneConstrained(layer=1, most_change=-1.0).plan(m, [], None),
        errors.InputError,
        "allows no change",
    ),
    "KnowledgeNeuronEdit: variant": (
        lambda m, p: tlk.localised.KnowledgeNeuronEdit(variant="both").plan(m, [FACT], None),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'both' is unknown",
    ),
    "KnowledgeNeuronEdit: at": (
        lambda m, p: tlk.localised.KnowledgeNeuronEdit(at="relation").plan(m, [FACT], None),
        errors.InputError,
        "at 'relation' is unknown",
    ),
    "CausalNeuronEdit: states": (lambda m, p: tlk.localised.CausalNeuronEdit(k=0), errors.InputError, "k=0 changes no state"),
    "CausalNeuronEdit: no such program": (
        lambda m, p: tlk.localised.CausalNeuronEdit(variant="meng2022_code"),
        errors.InputError,
        "variant 'meng2022_code' is unknown",
    ),
    "CausalNeuronEdit: variant": (
        lambda m, p: tlk.localised.CausalNeuronEdit(variant="both").plan(m, [FACT], None),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'both' is unknown",
    ),
    "editing_problem: unknown": (
        lambda m, p: tlk.localised.editing_problem(m, CASES[0], "forgetting"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "problem 'forgetting' is unknown",
    ),
    "sweep_layers: no case": (
        lambda m, p: tlk.localised.sweep_layers(m, [], lambda layer, o: tlk.ROME(layer=layer)),
        errors.DataError,
        "no case was given",
    ),
    "layers_around: layer": (lambda m, p: tlk.localised.layers_around(m, 9), errors.ComponentError, "layer 9 is outside"),
    "compare_sweeps: none": (lambda m, p: tlk.localised.compare_sweeps(), errors.DataError, "no sweep was given"),
    "hase_scores: variant": (
        lambda m, p: tlk.evaluation.hase_scores({}, {}, variant="hase2022"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "'hase2022'",
    ),
    "read_answers: pairs": (
        lambda m, p: tlk.evaluation.read_answers(m, [p]),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "pairs=",
    ),
    "evaluate: batch size": (lambda m, p: tlk.evaluate(m, CASES[:1], tlk.ROME(layer=1), batch_size=0), errors.InputError, "batch_size=0"),
    "evaluate: contradiction": (
        lambda m, p: tlk.evaluate(m, [CASES[0], replace(CASES[0], target_new=" Atlantis")], tlk.MEMIT(layers=(1,)), protocol="batch"),
        errors.InputError,
        "in one batch; keep one of them",
    ),
    "measure_growth: sizes": (
        lambda m, p: tlk.evaluation.measure_growth(m, CASES[:2], {"ROME": tlk.ROME(layer=1)}, [3]),
        errors.InputError,
        "do not fit 2 cases",
    ),
    "FineTune: objective": (
        lambda m, p: tlk.FineTune(layer=1, objective=tlk.editing.Objective(variant="hase2023")).plan(m, [FACT], None),
        errors.InputError,
        "does not train towards",
    ),
    "UltraEdit: tokens": (
        lambda m, p: tlk.editing.UltraEdit(layers=(1,), tokens="subject"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "tokens 'subject' is unknown",
    ),
    "UltraEdit: matrix": (
        lambda m, p: tlk.editing.UltraEdit(layers=(1,), matrices=("W_U",)),  # pyright: ignore[reportArgumentType]
        errors.ComponentError,
        "matrix 'W_U' is unknown",
    ),
    "UltraEdit: ridge": (lambda m, p: tlk.editing.UltraEdit(layers=(1,), ridge=0.0), errors.InputError, "leaves the update singular"),
    "UltraEdit: rate": (lambda m, p: tlk.editing.UltraEdit(layers=(1,), learning_rate=-1.0), errors.InputError, "must be above 0 and finite"),
    "UltraEdit.for_model": (lambda m, p: tlk.editing.UltraEdit.for_model(m), errors.InputError, "nothing is published for"),
    "PMET: moments": (lambda m, p: tlk.editing.PMET(layers=(1,)).plan(m, [], None), errors.InputError, "PMET needs the second moments"),
    "PMET: variant": (lambda m, p: tlk.editing.PMET(layers=(1,), variant="wei2024"), errors.InputError, "PMET has no variant 'wei2024'"),
    "LoRA: matrices": (lambda m, p: tlk.editing.LoRA(layers=(1,), matrices=()), errors.InputError, "names no matrix, or one twice"),
    "LoRA: twice": (lambda m, p: tlk.editing.LoRA(layers=(1,), matrices=("W_Q", "W_Q")), errors.InputError, "names no matrix, or one twice"),
    "LoRA: rank": (lambda m, p: tlk.editing.LoRA(layers=(1,), rank=0), errors.InputError, "rank must be 1 or more"),
    "LoRA: alpha": (lambda m, p: tlk.editing.LoRA(layers=(1,), alpha=0.0), errors.InputError, "alpha must be above 0 and finite"),
    "LoRA: layer": (lambda m, p: tlk.editing.LoRA(layers=(9,)).plan(m, [FACT], None), errors.ComponentError, "layer 9 is outside"),
    "LoRA: no layer": (lambda m, p: tlk.editing.LoRA(layers=()).plan(m, [FACT], None), errors.ComponentError, "no layer was given"),
    "LoRA.for_model": (lambda m, p: tlk.editing.LoRA.for_model(m), errors.InputError, "nothing is published for"),
    "FineTuneAttention: bound": (
        lambda m, p: tlk.editing.FineTuneAttention(layer=1, most_change=0.0),
        errors.InputError,
        "allows no change",
    ),
    "FineTuneDecayed: no such matrix": (
        lambda m, p: tlk.editing.FineTuneDecayed(layer=1, matrices=("W_gate",)).plan(m, [], None),
        errors.UnsupportedModelError,
        "has no blocks.1.mlp.W_gate",
    ),
    "GenerationScores: length": (lambda m, p: tlk.evaluation.GenerationScores(length=0), errors.InputError, "length"),
    "EssenceDrift: length": (lambda m, p: tlk.evaluation.EssenceDrift({}, length=1), errors.InputError, "predicts no token"),
    "AttributeSnippets.from_texts": (lambda m, p: tlk.datasets.AttributeSnippets.from_texts({}), errors.InputError, "no text in texts"),
    "compare_categories: none": (lambda m, p: tlk.evaluation.compare_categories(), errors.DataError, "no report was given"),
    "sweep_layer_ranges: none": (
        lambda m, p: tlk.evaluation.sweep_layer_ranges(m, CASES[:2], tlk.MEMIT(layers=(1,)), []),
        errors.InputError,
        "at least one range",
    ),
    "score_table: none": (lambda m, p: tlk.score_table(), errors.DataError, "no report was given"),
}
