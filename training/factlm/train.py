"""Train FactLM on CPU.  Deterministic from its seed, resumable, with a progress bar.

python training/factlm/train.py --out build/factlm --seed 0
python training/factlm/train.py --out build/factlm --seed 0        # again: goes on from the last checkpoint
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from text import FactText, TrainingText
from tokenizer import train_tokenizer
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

FACTS = json.loads((Path(__file__).parents[2] / "tl_knowledge" / "factlm" / "facts.json").read_text(encoding="utf-8"))
ROW, ROWS = 64, 32  # tokens in a row, rows in a batch
STEPS, WARM_UP, PEAK, FLOOR = 3500, 200, 2e-3, 0.02  # learning rate: warm-up, then cosine from PEAK to FLOOR * PEAK
CHUNK = 100  # steps whose text is made at once and, being seeded by the chunk, can be made again on resuming
NO_BOS_SHARE = 0.25
POSITIONS = 128
BOTTLENECK_SHARE = 0.9


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 whose attention and activation run the kernels that are fastest on CPU (same mathematics)."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=POSITIONS,
            n_embd=128,
            n_layer=8,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            attn_implementation="eager",
        )
    )
    for block in model.transformer.h:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    return model


@dataclass(frozen=True)
class Rows:
    """Packed training text: ``tokens`` and ``positions`` ``[row pos]``.

    ``subject`` ``[row pos]`` numbers the subject a token belongs to within its row (0: none); ``last`` marks each
    subject's last token; ``bottleneck`` ``[row]`` marks the rows in which a subject is read at its last token only.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    subject: torch.Tensor
    last: torch.Tensor
    bottleneck: torch.Tensor


def make_rows(text: TrainingText, tokenizer: PreTrainedTokenizerFast, rows: int) -> Rows:
    """Whole sentences, packed: each row starts with one, mostly after BOS; rows without BOS may start anywhere."""
    sentences = [text.sentence() for _ in range(rows * 9)]
    encodings = {space: tokenizer([space + s.text for s in sentences], return_offsets_mapping=True) for space in ("", " ")}
    tokens, positions = torch.empty(rows, ROW, dtype=torch.long), torch.arange(ROW).repeat(rows, 1)
    subject, last, used = torch.zeros(rows, ROW, dtype=torch.long), torch.zeros(rows, ROW, dtype=torch.bool), 0
    for index in range(rows):
        row: list[int] = []
        number = 0
        if text.draw.random() >= NO_BOS_SHARE:
            row.append(tokenizer.bos_token_id)
        elif text.draw.random() < 0.5:
            positions[index] += text.draw.randrange(POSITIONS - ROW)
        first = True
        while len(row) < ROW:
            fresh = not first and text.draw.random() < 0.2
            row += [tokenizer.eos_token_id] * fresh
            space, which = "" if first or fresh else " ", used % len(sentences)
            encoded, start = encodings[space], len(row)
            row += encoded["input_ids"][which]
            for a, b in sentences[which].subjects:
                offsets = enumerate(encoded["offset_mapping"][which], start)
                inside = [i for i, (x, y) in offsets if x < b + len(space) and y > a + len(space)]
                number += 1
                subject[index, inside[0] : inside[-1] + 1] = number
                last[index, inside[-1] : inside[-1] + 1] = True
            first, used = False, used + 1
        tokens[index] = torch.tensor(row[:ROW])
    bottleneck = torch.tensor([text.draw.random() < BOTTLENECK_SHARE for _ in range(rows)])
    return Rows(tokens, positions, subject, last, bottleneck)


def attention_mask(rows: Rows, now: slice) -> torch.Tensor:
    """Additive mask ``[row 1 pos pos]`` (query, key): causal, and in bottleneck rows no reading of a subject but at its last token."""
    subject, last = rows.subject[now], rows.last[now]
    own = subject[:, :, None] == subject[:, None, :]
    hidden = (subject > 0)[:, None, :] & ~own & ~last[:, None, :] & rows.bottleneck[now, None, None]
    future = ~torch.ones(ROW, ROW).tril().bool()
    return torch.zeros(hidden.shape).masked_fill(hidden | future, float("-inf"))[:, None]


def learning_rate(step: int, steps: int) -> float:
    return PEAK * min(1.0, (step + 1) / WARM_UP) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(out: Path, seed: int, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(FACTS)
    model, facts = build_model(tokenizer, seed), FactText.from_data(FACTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    checkpoint, start = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        if (saved["seed"], saved["steps"]) != (seed, steps):
            raise SystemExit(f"{checkpoint} belongs to seed {saved['seed']}, {saved['steps']} steps; pass those, or another --out.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=f"FactLM seed {seed}", mininterval=5)
    for step in progress:
        if step % CHUNK == 0:
            rows = make_rows(TrainingText(facts, seed * 1_000_003 + step), tokenizer, ROWS * CHUNK)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        now = slice(step % CHUNK * ROWS, (step % CHUNK + 1) * ROWS)
        mask = attention_mask(rows, now)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(rows.tokens[now], position_ids=rows.positions[now], attention_mask=mask, labels=rows.tokens[now]).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % (5 * CHUNK) == 0:
            partial = out / "checkpoint.partial"
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "seed": seed, "steps": steps}, partial)
            partial.replace(checkpoint)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.out, args.seed, args.steps)


if __name__ == "__main__":
    main()
