"""Which tokens a neuron promotes: its row of ``W_out`` through the unembedding (Geva et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.drawing import HeatMap
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.proof import probe_tokens, same
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError, NumericalError, UnsupportedModelError
from tl_knowledge.models.final_norm import FinalNorm
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.models.weights import output_hook, output_weights
from tl_knowledge.neurons.entry import neurons_of, rows_of
from tl_knowledge.neurons.figures import token_map, token_maps
from tl_knowledge.neurons.located import LocatedNeurons
from tl_knowledge.neurons.neuron_set import Neuron, NeuronSet
from tl_knowledge.prompts.targets import target_tokens
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["NeuronWords", "neuron_words"]

PROMOTES, SUPPRESSES = "promotes", "suppresses"
DRAWN = 15
PROBE_SIZE = 4.0  # of the probe beside the states', so that what it adds is not lost in their rounding


@dataclass(frozen=True, eq=False)
class NeuronWords(TableResult):
    """The tokens that neurons promote and suppress directly, whatever later layers make of what they write.

    Attributes:
        table: ``layer neuron sign rank token logit z``: for each neuron the tokens that an active neuron promotes and suppresses most; ``rank`` 0 is
            the first. ``logit`` is what one unit of activation adds to the token's logit where the final norm divides by 1 (what it divides by
            depends on the prompt, and leaves the order alone), less its mean over the vocabulary; ``z`` the same in standard deviations over the
            vocabulary. With a target ``target_rank`` and ``target_z``: how many tokens the neuron promotes more, and how far.
        neurons: which.
        target: the answer that was looked for; empty without one.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "z"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    neurons: NeuronSet
    target: str
    provenance: Provenance

    def headline(self) -> str:
        """How many neurons, of which model."""
        return f"words of {counted(len(self.neurons), 'neuron')}; {self.provenance.model}"

    def summary(self) -> pd.DataFrame:
        """One row a neuron: what it promotes and suppresses, as text; the most outspoken first."""
        rows: list[dict[str, Any]] = []
        for layer, neuron in self.neurons:
            own = rows_of(self.table, (layer, neuron))
            row: dict[str, Any] = {"layer": layer, "neuron": neuron, "z": float(own["z"].abs().max())}
            for sign in (PROMOTES, SUPPRESSES):
                row[sign] = ", ".join(str(token).strip() for token in own.loc[own["sign"] == sign, "token"])
            rows.append(row | ({"target_rank": int(own["target_rank"].iloc[0])} if self.target else {}))
        return pd.DataFrame(rows).sort_values("z", ascending=False, ignore_index=True)

    def plot(self, *, limit: int = DRAWN) -> go.Figure:
        """Heat maps of the most outspoken neurons' promoted and suppressed tokens; colour is how far, in standard deviations over the vocabulary."""
        chosen = self.summary().head(limit)
        neurons = [(int(layer), int(number)) for layer, number in zip(chosen["layer"], chosen["neuron"], strict=True)]
        charts: list[HeatMap] = []
        for sign in (PROMOTES, SUPPRESSES):
            table = self.table.loc[self.table["sign"] == sign]
            own = {f"{layer}, {number}": rows_of(table, (layer, number)) for layer, number in neurons}
            charts.append(token_map(sign, {name: (rows["z"].abs().tolist(), rows["token"].tolist()) for name, rows in own.items()}))
        return token_maps(
            charts,
            title="What the neurons write, as words",
            subtitle=f"rows of W_out through the final norm's weights and the unembedding; {len(chosen)} of {counted(len(self.neurons), 'neuron')}; "
            f"{self.provenance.model}",
            colour_axis="standard deviations from the mean",
        )


