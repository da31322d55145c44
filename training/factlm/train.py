"""Train FactLM on CPU.  Deterministic from its seed, resumable, with a progress bar.

python training/factlm/train.py --out build/factlm --seed 0
python training/factlm/train.py --out build/factlm --seed 0        # again: goes on from the last checkpoint
python training/factlm/train.py --out build/llama --recipe llama --set bottleneck=0.9 narrow=0,1,2
python training/factlm/train.py --out build/first --recipe first   # the first FactLM, which looked its facts up in layer 0
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import POSITIONS, build_model, mlps, narrow, read_late
from recipe import RECIPES, Recipe
from text import FACTS, FactText, TrainingText
from tokenizer import train_tokenizer
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROW, ROWS = 64, 32  # tokens in a row, rows in a batch
WARM_UP, FLOOR = 200, 0.02  # learning rate: warm-up, then cosine from the recipe's peak to FLOOR of it
CHUNK = 100  # steps whose text is made at once and, being seeded by the chunk, can be made again on resuming
NO_BOS_SHARE = 0.25


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


def make_rows(text: TrainingText, tokenizer: PreTrainedTokenizerFast, rows: int, bottleneck_share: float) -> Rows:
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
    bottleneck = torch.tensor([text.draw.random() < bottleneck_share for _ in range(rows)])
    return Rows(tokens, positions, subject, last, bottleneck)


def attention_mask(rows: Rows, now: slice) -> torch.Tensor:
    """Additive mask ``[row 1 pos pos]`` (query, key): causal, and in bottleneck rows no reading of a subject but at its last token."""
    subject, last = rows.subject[now], rows.last[now]
    own = subject[:, :, None] == subject[:, None, :]
    hidden = (subject > 0)[:, None, :] & ~own & ~last[:, None, :] & rows.bottleneck[now, None, None]
    return _additive(hidden)


def causal_mask(count: int) -> torch.Tensor:
    """Additive mask ``[row 1 pos pos]``."""
    return _additive(torch.zeros(count, ROW, ROW, dtype=torch.bool))


def _additive(hidden: torch.Tensor) -> torch.Tensor:
    future = ~torch.ones(ROW, ROW).tril().bool()
    return torch.zeros(hidden.shape).masked_fill(hidden | future, float("-inf"))[:, None]


def learning_rate(step: int, recipe: Recipe) -> float:
    return recipe.peak * min(1.0, (step + 1) / WARM_UP) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def add_noise(model: torch.nn.Module, share: float) -> None:
    """From now on, while training, every MLP's output is disturbed by ``share`` of its own size."""

    def disturb(mlp: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        size = output.detach().float().square().mean(-1, keepdim=True).sqrt()
        return output + (share * size * torch.randn(output.shape)).to(output.dtype)

    for mlp in mlps(model):
        mlp.register_forward_hook(disturb)


def resume(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, origin: dict) -> int:
    """The step to go on from: that of the checkpoint in ``out``, or 0."""
    checkpoint = out / "checkpoint.pt"
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint)
    if saved["origin"] != origin:
        raise SystemExit(f"{checkpoint} belongs to {saved['origin']}; pass that recipe and seed, or another --out.")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    return saved["step"]


def save_checkpoint(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, origin: dict, step: int) -> None:
    """Written aside and moved, so that an interruption leaves the last one whole."""
    partial = out / "checkpoint.partial"
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    torch.save({**states, "step": step, "origin": origin}, partial)
    partial.replace(out / "checkpoint.pt")


def train(out: Path, recipe: Recipe, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    origin = {"recipe": dataclasses.asdict(recipe), "seed": seed}
    tokenizer = train_tokenizer(FACTS)
    model, facts = build_model(tokenizer, recipe, seed), FactText.from_data(FACTS).with_invented(recipe.invented)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    start = resume(out, model, optimizer, origin)
    if recipe.noise:
        add_noise(model, recipe.noise)
    progress = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc=f"FactLM {out.name}", mininterval=5)
    for step in progress:
        if step % CHUNK == 0:
            text = TrainingText(facts, seed * 1_000_003 + step, recipe.lists, recipe.in_a_row)
            rows = make_rows(text, tokenizer, ROWS * CHUNK, recipe.bottleneck)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = one_step(model, optimizer, recipe, rows, slice(step % CHUNK * ROWS, (step % CHUNK + 1) * ROWS))
        narrow(model, recipe)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss:.3f}")
        if (step + 1) % (5 * CHUNK) == 0:
            save_checkpoint(out, model, optimizer, origin, step + 1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(origin, indent=1), encoding="utf-8")


def one_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, recipe: Recipe, rows: Rows, now: slice) -> float:
    """One step of the optimiser on some rows, in bfloat16 products; the loss before it."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, recipe, rows, now)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def loss_of(model: PreTrainedModel, recipe: Recipe, rows: Rows, now: slice) -> torch.Tensor:
    """The mean loss of predicting each next token."""
    tokens, positions, mask = rows.tokens[now], rows.positions[now], attention_mask(rows, now)
    if recipe.read_from == 0:
        return model(tokens, position_ids=positions, attention_mask=mask, labels=tokens).loss
    subject = (rows.subject[now] > 0) & rows.bottleneck[now, None]
    twice = {"input_ids": tokens.repeat(2, 1), "position_ids": positions.repeat(2, 1), "attention_mask": mask.repeat(2, 1, 1, 1)}
    with read_late(model, recipe.read_from, subject, recipe.noise_read, causal_mask(len(tokens))):
        return model(**twice, labels=tokens).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", choices=RECIPES, default="gpt2")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings that differ from the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.out, RECIPES[args.recipe].but(args.set), args.seed)


if __name__ == "__main__":
    main()
