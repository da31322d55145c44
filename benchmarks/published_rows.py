"""FactLM's own rows of the published experiments, which `tl-knowledge reproduce` shows beside a run on it; no timing.

    python benchmarks/published_rows.py [EXPERIMENT ...]

Writes them into ``tl_knowledge/published/factlm_rows.json``, one experiment after the other; all of them without a name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.published import EXPERIMENTS
from tl_knowledge.published.driver import FACTLM_ROWS

ROWS = Path(tlk.published.__file__).parent / FACTLM_ROWS


def measured(name: str) -> list[list[object]]:
    """``row column value`` of one experiment, to six digits."""
    table = tlk.published.reproduce("factlm", name, progress=False).table
    kept = table[table["ours"].notna()]
    return [[row, column, float(f"{value:.6g}")] for row, column, value in zip(kept["row"], kept["column"], kept["ours"], strict=True)]


def written(known: dict[str, Any]) -> str:
    """The file's text: a row a line, so that a change of one number is a change of one line."""
    blocks = []
    for name, each in known.items():
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in each["rows"])
        blocks.append(f' {json.dumps(name)}: {{"cases": {each["cases"]}, "rows": [\n{rows}\n ]}}')
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="*", help="names of experiments; all without")
    for name in parser.parse_args().experiment or list(EXPERIMENTS):
        start = time.perf_counter()
        rows = measured(name)
        known = json.loads(ROWS.read_text(encoding="utf-8"))
        known[name] = {"cases": EXPERIMENTS[name].factlm_cases, "rows": rows}
        ROWS.write_text(written(known), encoding="utf-8")
        print(f"{name}: {len(rows)} rows in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
