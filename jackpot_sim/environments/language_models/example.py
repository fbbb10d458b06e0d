"""A small pair of real language models, made in two minutes, where no checkpoints are at hand.

    python -m jackpot_sim.environments.language_models.example OUT

A byte-level BPE, a Qwen3 as the policy and a smaller one as the actor are trained on the sources of Python's standard
library, which every machine has; their prompts are beginnings of code that neither has seen. The models are good at
nothing, but their laws look like those of language models: a few likely tokens, a long tail, and much difference
between states. Python's sources differ between its versions, and so do the models.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

from jackpot_sim.commands import answer, app_of
from jackpot_sim.core.arrays import Ints
from jackpot_sim.core.checks import check_integers
from jackpot_sim.environments.corpus import split_text
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.library import Model, Tensor, Tokenizer, fresh, library, logits, quiet
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator

END = "<|endoftext|>"
"""The end of a document, which two blank lines of the sources separate: as a rule a class or a function."""

POLICY, ACTOR, PROMPTS = "policy", "actor", "prompts.jsonl"
"""The names of the results in the output folder."""

_HELD_OUT = 0.05
_PROMPT_CHARACTERS = (40, 200)
_PEAK_RATE, _WARM_UP = 8e-3, 0.05

Report = Callable[[str, int, int], None]
"""A function of the name of the model in training, the steps done and the steps to do."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a Qwen3 whose heads have 32 entries, half as many for keys and values as for queries."""

    hidden: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """The sizes of an example.

    Attributes:
        vocab: tokens of the tokenizer, and so of both models.
        steps: steps of AdamW for each model.
        prompts: the number of prompts.
        seed: the seed of the weights and of the order of the text.
        max_bytes: the most bytes of the text that are read.
        context: tokens that a model reads at a time in training; it can read four times as many.
        batch: pieces of text in a step.
        policy: the size of the policy.
        actor: the size of the actor.
    """

    vocab: int = 4096
    steps: int = 1000
    prompts: int = 16
    seed: int = 0
    max_bytes: int = 4_000_000
    context: int = 128
    batch: int = 4
    policy: Size = Size(hidden=128, layers=3)
    actor: Size = Size(hidden=64, layers=2)

    def __post_init__(self) -> None:
        check_count("vocab", self.vocab, 300)  # 256 bytes, the end, and some pairs
        for name in ("steps", "prompts", "batch"):
            check_count(name, getattr(self, name), 1)
        check_count("seed", self.seed, 0)
        check_count("max_bytes", self.max_bytes, 10_000)
        check_count("context", self.context, 2)


@dataclass(frozen=True, kw_only=True)
class Made:
    """The losses of an example that was made.

    Attributes:
        losses: cross-entropy on held-out text, nats per token, by the model's name.
        uniform: log vocab, the cross-entropy of the uniform law.
    """

    losses: dict[str, float]
    uniform: float


def make(out: Path, example: Example, report: Report = lambda *_: None) -> Made:
    """Trains the pair and writes it: `policy` and `actor`, each with the tokenizer, and `prompts.jsonl`.

    The same configuration gives the same files on the same machine and version of Python.

    Raises:
        ValueError: the folder holds something already, or cannot be written.
    """
    out = Path(out)
    new = not out.exists()
    try:
        return _made_in(out, example, report)
    except BaseException:
        with contextlib.suppress(OSError):
            if new:
                out.rmdir()  # where nothing was written yet
        raise


def _made_in(out: Path, example: Example, report: Report) -> Made:
    import torch

    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ValueError(f"{out} holds something already: give a folder that is new or empty")
    except OSError as error:
        raise ValueError(f"{out}: cannot write there: {error}") from error
    train, held_out = (_documents(part) for part in split_text(None, example.max_bytes, _HELD_OUT))
    prompts = _prompts(held_out, example)
    losses = {}
    with torch_threads(1), torch.random.fork_rng(devices=[]), quiet():
        tokenizer = trained_tokenizer(train, example.vocab)
        ids, unseen = (_joined(tokenizer, part) for part in (train, held_out))
        for name, size in ((POLICY, example.policy), (ACTOR, example.actor)):
            model = trained_model(name, size, ids, example, tokenizer, report)
            losses[name] = loss_on(model, unseen, example.context)
            for each in (model, tokenizer):
                each.save_pretrained(out / name)
    lines = (json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    (out / PROMPTS).write_text("".join(lines), encoding="utf-8")
    return Made(losses=losses, uniform=math.log(len(tokenizer)))


def trained_tokenizer(documents: Sequence[str], vocab: int) -> Tokenizer:
    """A byte-level BPE with an end token, in which any text can be written."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(documents, trainer)
    return library().PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def trained_model(
    name: str, size: Size, ids: Ints, example: Example, tokenizer: Tokenizer, report: Report = lambda *_: None
) -> Model:
    """A Qwen3 after the example's steps on pieces of the text `ids`, (tokens,); float32 and in eval mode."""
    import torch

    check_integers(ids, "ids", "tokens")
    torch.manual_seed(int(keyed_generator(example.seed, "example weights", name).integers(2**62)))
    config = library().Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 32,
        num_key_value_heads=size.hidden // 64,
        head_dim=32,
        max_position_embeddings=4 * example.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = fresh(config, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / example.steps))
    generator = keyed_generator(example.seed, "example text", name)
    with torch.enable_grad():
        for step in range(example.steps):
            starts = generator.integers(len(ids) - example.context, size=example.batch)
            loss = _loss(model, ids[starts[:, None] + np.arange(example.context + 1)])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            report(name, step + 1, example.steps)
    return model.eval()


