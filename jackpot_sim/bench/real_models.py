"""A sweep's cell of a real model beside its floor: plain loops that write, score and differentiate as many rollouts.

The floor takes, for the rollouts of both models: writing them token by token against a cache, the laws of both models
at every token in float64, and the gradient in the final norm, one batch after the other. Prompts are read with every
rollout, nothing is shared, and no figure is made of anything. The cell makes all its figures of them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jackpot_sim.bench.timing import Finding
from jackpot_sim.environments.language_models.checkpoints import Precision, load
from jackpot_sim.environments.language_models.library import LAST, Model, Tensor, empty_cache, library, logits
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.requirements import require
from jackpot_sim.sweep import plan, spec
from jackpot_sim.sweep.cell import measure

AT_MOST = 1.5
"""The target: the cell's time over that of its floor."""

_CONFIG = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
"""The shape of SmolLM2-135M, which the model has where none is given."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a cell.

    Attributes:
        prompts: the number of prompts, of about 40 tokens.
        n_samples: rollouts of each model after each prompt in an update.
        replicates: updates.
        length: new tokens.
        batch_size: rollouts that go through a model at once.
        vocab: the vocabulary of a model that is made.
        layers: its layers.
    """

    prompts: int = 4
    n_samples: int = 4
    replicates: int = 4
    length: int = 32
    batch_size: int = 16
    vocab: int = 49152
    layers: int = 30


TINY = Sizes(prompts=2, n_samples=2, replicates=3, length=4, batch_size=4, vocab=64, layers=1)


def real_models(model: str | None = None, sizes: Sizes | None = None) -> Iterator[Finding]:
    """The seconds of the cell and of its floor on one thread, and their ratio.

    Args:
        model: a checkpoint, as `--env.policy` takes it; None: a random one of SmolLM2-135M's shape.
        sizes: the sizes.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    require("torch", "transformers", purpose="the benchmark of real models")
    sizes = sizes or Sizes()
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        source = model or str(_made(Path(folder) / "model", sizes))
        study = _study(Path(folder), source, sizes)
        floor = {name: _seconds(run) for name, run in _floor(source, sizes).items()}
        (cell,) = plan.cells(study)
        seconds = _seconds(lambda: measure(cell, study))
    rollouts = 2 * sizes.prompts * sizes.n_samples * sizes.replicates
    note = f"{rollouts} rollouts of {sizes.length} tokens, {'a random model' if model is None else model}"
    for name, each in floor.items():
        yield Finding(f"floor: {name}", each, "s", note=note)
    yield Finding("cell: all of it", seconds, "s", note=note)
    ratio = seconds / sum(floor.values())
    yield Finding.over_rounds("cell over floor", [ratio], at_most=AT_MOST, note="CPU seconds, one thread")


def _seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _made(path: Path, sizes: Sizes) -> Path:
    """A random Llama, with a tokenizer of as many words as it has tokens."""
    import tokenizers
    import torch

    words = {f"w{each}": each for each in range(sizes.vocab)}
    config = library().LlamaConfig(
        **_CONFIG | {"num_hidden_layers": sizes.layers},
        vocab_size=sizes.vocab,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library().AutoModelForCausalLM.from_config(config).save_pretrained(path)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    library().PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(path)
    return path


def _study(folder: Path, source: str, sizes: Sizes) -> spec.Study:
    """The default estimators on one actor, int8 weights."""
    texts = (" ".join(f"w{(7 * prompt + each) % sizes.vocab}" for each in range(40)) for prompt in range(sizes.prompts))
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in texts), encoding="utf-8")
    env = {
        "kind": "hf",
        "policy": source,
        "actor": {"kind": "quantized-weights", "share": 1},
        "prompts": str(prompts),
        "chat": False,
        "length": sizes.length,
        "batch_size": sizes.batch_size,
        "device": "cpu",
        "threads": 1,
    }
    names = ["none", "is", "tis", "mis", "obrs", "jackpot", "sequence-is", "sequence-tis"]
    more = {"seeds": 1, "n_samples": sizes.n_samples, "replicates": sizes.replicates}
    return spec.parse({"env": env, "estimators": names, **more})


def _floor(source: str, sizes: Sizes) -> dict[str, Callable[[], object]]:
    """The parts of the floor, for the rollouts of both models."""
    model = load(source, precision=Precision.FP32, device="cpu").model
    each = sizes.prompts * sizes.n_samples * sizes.replicates
    vocab = int(model.config.get_text_config().vocab_size)
    ids = np.random.default_rng(0).integers(vocab, size=(each, 40 + sizes.length))
    batches = [slice(start, start + sizes.batch_size) for start in range(0, each, sizes.batch_size)]

    def twice(run: Callable[[Model, Tensor, int], object], times: int = 2) -> Callable[[], object]:
        import torch

        read = torch.as_tensor(ids)
        return lambda: [run(model, read[some], sizes.length) for _ in range(times) for some in batches]

    return {
        "writing": twice(_write),
        "two scorings": twice(_score, 4),
        "gradient in the final norm": twice(_differentiate),
    }


def _write(model: Model, ids: Tensor, length: int) -> None:
    import torch

    with torch.inference_mode():
        cache, read = empty_cache(model.config), ids[:, :-length]
        for _ in range(length):
            law = torch.softmax(logits(model, read, LAST, cache=cache)[:, 0], dim=-1)
            read = torch.multinomial(law, 1)


def _score(model: Model, ids: Tensor, length: int) -> None:
    import torch

    with torch.inference_mode():
        for scores in logits(model, ids, slice(ids.shape[1] - length - 1, -1)):
            torch.log_softmax(scores.double(), dim=-1)


def _differentiate(model: Model, ids: Tensor, length: int) -> None:
    import torch

    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    gain = [name for name, weight in weights.items() if weight.ndim == 1][-1]
    weights[gain].requires_grad_()
    scores = logits(model, ids, slice(ids.shape[1] - length - 1, -1), weights=weights)
    chosen = torch.log_softmax(scores, dim=-1).gather(-1, ids[:, -length:, None])
    torch.autograd.grad(chosen.sum(), [weights[gain]])
