"""EleutherAI's package: integrated gradients, for each layer a forward and a backward of the whole prompt, batched over the steps."""

from __future__ import annotations

import torch
from knowledge_neurons import KnowledgeNeurons
from torch import Tensor

from side_by_side.work import Work


def neurons(work: Work) -> Tensor:
    with torch.enable_grad():
        program = KnowledgeNeurons(work.network, work.tokenizer, model_type="gpt", device="cpu")
        return program.get_scores(work.fact.text, work.fact.target, batch_size=work.steps, steps=work.steps, pbar=False).detach()
