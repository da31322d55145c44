"""The command line's words: those of the library, refused in a sentence before anything is loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.cli.options import choice
from tl_knowledge.cli.words import (
    EDIT_SETS,
    INTERVALS,
    MEMORY_BUDGET,
    METRICS,
    PERTURBATION_VARIANTS,
    PROBLEMS,
    PROTOCOLS,
    RELATION_SIDE_METHODS,
    RUNNERS,
    SIDES,
    SWEEP_VARIANTS,
    TRACE_VARIANTS,
    TRAINED_METHODS,
    TRAINING_SETS,
)
from tl_knowledge.editing import METHODS
from tl_knowledge.errors import InputError, TLKnowledgeError

PROMPT = ["The capital of France is", "--subject", "France"]
EDIT = ["edit", PROMPT[0], "--subject", "France", "--target", " London"]
SCORING = ("growth", "categories", "symmetry", "layer-ranges", "perspectives", "sweep", "blimp", "perturb")
COMMANDS = ("trace", "trace-facts", "neurons", "moments", "train", "edit", "evaluate", "report", "info", *SCORING)
runner = CliRunner()


def run(*arguments: str):
    return runner.invoke(app, list(arguments), catch_exceptions=False)


REFUSED = [  # by us, with an error of the package
    (["trace", PROMPT[0], "--subject", "Spain"], "SubjectNotFoundError: subject 'Spain' does not occur"),
    (["trace", PROMPT[0]], "InputError: no subject was given"),
    (["trace", "--target", " Paris"], "InputError: no prompt was given"),
    (["trace", *PROMPT, "--window", "wide"], "ComponentError: window 'wide' is no number of layers"),
    (["trace", *PROMPT, "--noise", "loud"], "CorruptionError: noise 'loud' is not understood"),
    (["trace", *PROMPT, "--component", "resid"], "ComponentError: component 'resid' is unknown, did you mean 'resid_pre'?"),
    (["trace", *PROMPT, "--component", "head", "--component", "heads"], "ComponentError: component 'heads' is unknown, did you mean 'head'?"),
    (["trace", *PROMPT, "--sever", "mlp"], "ComponentError: sever 'mlp' is unknown, did you mean 'mlp_in'?"),
    (["trace", *PROMPT, "--corrupt", "object"], "InputError: corrupt 'object' is unknown"),
    (["trace-facts", "--variant", "meng2022"], "InputError: variant 'meng2022' is unknown, did you mean 'meng2022_code'?"),
    (["trace-facts", "--component", "neurons"], "ComponentError: component 'neurons' is unknown, did you mean 'neuron'?"),
    (["trace-facts", "--runner", "slurm"], "InputError: runner 'slurm' is unknown"),
    (["trace-facts", "--dataset", "counterfacts"], "DataError: dataset 'counterfacts' is unknown, did you mean 'counterfact'?"),
    (["trace-facts", "--dataset", "lre"], "DataError: data set 'lre' has no default source"),
    (["trace-facts", "--relation", "P0"], "DataError: no fact has relation 'P0'"),
    (["neurons", "--kind", "maximum"], "InputError: kind 'maximum' is unknown"),
    (["neurons", "--shared-by", "2"], "InputError: shared_by=2.0 is no share"),
    (["neurons", "--at", "first"], "InputError: at 'first' is unknown"),
    (["neurons", *PROMPT[:1]], "InputError: no answer was given"),
    (["edit", PROMPT[0], "--subject", "Spain", "--target", " London"], "InputError: subject 'Spain' stands 0 times"),
    ([*EDIT, "--method", "romme"], "InputError: method 'romme' is unknown, did you mean 'rome'?"),
    ([*EDIT, "--setting", "steps"], "InputError: setting 'steps' is not understood"),
    ([*EDIT, "--corpus", "nowhere.txt"], "DataError: corpus 'nowhere.txt' is neither a file nor one of factlm"),
    (["evaluate", "--dataset", "known_1000"], "DataError: dataset 'known_1000' is unknown; pass one of 'factlm', 'counterfact', 'zsre'"),
    (["evaluate", "--source", "cases.json"], "DataError: data set 'factlm' is bundled and takes no source"),
    (["evaluate", "--protocol", "all"], "InputError: protocol 'all' is unknown"),
    (["evaluate", "--interval", "bootstrap"], "InputError: interval 'bootstrap' is unknown; pass one of 'ours', 'meng2022_code'"),
    (["evaluate", "--table", "scores.doc"], "InputError: ending of the table '.doc' is unknown"),
    (["evaluate", "--method", "ft", "--method", "rome", "--setting", "steps=2"], "InputError: --setting belongs to one method"),
    (["growth", "--size", "30", "--limit", "20"], "InputError: --size 30 is more than the 20 cases of --limit"),
    (["growth", "--protocol", "single"], "InputError: protocol 'single' is unknown; pass one of 'batch', 'sequential'"),
    (["growth", "--method", "rom"], "InputError: method 'rom' is unknown, did you mean 'rome'?"),
    (["growth", "--runner", "ray", "--device", "cpu"], "InputError: --device, --dtype, --backend, --prepend-bos do not reach the workers"),
    (["categories", "--dataset", "known_1000"], "DataError: dataset 'known_1000' is unknown"),
    (["symmetry", "--reverse", "P36"], "InputError: --reverse 'P36' is not understood"),
    (["symmetry", "--reverse", "P0={} is"], "DataError: no case of 'factlm' is of P0"),
    (["symmetry", "--table", "scores.doc"], "InputError: ending of the table '.doc' is unknown"),
    (["perspectives", "--method", "mend"], "InputError: method 'mend' is unknown; pass one of 'ft', 'kn', 'rome', 'memit'"),
    (["perspectives", "--template", "{} is"], "PromptError: template '{} is' does not name both"),
    (["layer-ranges", "--range", "5-3"], "InputError: --range '5-3' is no range of layers"),
    (["sweep", "--problem", "erasure"], "InputError: problem 'erasure' is unknown"),
    (["sweep", "--method", "rome:layer=5"], "InputError: --method rome:layer=5 names its layer, but a sweep edits every layer"),
    (["sweep", "--noise", "loud"], "CorruptionError: noise 'loud' is not understood"),
    (["blimp", "--by", "noun"], "InputError: by 'noun' is unknown; pass one of 'determiner', 'word', 'paradigm'"),
    (["blimp", "--paradigm", "anaphor_number_agreement"], "DataError: "),
    (["blimp", "--source", "nowhere.jsonl"], "DataError: "),
    (["perturb", "--variant", "meng2022_code"], "InputError: variant 'meng2022_code' is unknown; pass one of 'ours', 'wen_bai'"),
    (["perturb", "--relation", "P0"], "DataError: no fact has relation 'P0'"),
    (["report", *PROMPT, "--layer", "0"], "InputError: --layer, --setting, --moments, --corpus and --measures belong to an edit"),
    (["report", PROMPT[0], "--subject", "Spain"], "InputError: subject 'Spain' stands 0 times"),
]
MISTYPED = [  # refused by typer
    (["layer-ranges"], "Missing option '--range'"),
    (["growth", "--size", "0"], "Invalid value for '--size'"),
    (["sweep", "--window", "0"], "Invalid value for '--window'"),
    (["tracee"], "No such command 'tracee'"),
    (["trace", "--limit", "3"], "No such option: --limit"),
    (["edit", PROMPT[0]], "Missing option"),
    (["moments"], "Missing argument"),
    (["evaluate", "--limit", "0"], "Invalid value for '--limit'"),
    (["evaluate", "--store", ""], "the path is empty"),
    (["trace", "--samples", "0"], "Invalid value for '--samples'"),
    (["trace-facts", "--limit", "many"], "Invalid value for '--limit'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_an_argument_is_refused_before_a_model_is_loaded(monkeypatch, arguments, message):
    monkeypatch.setattr("tl_knowledge.models.loading.load_model", None)
    error, text = message.split(": ", 1)
    with pytest.raises(InputError) as caught:
        run(*arguments)
    assert type(caught.value).__name__ == error and text in str(caught.value)


@pytest.mark.parametrize(("arguments", "message"), MISTYPED)
def test_a_mistyped_argument(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "0", "--layer", "1"], "edits one layer, not 2"),
        (["--setting", "step=3"], "setting 'step' is unknown, did you mean 'steps'"),
        (["--setting", "clamp=far"], "setting clamp='far' is no number"),
        (["--method", "cne", "--layer", "0"], "chooses its layers itself"),
    ],
)
def test_settings_that_do_not_fit_the_method(options, message):
    with pytest.raises(TLKnowledgeError, match=message):
        run(*EDIT, *options)


def test_errors_are_one_line_and_exit_code_2():
    command = [sys.executable, "-m", "tl_knowledge", "trace", PROMPT[0], "--subject", "the [bold]moon", "--window", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("SubjectNotFoundError: subject 'the [bold]moon' does not occur")


LIGHT = [
    "tl_knowledge",
    "tl_knowledge.cli",
    "tl_knowledge.errors",
    "tl_knowledge.datasets.catalogue",
    "tl_knowledge.editing.registry",
    "tl_knowledge.models.hook_names",
    "tl_knowledge.neurons.settings",
]
START_UP = """
import importlib, json, sys
from typer.testing import CliRunner

