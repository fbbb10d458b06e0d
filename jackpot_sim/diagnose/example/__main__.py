"""Makes an example dump of a real mismatch: a language model as the policy, its quantised weights as the actor.

    python -m jackpot_sim.diagnose.example dump.parquet                  # the one that ships, in three minutes
    python -m jackpot_sim.diagnose.example worse.parquet --format int4

The policy is that of `jackpot_sim.environments.language_models.example`. The actor's engine writes the rollouts token
by token against a cache; the policy's log-probs come from one pass over whole sequences, as in a trainer. The dump is
in the plain schema, a row a sequence.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from jackpot_sim.commands import answer, app_of
from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models import example
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.language_models.generation import Written, generate
from jackpot_sim.environments.language_models.library import end_tokens
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.sequences.reward import DistinctShareReward
from jackpot_sim.environments.sources.actor_source import Setting
from jackpot_sim.environments.sources.quantized import QuantizedWeights
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically

_FLOATS = pa.list_(pa.float32())


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of an example dump.

    Attributes:
        models: the policy that is trained for it; of its actor no use is made.
        rollouts: the sequences after each prompt.
        length: the most tokens of a sequence.
        topk: the tokens of each law that are kept, on both sides.
        seed: the seed of the rollouts.
    """

    models: example.Example = field(default_factory=example.Example)
    rollouts: int = 4
    length: int = 32
    topk: int = 20
    seed: int = 0


def make(out: Path, weights: Format, sizes: Sizes, report: example.Report = lambda *_: None) -> int:
    """Trains the policy, lets its quantised self write rollouts, and writes the dump; the number of its tokens.

    Args:
        out: the Parquet file.
        weights: the actor's number format.
        sizes: the sizes.
        report: told of the training.

    Raises:
        StudyError: the file cannot be written.
        ValueError: a size is out of range.
    """
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        models = Path(folder) / "models"
        example.make(models, sizes.models, report)
        policy = load(models / example.POLICY, precision=Precision.FP32, device="cpu")
        texts = [json.loads(line)["prompt"] for line in (models / example.PROMPTS).read_text("utf-8").splitlines()]
    assert policy.tokenizer is not None
    prompts = [np.array(policy.tokenizer(text)["input_ids"], dtype=np.int64) for text in texts]
    written, scored = _rollouts(policy, prompts, weights, sizes)
    table = _table(policy, prompts, written, scored)
    options: dict[str, Any] = {"compression": "zstd", "use_byte_stream_split": _float_columns(table)}
    try:
        write_atomically(
            out, lambda path: pq.write_table(table, path, use_dictionary=False, compression_level=19, **options)
        )
    except OSError as error:
        raise unwritable(out, error) from error
    return int(written.mask.sum())


def _float_columns(table: pa.Table) -> list[str]:
    """The Parquet paths of the columns of floats, whose bytes are laid out apart."""
    return [_path(each.name, each.type) for each in table.schema if _leaf(each.type) == pa.float32()]


def _leaf(kind: pa.DataType) -> pa.DataType:
    return _leaf(kind.value_type) if pa.types.is_list(kind) else kind


def _path(name: str, kind: pa.DataType) -> str:
    return _path(f"{name}.list.element", kind.value_type) if pa.types.is_list(kind) else name


@dataclass(frozen=True, eq=False)
class _Scored:
    """The policy's figures at each token that was written, row by row."""

    log_probs: Floats
    entropy: Floats
    topk: TopK


