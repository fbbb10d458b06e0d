"""Records of training: a row for every step of every run, and the outcome of each run.

OUT/manifest.json      the configuration, its hash, the versions that began the study
OUT/runs/RUN/…         see `loop.run`
OUT/steps.parquet      the rows of all runs, once all are finished
OUT/outcomes.parquet   one row for each run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.training.loop.collapse import Course, course
from jackpot_sim.training.study import Run

FIGURES = {
    "reward": "mean reward of the rollouts, which are the actor's",
    "accuracy": "mean of the task's own reward of the policy's greedy completions of held-out problems; nan where not "
    "tested",
    "mean_at_k": "mean reward of k samples of the policy, likewise",
    "pass_at_k": "mean over held-out problems of the best reward of k samples, likewise",
    "kl_policy_actor": "KL(p_ref‖q) per token of the rollouts, before the step's updates, nats; inf where the actor's "
    "sampler cuts whole laws; with rollout.log_probs support p_ref, here and below, is renormalised on the tokens kept",
    "kl_actor_policy": "KL(q‖p_ref), likewise",
    "chi_square": "χ²(p_ref‖q), likewise",
    "overlap": "Z(1) = Σ min(p_ref, q), likewise",
    "overlap_p1": "1st percentile of the overlap over the tokens of the rollouts; nan without whole laws",
    "overlap_p5": "5th percentile, likewise",
    "overlap_p50": "median, likewise",
    "entropy": "mean entropy of p_ref over the same states, nats, likewise",
    "kl_exact": "1 where KLs, χ² and overlap were computed over whole laws, 0 where from the tokens drawn",
    "k1": "mean of log q/p_ref over the tokens drawn, an estimate of KL(q‖p_ref), nats",
    "k3": "mean of r − 1 − log r with r = p_ref/q, likewise",
    "ess_ratio": "(Σ r)² / (n Σ r²) over the tokens drawn",
    "perplexity_gap": "mean over rollouts of the mean log q/p_ref of their tokens: the log of the policy's perplexity "
    "over the actor's, nats",
    "kl_new_actor": "KL(p_new‖q) per token, a mean over the step's updates, each before it is made, nats",
    "log_ratio_max": "the largest |log p_ref/q| of a token, nats",
    "acceptance_rate": "mean accept probability of the correction over the tokens of the updates",
    "weight_mean": "mean m·w over tokens",
    "weight_max": "largest m·w",
    "ess_fraction": "(Σ m·w)² / (n Σ (m·w)²) over tokens",
    "rejected_positive": "share of the tokens with a positive advantage that the correction's masks reject; nan where "
    "there are none",
    "rejected_negative": "the same with a negative advantage",
    "clipped_share": "share of tokens whose PPO term is clipped, and so has no gradient",
    "share_below": "share of tokens whose ratio, or that of their sequence, is below the bounds of the correction",
    "share_above": "the same above them",
    "loss": "mean loss of the policy's updates",
    "grad_norm": "mean norm of the policy's gradient before clipping",
    "skipped_updates": "share of the step's updates, those of a trained actor included, that an overflow of gradients "
    "skipped; nan where the loss is not scaled, which precision fp16 does alone",
    "loss_scale": "mean scale of the loss, likewise",
    "actor_loss": "mean loss of a jointly trained actor",
    "actor_grad_norm": "mean norm of its gradient before clipping",
    "distillation_kl": "mean KL that distillation descends on, nats per token",
    "distillation_weight": "λ_distill of the step",
    "lam": "λ of the rejection",
    "rejected_budget": "the share of rejected tokens that λ was set for",
    "equal_groups": "share of groups whose rewards are all equal, and so teach nothing",
    "tokens": "tokens of the rollouts",
    "length": "mean tokens of a rollout",
    "seconds": "wall-clock time of the step, its test included",
    "seconds_rollouts": "wall-clock time of its rollouts, with their rewards and the pass for p_ref",
    "seconds_update": "wall-clock time of its updates; the first uses the pass for p_ref",
    "memory": "peak memory so far, GiB: of the process on a CPU, of torch's allocations on a GPU",
}
"""The meaning of every column with a figure; a column that does not apply to a run is nan throughout."""

KEYS = pa.schema([("setting", pa.string()), ("method", pa.string()), ("seed", pa.int64()), ("step", pa.int64())])
STEPS = pa.schema([*KEYS, *((name, pa.float64()) for name in FIGURES)])

OUTCOMES = pa.schema(
    [
        ("setting", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        ("best_accuracy", pa.float64()),
        ("last_accuracy", pa.float64()),
        ("collapsed_at", pa.int64()),
        ("ended", pa.string()),
    ]
)
"""One row for each run; see `COLUMNS`."""

_RUN = {
    "setting": "the setting's name",
    "method": "the method's name",
    "seed": "the seed of models, prompts and draws",
}
COLUMNS = {
    "OUT/steps.parquet": {
        **_RUN,
        "step": "batches of rollouts before this row; the last row of a run is its last test alone, and nan elsewhere",
        **FIGURES,
    },
    "OUT/outcomes.parquet": {
        **_RUN,
        "steps": "steps that were made",
        "best_accuracy": "the largest running mean of `accuracy` over 20 steps, the test before all steps included",
        "last_accuracy": "the last such mean",
        "collapsed_at": "the step from which it stayed below half of its best, for at least 20 further steps",
        "ended": "finished, collapsed (and stopped early), or the reason for which it could not go on",
    },
}
"""The meaning of every column of the records, by file."""

ENDS = ("finished", "collapsed")
"""The ends of runs that give a policy; a run with another diverged, and its end is the reason."""

_REASON = b"reason"


def steps(run: Run, rows: Sequence[Mapping[str, float]], reason: str) -> pa.Table:
    """The rows of a run as a table; its metadata hold the reason for which the run ended early, "" if it did not."""
    own: dict[str, Any] = {"setting": run.setting, "method": run.method, "seed": run.seed}
    full = [own | {"step": int(row["step"])} | {name: row.get(name, math.nan) for name in FIGURES} for row in rows]
    return with_reason(pa.Table.from_pylist(full, schema=STEPS), reason)


def with_reason(table: pa.Table, reason: str) -> pa.Table:
    """The rows of a run with the reason for which it ended early, "" or one of `ENDS` if it did not."""
    return table.replace_schema_metadata({_REASON: b"" if reason in ENDS else reason.encode()})


def write(table: pa.Table, path: Path) -> None:
    """Writes a table as compressed Parquet; figures hardly repeat, and their bytes compress best split by place."""
    figures = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    keys = [name for name in table.column_names if name not in figures]
    coded: dict[str, Any] = {"use_dictionary": keys, "use_byte_stream_split": figures}
    pq.write_table(table, path, compression="zstd", write_page_checksum=True, **coded)


def read(path: Path) -> tuple[pa.Table, str]:
    """The rows of a run, and the reason for which it ended early, "" if it did not."""
    table = pq.read_table(path)
    return table, (table.schema.metadata or {}).get(_REASON, b"").decode()


def outcome(table: pa.Table, reason: str, asked: int) -> dict[str, Any]:
    """The outcome of a run: its row of `OUTCOMES`.

    Args:
        table: the rows of the run; the last one holds the number of steps that were made.
        reason: the reason for which the run ended early, "" if it did not.
        asked: the steps that were asked of it.
    """
    frame: pd.DataFrame = table.to_pandas()
    tests = frame.dropna(subset=["accuracy"])
    result = Course(math.nan, math.nan, None)  # of a policy that was never tested
    if len(tests):
        result = course(tests["step"].tolist(), tests["accuracy"].tolist())
    first, last = frame.iloc[0], int(frame["step"].iloc[-1])
    ended = reason or (ENDS[0] if last >= asked else ENDS[1])
    return {
        **{name: first[name] for name in ("setting", "method", "seed")},
        "steps": last,
        "best_accuracy": result.best,
        "last_accuracy": result.last,
        "collapsed_at": result.collapsed_at,
        "ended": ended,
    }
