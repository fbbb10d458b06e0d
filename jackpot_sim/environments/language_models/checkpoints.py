"""Causal language models with their tokenizers: of a folder, a GGUF file, a package, or the Hugging Face hub.

transformers accepts much that is not a policy: it fills missing weights with random numbers, makes an empty tokenizer
out of a folder that has none, gives a language-model head to models that look ahead, and runs the code of strangers if
asked. All of that is refused here. A folder is read without any network access.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jackpot_sim.environments.language_models.carried import folder_of, resolved
from jackpot_sim.environments.language_models.library import (
    LAST,
    Dtype,
    Model,
    Tensor,
    Tokenizer,
    causal_kinds,
    empty_cache,
    in_double,
    keeps_a_cache,
    known_kinds,
    logits,
    pretrained,
    pretrained_tokenizer,
    quiet,
)
from jackpot_sim.environments.language_models.library import first_line as first_line
from jackpot_sim.requirements import RequirementError

_FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_NOT_FETCHED = ("*/*", "consolidated*")
"""Files that are not fetched: subfolders, and the same weights a second time in another layout."""


class Precision(StrEnum):
    """The number format that a model computes in."""

    FP64 = "fp64"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def dtype(self) -> Dtype:
        """The format as torch's dtype."""
        import torch

        return {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to be read.

    Attributes:
        model: the model in eval mode, on its device; attention is torch's sdpa where the architecture allows it.
        tokenizer: the tokenizer beside the model, None if there was none.
        name: the name or path by which it was loaded.
    """

    model: Model
    tokenizer: Tokenizer | None
    name: str


def resolved_device(device: str) -> str:
    """The device's name in torch: "auto" is "cuda" if there is one, else "cpu".

    Raises:
        ValueError: there is no such device here.
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={device!r} is not there: give 'auto' or 'cpu' ({first_line(error)})") from error
    return device


def load(source: str | Path, *, precision: Precision, device: str) -> Loaded:
    """A causal language model and its tokenizer.

    Args:
        source: a folder as `save_pretrained` leaves it, a GGUF file, the name of a model that a package carries, or
            the name of one on the Hugging Face hub.
        precision: the number format that the model computes in, whatever its weights were saved in.
        device: a name that `resolved_device` takes.

    Raises:
        ValueError: the source cannot be fetched or read, needs code of its own, is no causal language model, has no
            key-value cache, lacks weights, or holds NaN or inf; the error names it.
    """
    import torch

    device = resolved_device(device)
    with quiet():
        folder = _folder(source)
        with torch.random.fork_rng(devices=[]):
            model = read_model(folder, Precision(precision).dtype).to(device)
        check_weights(model, str(source))
        check_causal(model, str(source))
        return Loaded(model, load_tokenizer(folder), str(source))


def read_model(path: Path, dtype: Dtype) -> Model:
    """The model in a checkpoint's folder or a GGUF file, in that dtype and in eval mode, without any network access.

    Raises:
        ValueError: the folder cannot be read, needs code of its own, is no causal language model, or lacks weights.
    """
    path = resolved(path)
    _check_config(path)
    if not any(path.glob("*.safetensors*")) and (other := sorted(path.glob("pytorch_model*.bin"))):
        raise ValueError(
            f"{path}: the weights lie in {other[0].name}, and only safetensors are read: load it with transformers "
            "where you trust it, and call model.save_pretrained(FOLDER)"
        )
    with quiet():
        try:
            model, absent = pretrained(path, dtype)
        except RequirementError:
            raise
        except Exception as error:  # a broken file has many ways to fail
            raise ValueError(f"{path}: cannot read a causal language model: {first_line(error)}") from error
    # transformers fills these with random numbers.
    if absent:
        raise ValueError(f"{path}: {len(absent)} weights are missing, the first of them {absent[0]}")
    return model.eval()


def load_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder or a GGUF file, None if there is none.

    Raises:
        ValueError: a tokenizer is there and cannot be read.
    """
    path = resolved(path)
    # Not left to transformers, which makes an empty one out of a folder with a config.json alone.
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    with quiet():
        try:
            return pretrained_tokenizer(path)
        except Exception as error:  # a broken file has many ways to fail
            raise ValueError(f"{path}: cannot read the tokenizer: {first_line(error)}") from error


def check_weights(model: Model, name: str) -> None:
    """Refuses a model with NaN or inf in a weight."""
    import torch

    for parameter, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name} holds NaN or inf in its weight {parameter}")


def check_causal(model: Model, name: str) -> None:
    """Refuses a model that looks ahead, or that cannot be read token by token in a padded batch.

    Both are found out by reading three tokens: the arguments of a class do not tell.

    Raises:
        ValueError: it is such a model.
        RequirementError: the installed transformers lacks the names that finding out needs.
    """
    import torch

    kind = model.config.model_type
    if not keeps_a_cache(model):
        raise ValueError(f"{name}: {kind} models keep no keys and values, and cannot be read token by token")
    with torch.inference_mode(), in_double(model):
        # The same sums for both: only kernels that mix rows, as mixtures of experts may, leave any rounding.
        if _differ(*_before_two_endings(model), 1e-3):
            raise ValueError(f"{name}: a {kind} model that looks ahead is no causal language model")
        # Sums in another order, whose rounding shows in half precision.
        if _differ(*_in_one_pass_and_in_steps(model), max(1e-3, 16 * torch.finfo(model.dtype).eps)):
            raise ValueError(
                f"{name}: a {kind} model has other logits token by token in a padded batch than in one pass with "
                "the installed transformers, and its completions would carry wrong log-probs"
            )


def _before_two_endings(model: Model) -> tuple[Tensor, Tensor]:
    """The logits after the first of three tokens, (vocab,), for two sequences that differ in the last."""
    import torch

    last = int(model.config.get_text_config().vocab_size) - 1
    first, other = logits(model, torch.tensor([[0, 0, 0], [0, 0, last]], device=model.device), slice(0, 1))[:, 0]
    return first, other


def _in_one_pass_and_in_steps(model: Model) -> tuple[Tensor, Tensor]:
    """The logits after "0 last 1" and after "last 1", both (2, vocab): each read whole, and both as a padded batch."""
    import torch

    def tensor(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=model.device)

    last = int(model.config.get_text_config().vocab_size) - 1
    whole = torch.cat([logits(model, tensor(row), LAST)[:, 0] for row in ([[0, last, 1]], [[last, 1]])])
    cache = empty_cache(model.config)
    visible, positions = tensor([[1, 1], [0, 1]]), tensor([[0, 1], [0, 0]])
    logits(model, tensor([[0, last], [0, last]]), LAST, cache=cache, mask=visible, positions=positions)
    visible, positions = tensor([[1, 1, 1], [0, 1, 1]]), tensor([[2], [1]])
    return whole, logits(model, tensor([[1], [1]]), LAST, cache=cache, mask=visible, positions=positions)[:, 0]


def _differ(first: Tensor, other: Tensor, rounding: float) -> bool:
    """True if logits of one shape differ by more than a share of the largest; NaN differs from anything."""
    first, other = first.double(), other.double()
    return not float((first - other).abs().max()) <= rounding * float(first.abs().max())


def _folder(source: str | Path) -> Path:
    """The folder of a source: the source itself, or the one into which it was converted or fetched."""
    if (converted := folder_of(source)) is not None:
        return converted
    path, written = Path(source).expanduser(), str(source)
    if path.is_dir() and written:
        return path
    looks_local = isinstance(source, Path) or written.startswith((".", "/", "~")) or written.count("/") > 1
    if path.exists() or looks_local or not written.strip():
        raise ValueError(
            f"{written or repr(written)}: no such folder: give one with a checkpoint, or a name on the Hugging Face hub"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(written, allow_patterns=list(_FETCHED), ignore_patterns=list(_NOT_FETCHED)))
    except Exception as error:  # a network has many ways to fail
        raise ValueError(
            f"{written}: there is no such folder, and it cannot be fetched from the Hugging Face hub: check the name "
            f"and the network, or fetch it elsewhere and give the folder ({first_line(error)})"
        ) from error


def _check_config(path: Path) -> None:
    """Refuses a folder whose config.json alone shows that it holds no causal language model."""
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(f"{path}: no checkpoint: there is no config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, architectures = config.get("model_type"), config.get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: cannot read a causal language model: config.json is broken: {first_line(error)}"
        ) from error
    if kind not in known_kinds():
        if "auto_map" in config:
            raise ValueError(f"{path}: it needs code of its own, which is never run here: give a model of transformers")
        raise ValueError(f"{path}: cannot read a causal language model: transformers knows no model_type {kind!r}")
    causal = causal_kinds()
    if config.get("is_encoder_decoder") or kind not in causal:
        raise ValueError(f"{path}: {kind} is no causal language model that reads and continues one sequence")
    if architectures and not set(architectures) & set(causal.values()):
        raise ValueError(f"{path}: saved as {architectures[0]}, which is no causal language model")