def _rollouts(policy: Loaded, prompts: Sequence[Ints], weights: Format, sizes: Sizes) -> tuple[Written, _Scored]:
    """The sequences that the actor writes, and the policy's figures of them."""
    import torch

    source = QuantizedWeights(format=weights, share=1.0)
    setting = Setting(policy.model, lambda *key: keyed_generator(sizes.seed, *key))
    actor = source.actors(setting)(1.0)[1]
    assert isinstance(actor, CausalLM)
    prompt = np.repeat(np.arange(len(prompts)), sizes.rollouts)
    written = generate(
        actor,
        prompts,
        prompt,
        keyed_generator(sizes.seed, "example rollouts").random((len(prompt), sizes.length)),
        sampling=SamplingLaw(),
        end_tokens=end_tokens(policy.model, policy.tokenizer),
        batch_size=64,
        topk=sizes.topk,
    )
    completions = Completions.checked(policy.model, prompts, prompt, written.tokens, written.mask)
    with torch.inference_mode():
        laws = torch.log_softmax(completions.logits(policy.model).double(), dim=-1)
        taken = laws.gather(1, torch.from_numpy(written.tokens[written.mask])[:, None])[:, 0]
        entropy = -(laws.exp() * laws).sum(dim=-1)
    topk = TopK.of(to_numpy(laws), sizes.topk)
    return written, _Scored(to_numpy(taken), to_numpy(entropy), topk)


def _table(policy: Loaded, prompts: Sequence[Ints], written: Written, scored: _Scored) -> pa.Table:
    """The dump in the plain schema, a row a sequence; advantages are rewards, normalised over each prompt's group."""
    mask, lengths = written.mask, written.mask.sum(axis=1)
    assert written.topk is not None
    vocab = int(policy.model.config.get_text_config().vocab_size)
    reward = DistinctShareReward().of(written.tokens, mask, vocab, keyed_generator(0))
    groups = reward.reshape(len(prompts), -1)
    advantage = groups - groups.mean(axis=1, keepdims=True)
    advantage = (advantage / np.maximum(groups.std(axis=1, keepdims=True), 1e-6)).ravel()

    def lists(values: Array, kind: pa.DataType = _FLOATS) -> pa.Array:
        return pa.array([each.tolist() for each in np.split(to_numpy(values), np.cumsum(lengths)[:-1])], type=kind)

    ids = pa.list_(pa.int32())
    return pa.table(
        {
            "sequence": pa.array(np.arange(len(mask))),
            "prompt": pa.array([prompts[each].tolist() for each in written.prompt], type=ids),
            "token": lists(written.tokens[mask], ids),
            "actor_log_prob": lists(written.log_probs[mask]),
            "policy_log_prob": lists(scored.log_probs),
            "entropy": lists(scored.entropy),
            "reward": pa.array(reward),
            "advantage": lists(np.repeat(advantage, lengths)),
            "actor_topk_ids": lists(written.topk.ids[mask], pa.list_(ids)),
            "actor_topk_log_probs": lists(written.topk.log_probs[mask], pa.list_(_FLOATS)),
            "policy_topk_ids": lists(scored.topk.ids, pa.list_(ids)),
            "policy_topk_log_probs": lists(scored.topk.log_probs, pa.list_(_FLOATS)),
        }
    )


app = app_of("jackpot_sim.diagnose.example", "Make an example dump: a language model, and its quantised weights.")


@app.default
def command(
    out: Path,
    /,
    *,
    format_: Annotated[Format, Parameter(name="--format")] = Format.INT8,
    seed: int = Sizes.seed,
) -> int:
    """Make the dump.

    Args:
        out: The Parquet file.
        format_: The number format of the actor's weights.
        seed: The seed of the rollouts.
    """
    require("torch", "transformers", purpose="the example")
    if not out.absolute().parent.is_dir():
        raise StudyError(f"{out}: there is no folder {out.parent} to write it in")
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in (example.POLICY, example.ACTOR)}

        def report(name: str, done: int, total: int) -> None:
            bars.update(tasks[name], completed=done, total=total)

        tokens = make(out, format_, Sizes(seed=seed), report)
    print(f"{out}: {tokens} tokens, {out.stat().st_size // 1000} kB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the dump; the exit code is 0, or 2 for bad input."""
    return answer(app, "diagnose.example", argv, failures=(StudyError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