def loss_on(model: Model, ids: Ints, context: int, pieces: int = 64) -> float:
    """Cross-entropy per token on the first pieces of a text, (tokens,); nats."""
    import torch

    check_integers(ids, "ids", "tokens")
    count = min(pieces, (len(ids) - 1) // context)
    rows = ids[np.arange(count)[:, None] * context + np.arange(context + 1)]
    with torch.inference_mode():
        return float(np.mean([_loss(model, row[None]).item() for row in rows]))


def _loss(model: Model, rows: Ints) -> Tensor:
    """Cross-entropy of every token but the first of each row, (rows, context + 1), nats."""
    import torch

    read = torch.from_numpy(rows)
    scores = logits(model, read[:, :-1])
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), read[:, 1:].flatten())


def _rate(done: float) -> float:
    """The learning rate at a share of the steps, of its peak: up in a line, down in a cosine."""
    return min(done / _WARM_UP + 1e-2, 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def _documents(symbols: NDArray[np.uint8]) -> list[str]:
    text = symbols.tobytes().decode("utf-8", errors="ignore")
    return [document.strip("\n") + "\n" for document in text.split("\n\n\n") if document.strip()]


def _joined(tokenizer: Tokenizer, documents: Sequence[str]) -> Ints:
    """The documents as one row of ids, (tokens,), each with its end token."""
    rows = tokenizer(list(documents))["input_ids"]
    return np.concatenate([np.array([*row, tokenizer.eos_token_id], dtype=np.int64) for row in rows])


def _prompts(documents: Sequence[str], example: Example) -> list[str]:
    """Beginnings of functions and classes: some lines from the first on."""
    least, most = _PROMPT_CHARACTERS
    beginnings = []
    for document in documents:
        for start in (match.start() for match in re.finditer(r"^ *(def|class) ", document, re.MULTILINE)):
            end = document.find("\n", start + least) + 1
            if 0 < end - start <= most:
                beginnings.append(document[start:end])
    if len(beginnings) < example.prompts:
        raise ValueError(
            f"the held-out text gives {len(beginnings)} prompts, not {example.prompts}: ask for fewer prompts"
        )
    picked = keyed_generator(example.seed, "example prompts").permutation(len(beginnings))[: example.prompts]
    return [beginnings[each] for each in sorted(picked)]


app = app_of(
    "jackpot_sim.environments.language_models.example",
    "Make a small pair of language models with prompts, to try things on.",
)


@app.default
def example(
    out: Path,
    /,
    *,
    vocab: int = Example.vocab,
    steps: int = Example.steps,
    prompts: int = Example.prompts,
    seed: int = Example.seed,
) -> int:
    """Make the pair, and report its loss on text that it has not seen.

    Args:
        out: A folder that is new or empty.
        vocab: Tokens of the tokenizer.
        steps: Training steps of each model.
        prompts: The number of prompts.
        seed: The seed of weights and text.
    """
    console = Console(highlight=False, soft_wrap=True)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        made = make(out, Example(vocab=vocab, steps=steps, prompts=prompts, seed=seed), report)
    for name, loss in made.losses.items():
        console.print(
            f"{out / name}: {loss:.2f} nats per token of unseen code, perplexity {math.exp(loss):.0f} "
            f"(uniform law: {made.uniform:.2f} nats)"
        )
    console.print(f"{out / PROMPTS}: prompts")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the pair and prints its losses on unseen text; the exit code is 0, or 2 for bad input."""
    return answer(app, "example", argv, failures=(ValueError,))


if __name__ == "__main__":
    sys.exit(main())