def check(what):
    heavy = sorted({"torch", "transformers", "transformer_lens", "numpy", "pandas", "plotly", "datasets"} & set(sys.modules))
    assert not heavy, f"{what} imports {', '.join(heavy)}"

modules, calls = json.loads(sys.argv[1])
for module in modules:
    importlib.import_module(module)
    check(module)
from tl_knowledge.cli import app
for arguments in calls:
    assert CliRunner().invoke(app, arguments).exit_code in (0, 1, 2)
    check(arguments)
"""


def test_help_version_and_refusals_import_nothing_heavy():
    """What keeps them under a second."""
    calls = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    calls += [arguments for arguments, _ in REFUSED + MISTYPED]
    done = subprocess.run([sys.executable, "-c", START_UP, json.dumps([LIGHT, calls])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_words_of_the_command_line_are_the_librarys():
    from tl_knowledge.engine.rows import MEMORY_BUDGET as LIBRARY_BUDGET
    from tl_knowledge.evaluation.driver import EvaluationProtocol
    from tl_knowledge.localised.relation_side import VARIANTS
    from tl_knowledge.results.statistics import IntervalVariant
    from tl_knowledge.runs.metric import MetricWord
    from tl_knowledge.runs.parts import Runner
    from tl_knowledge.runs.roles import Side
    from tl_knowledge.runs.windows import TraceVariant

    assert (get_args(EvaluationProtocol), get_args(Runner), get_args(Side)) == (PROTOCOLS, RUNNERS, SIDES)
    assert get_args(IntervalVariant) == INTERVALS and get_args(tlk.tracing.PerturbationVariant) == PERTURBATION_VARIANTS
    assert (get_args(tlk.localised.EditingProblem), get_args(tlk.localised.SweepVariant)) == (PROBLEMS, SWEEP_VARIANTS)
    assert tuple(VARIANTS) == RELATION_SIDE_METHODS
    assert get_args(MetricWord) == METRICS
    assert get_args(TraceVariant) == TRACE_VARIANTS and MEMORY_BUDGET == LIBRARY_BUDGET
    assert set(EDIT_SETS) <= set(tlk.datasets.FACT_SETS)
    assert tlk.editing.TRAINING_SETS == TRAINING_SETS
    assert tuple(name for name in METHODS if tlk.editing.method_class(name).needs_training) == TRAINED_METHODS


@pytest.mark.parametrize("command", ["edit", "evaluate", "report", "growth", "categories", "symmetry", "sweep", "layer-ranges"])
def test_every_registered_method_is_offered(command):
    (option,) = [option for option in typer.main.get_command(app).commands[command].params if option.name == "method"]
    assert all(name in option.help for name in METHODS)


def test_a_method_that_is_registered_is_a_word(monkeypatch):
    option = choice("method", METHODS)
    monkeypatch.setitem(METHODS, "mine", "tests:Mine")
    option.callback("mine")
    with pytest.raises(InputError, match="'mime' is unknown, did you mean 'mine'"):
        option.callback("mime")


def test_the_command_line_has_the_defaults_of_the_grammar():
    """The words themselves are held by tests/contract/test_grammar.py."""
    grammar = (Path(__file__).parents[2] / "docs" / "grammar.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", grammar, re.MULTILINE)
    defaults = {word: eval(default, {"__builtins__": {}}) for word, default in rows}
    for name, command in typer.main.get_command(app).commands.items():
        for option in command.params:
            if option.name in defaults and option.default is not None and defaults[option.name] is not None:
                assert option.default == defaults[option.name] or option.name == "noise", f"{name} --{option.name}"
