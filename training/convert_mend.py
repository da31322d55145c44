"""Turn a published MEND checkpoint (Mitchell et al. 2022a; Meng et al. 2022 trained those for GPT-2 XL and GPT-J) into a file for ``MEND.load``.

    python training/convert_mend.py mend-10tok-gpt2-xl.pt mend.safetensors --model gpt2-xl

Such checkpoints are pickles, and a pickle runs what it likes. Here nothing in it runs: tensors and dictionaries are built anew by this file,
configuration objects become empty ones, and any other name in the pickle is refused.

The program adds its change and ours subtracts it, so the learned rates change their sign. Which facts a checkpoint was trained on it does not say:
``evaluate`` cannot refuse them, so leave them out yourself. The model is loaded as the checkpoint's was, with no weight processed.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tl_knowledge as tlk
from tl_knowledge.editing import MEND, TrainedEditor, TrainingCurve
from tl_knowledge.editing.training.curve import CURVE_COLUMNS
from tl_knowledge.errors import DataError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.results.digest import values_of
from tl_knowledge.results.provenance import provenance_of

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
_IGNORED = ("transformers", "omegaconf", "numpy", "hydra")
_NETWORK = re.compile(r"(?:mend|gtn)\.\((\d+), (\d+)\)\.(.+)")
_BLOCK = re.compile(r"mlp\.layers\.(\d+)\.(u|v|bias|mode_scale\.weight|mode_shift\.weight)")
_OURS = {"u": "U", "v": "V", "bias": "b", "mode_scale.weight": "s", "mode_shift.weight": "o"}


class Ignored:
    """What stands for a configuration object: it holds nothing and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        """Nothing."""


class _Storage:
    """A kind of storage, by the dtype of its numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries and tensors; calls nothing that the file names."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in (("collections", "OrderedDict"), ("collections", "defaultdict")):
            return OrderedDict if name == "OrderedDict" else Ignored
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module.split(".", maxsplit=1)[0] in _IGNORED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return Ignored
        raise DataError(f"the checkpoint names {module}.{name}, which is neither tensor nor configuration: it is refused, and nothing of it was run.")

    def persistent_load(self, pid: Any, /) -> torch.Tensor:
        _, kind, key, *_rest = pid
        if not re.fullmatch(r"\d+", str(key)):
            raise DataError(f"the checkpoint has a storage called {key!r}; it is refused.")
        data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(data, dtype=kind.dtype) if data else torch.empty(0, dtype=kind.dtype)


def _tensor(storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _parameter(data: torch.Tensor, *_: object) -> torch.Tensor:
    return data


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, without running any of it.

    Raises:
        DataError: no such file, one of torch's old format, or one that names anything but tensors and configurations.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(roots) != 1:
                raise DataError(f"{str(path)!r} is no checkpoint of torch; pass the .pt file as it was published.")
            return _Unpickler(archive, roots[0]).load()
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(path)!r} cannot be read as a checkpoint of torch (1.6 or later): {error}; fetch it again.") from error


def networks_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under our names.

    Raises:
        DataError: it is no MEND whose networks are shared by shape, or its statistics do not fit together.
    """
    found: dict[str, torch.Tensor] = {}
    statistics: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        network = _NETWORK.fullmatch(name)
        if network is None:
            continue
        shape, rest = f"{network[1]}x{network[2]}", network[3]
        block = _BLOCK.fullmatch(rest)
        if block is None:
            statistics.setdefault(shape, {})[rest] = value
        else:
            found[f"shapes.{shape}.{_OURS[block[2]]}.{block[1]}"] = value
    if not found or "edit_lrs" not in state:
        raise DataError("the checkpoint holds no MEND whose networks are shared by shape; only such are converted.")
    for shape, own in statistics.items():
        found |= {f"shapes.{shape}.{name}": value for name, value in _running(own, shape).items()}
    return found | {"rates": -state["edit_lrs"]}


def _running(own: Mapping[str, torch.Tensor], shape: str) -> dict[str, torch.Tensor]:
    missing = [name for name in ("k", "u_mean", "v_mean", "u_s", "v_s", "u_std", "v_std") if name not in own]
    if missing:
        raise DataError(f"the checkpoint's network {shape} has no {', '.join(missing)}; it is no MEND with running statistics.")
    count = own["k"].double().reshape(())
    squares, deviation = (torch.cat([own[f"u_{name}"], own[f"v_{name}"]]).double() for name in ("s", "std"))
    if not torch.allclose((squares / (count - 1)).sqrt(), deviation, rtol=1e-3, atol=1e-12):
        raise DataError(f"the checkpoint's standard deviations of {shape} are not those of its sums; it was not trained as published.")
    return {"count": count, "mean": torch.cat([own["u_mean"], own["v_mean"]]).double(), "squares": squares}


def convert(path: Path, model: tlk.HookedModel, layers: tuple[int, ...] | None = None) -> MEND:
    """A checkpoint as a trained `MEND` for a model.

    Args:
        layers: that it edits; the published ones of the model when ``None``.

    Raises:
        DataError: it cannot be read, or is of other matrices than these layers' ``W_in`` and ``W_out``.
    """
    networks = networks_of(read_checkpoint(path)["model"])
    chosen = MEND.for_model(model, layers=layers).layers
    ranks = {value.shape[1] for name, value in networks.items() if ".U." in name}
    blocks = len({name for name in networks if ".U." in name}) // len({name.split(".")[1] for name in networks if ".U." in name})
    settings = MEND(layers=chosen, rank=max(ranks), blocks=blocks)
    wanted = {name: tuple(value.shape) for name, value in settings.network(model).state_dict().items()}
    if wanted != {name: tuple(value.shape) for name, value in networks.items()}:
        raise DataError(f"the checkpoint is of other matrices than W_in and W_out of layers {chosen} of this model; pass its model and --layer.")
    provenance = provenance_of(model, engine="converted", settings=settings, checkpoint=path.name)
    curve = TrainingCurve(pd.DataFrame([], columns=list(CURVE_COLUMNS)), "MEND", provenance)
    plain = {name: value for name, value in values_of(settings).items() if name != "editor"}
    none = torch.zeros(0, dtype=torch.int64)
    return settings.with_editor(TrainedEditor("MEND", plain, networks, unedited_fingerprint(model), none, curve, provenance))


def main() -> None:
    """Read the arguments, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--layer", type=int, action="append")
    given = parser.parse_args()
    mend = convert(given.checkpoint, tlk.load_model(given.model), tuple(given.layer) if given.layer else None)
    print(f"written to {mend.save(given.out)}")


if __name__ == "__main__":
    main()