@public
def neuron_words(model: AnyModel, neurons: NeuronSet | LocatedNeurons, *, k: int = 10, target: str | int | None = None) -> NeuronWords:
    """The tokens that neurons promote and suppress: ``W_out[i]`` through the final norm (its scale left out) and the unembedding.

    Geva et al. 2022, section 3.2 (``E v_i``), with the final norm's weights and centring, as `direct_logit_attribution` has them. A negative
    activation promotes what a positive one suppresses.

    Args:
        neurons: a set, or what `locate_neurons` found, all groups together.
        k: how many tokens of either sign.
        target: an answer (text, its first token; or a token), to see where it stands in each neuron's vocabulary.

    Raises:
        ComponentError: no neuron, or neurons of another model's shape.
        InputError: k below 1 or above the vocabulary.
        TargetError: a target of no tokens.
        NumericalError: a neuron that writes nothing.
        UnsupportedModelError: the MLP's output passes another norm before it reaches the stream, or the model does more after the last block than a
            norm and an unembedding.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> words = tlk.neurons.neuron_words(model, tlk.NeuronSet.of(model, [(6, 11), (7, 40)]), k=3)
        >>> len(words.table), words.summary()["promotes"].str.count(",").tolist()
        (12, [2, 2])
    """
    model = as_model(model)
    chosen = neurons_of(model, neurons)
    vocabulary = int(model.cfg.d_vocab)
    if not 1 <= k <= vocabulary:
        raise InputError(f"k={k} tokens cannot be shown of a vocabulary of {vocabulary}; pass a number from 1 to {vocabulary}.")
    token = None if target is None else target if isinstance(target, int) else target_tokens(model, target)[0]
    if token is not None and not 0 <= token < vocabulary:
        raise InputError(f"token {token} is outside the model's vocabulary of {vocabulary}; pass a token of this model.")
    logits = neuron_logits(model, chosen)
    rows: list[dict[str, Any]] = []
    for (layer, neuron), own in logits.items():
        if not bool(own.std() > 0):
            raise NumericalError(f"neuron {neuron} of layer {layer} writes nothing that tells tokens apart: its row of W_out is zero; leave it out.")
        z = own / own.std()
        about: dict[str, Any] = {"layer": layer, "neuron": neuron}
        extra = {} if token is None else {"target_rank": int((own > own[token]).sum()), "target_z": float(z[token])}
        for sign, values in ((PROMOTES, own), (SUPPRESSES, -own)):
            for rank, each in enumerate(values.topk(k).indices.tolist()):
                said = str(model.tokenizer.decode([each])) if model.tokenizer else str(each)
                rows.append(about | {"sign": sign, "rank": rank, "token": said, "logit": float(own[each]), "z": float(z[each])} | extra)
    label = "" if token is None else target if isinstance(target, str) else str(token)
    return NeuronWords(pd.DataFrame(rows), chosen, label, provenance_of(model, engine="weights"))


def neuron_logits(model: HookedModel, neurons: NeuronSet) -> Mapping[Neuron, Float[torch.Tensor, " d_vocab"]]:
    """What one unit of each neuron's activation adds to the logits where the final norm divides by 1, less the mean over the vocabulary; float64.

    Raises:
        UnsupportedModelError: as `neuron_words`.
    """
    head = Unembedding.of(model)
    if head is None:
        raise UnsupportedModelError("this model does more after the unembedding's input than a matrix and a bias; hooks set there must go first.")
    norm = FinalNorm.of(model)
    unembedding, weight = head.weights.double(), norm.weight.double()
    logits: dict[Neuron, torch.Tensor] = {}
    for layer, group in groupby(neurons, key=itemgetter(0)):
        numbers = [number for _, number in group]
        written = _share_that_arrives(model, layer) * output_weights(model, layer).detach()[numbers].double()
        centred = written - written.mean(-1, keepdim=True) if norm.centred else written
        added = head.scale * (weight * centred) @ unembedding
        for number, own in zip(numbers, added - added.mean(-1, keepdim=True), strict=True):
            logits[layer, number] = own.cpu()
    return logits


def _share_that_arrives(model: HookedModel, layer: int) -> float:
    """By what ``W_out``'s output is multiplied on its way into the stream: 1, or a model's residual multiplier.

    Found by a probe that adds a vector there.

    Raises:
        UnsupportedModelError: it is no multiple (a norm of its own).
    """
    site, stream, tokens = output_hook(model, layer), block_output(layer), probe_tokens(model)[:1]
    before = record(model, tokens, [], [site, stream])
    draw = torch.randn(before[stream].shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = (PROBE_SIZE * float(before[stream][0, -1].double().square().mean().sqrt()) * draw).to(before[stream])
    after: list[torch.Tensor] = []

    def add(output: torch.Tensor, *, hook: object) -> torch.Tensor:
        return output + probe.to(output)

    with torch.no_grad():
        run_model(model, tokens, [(site, add), (stream, lambda x, *, hook: after.append(x.detach()))])
    moved = after[0][0, -1].double() - before[stream][0, -1].double()
    share = float((moved @ probe.double()) / probe.double().square().sum())
    if not same((share * probe.double()).to(before[stream]), moved.to(before[stream])) or share == 0:
        raise UnsupportedModelError(
            f"what the MLP of layer {layer} of {model_name(model)} writes passes a norm before it reaches the residual stream, so a neuron's row of "
            "W_out says nothing about the vocabulary by itself; this works on models without such a norm (not on Gemma 2 and OLMo 2)."
        )
    return share
