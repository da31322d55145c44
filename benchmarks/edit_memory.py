"""Peak memory of planning one edit with every method, above that of the loaded model; each in a process of its own.

    python benchmarks/edit_memory.py [--model factlm]

Methods that need a training are planned after one update: what the networks are does not change what they take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace

import tl_knowledge as tlk
from tl_knowledge.editing import METHODS, method_for_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="factlm")
    parser.add_argument("--method", choices=("nothing", *METHODS), help="measure this one, in this process")
    args = parser.parse_args()
    if args.method is not None:
        print(json.dumps(peak_mib(args.model, args.method)))
        return
    before = in_a_process(args.model, "nothing")
    for name in METHODS:
        print(f"{name:12} {in_a_process(args.model, name) - before:8.0f} MiB", flush=True)


def in_a_process(model: str, method: str) -> float:
    """The peak of a process that plans one edit."""
    command = [sys.executable, __file__, "--model", model, "--method", method]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def peak_mib(name: str, method_name: str) -> float:
    """Peak memory of this process in MiB, after one edit was planned."""
    model, case = tlk.load_model(name), tlk.load_edit_cases()[0]
    tlk.evaluation.read_answers(model, [(tlk.Prompt.from_fact(model, case.fact), (1,))])
    if method_name != "nothing":
        method = method_for_model(model, method_name)
        if method.needs_training:
            data = tlk.editing.load_training_data("factlm")
            one = method.training.accumulate
            method = replace(method, training=replace(method.training, steps=one, validate_every=one))
            method = method.train(model, data.cases[:8], data.corpus[:8], validation=data.validation[:4], progress=False)
        layers = method.moment_layers
        moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=layers, progress=False) if layers else None
        tlk.plan_edit(model, case.rewrite, method, moments=moments, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
