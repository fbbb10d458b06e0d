"""The files of trainers, which have the log-probs of both sides, from given rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.readers.formats import foreign
from tests.readers.formats.rollouts import STEP, Rollout
from tests.readers.formats.written import ALWAYS, BOTH, behind_prompt, lines, producer, saved, tensor


@producer("prime-rl", *BOTH, "advantages", "entropy", "step")
def prime_rl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """prime-rl: the first token of a row carries the log-prob of a uniform law, and what is not finite is null."""
    rows = []
    for rollout in rollouts:
        policy = behind_prompt(rollout, rollout.policy_log_probs, -2.0)
        ratio = np.asarray(policy) - behind_prompt(rollout, rollout.actor_log_probs)
        rows.append(
            {
                "schema_version": 1,
                "step": STEP,
                "rank": 0,
                "micro_step": 0,
                "micro_sequence_idx": rollout.number,
                "export_sequence_idx": rollout.number,
                "env_name": "words",
                "token_ids": rollout.row.tolist(),
                "position_ids": list(range(len(rollout.row))),
                "loss_mask": behind_prompt(rollout, rollout.mask, False),
                "advantages": behind_prompt(rollout, rollout.advantages),
                "inference_logprobs": behind_prompt(rollout, rollout.actor_log_probs),
                "trainer_logprobs": policy,
                "entropy": behind_prompt(rollout, rollout.entropy),
                "mismatch_kl": [None, *(np.exp(ratio) - ratio - 1)[1:].tolist()],
                "is_masked": [None] * len(rollout.row),
            }
        )
    return lines(folder / "token_exports" / f"step_{STEP}" / "rank_0.jsonl", rows)


@producer("nemo-rl", *BOTH, "advantages", "reward", "step")
def nemo_rl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """NeMo-RL: padded rows, one in a batch of one per line, and a mask of samples beside that of tokens."""
    width, rows = max(len(each.row) for each in rollouts) + 2, []

    def padded(values: list[Any]) -> list[list[Any]]:
        return [values + [0] * (width - len(values))]

    for rollout in rollouts:
        rows.append(
            {
                "content": [["some", "text"]],
                "rewards": [rollout.reward],
                "input_lengths": [len(rollout.row)],
                "token_ids": padded(rollout.row.tolist()),
                "token_loss_mask": padded(behind_prompt(rollout, rollout.mask.astype(int))),
                "sample_loss_mask": [1.0],
                "advantages": padded(behind_prompt(rollout, rollout.advantages)),
                "generation_logprobs": padded(behind_prompt(rollout, rollout.actor_log_probs)),
                "prev_logprobs": padded(behind_prompt(rollout, rollout.policy_log_probs)),
                "idx": rollout.number,
            }
        )
    return lines(folder / f"train_data_step{STEP}.jsonl", rows)


def slime_rollout_sample(rollout: Rollout) -> dict[str, Any]:
    """A sample of the rollout as slime and miles have it."""
    return {
        "group_index": 0,
        "index": rollout.number,
        "rollout_id": None,
        "prompt": "some text",
        "tokens": rollout.row.tolist(),
        "response": "some text",
        "response_length": len(rollout.token),
        "reward": rollout.reward,
        "loss_mask": rollout.mask.astype(int).tolist(),
        "weight_versions": [str(rollout.weight_version)],
        "rollout_log_probs": rollout.actor_log_probs.tolist(),
        "status": "completed",
        "remove_sample": False,
        "metadata": {},
    }


def trainer_sample(rollout: Rollout) -> dict[str, Any]:
    """A sample of the trainer as slime has it."""
    return {
        "tokens": tensor(rollout.row),
        "response_lengths": len(rollout.token),
        "total_lengths": len(rollout.row),
        "loss_masks": tensor(rollout.mask.astype(np.int32)),
        "rewards": rollout.advantage,
        "rollout_log_probs": tensor(rollout.actor_log_probs),
        "log_probs": tensor(rollout.policy_log_probs),
        "advantages": tensor(rollout.advantages),
        "entropy": tensor(rollout.entropy),
    }


def slime_train_file(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """The trainer's file, of two ranks whose samples are put in the order of the rollout."""
    samples = [
        {"data_parallel_rank": each.number % 2, "sample_index": each.number, "rollout_position": at}
        | trainer_sample(each)
        for at, each in enumerate(rollouts)
    ]
    content = {
        "format_version": 2,
        "rollout_id": STEP,
        "rank": 0,
        "samples": samples,
        "dp_shards": [{"rank": 0, "data_parallel_rank": 0, "sample_indices": [each.number for each in rollouts]}],
        "raw_reward": [each.reward for each in rollouts],
    }
    return saved(folder / "train_data" / f"{STEP}.pt", content)


@producer("slime", *BOTH, "advantages", "entropy", "reward", "step")
def slime_train(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """slime: the trainer's side alone."""
    return slime_train_file(folder, rollouts)


@producer("slime", *ALWAYS, "actor_log_probs", "weight_version", "reward", "step", "actor_topk")
def slime_rollout(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """slime: the rollout's side alone, with the likeliest tokens that newer releases keep."""
    samples = [
        slime_rollout_sample(each)
        | {
            "rollout_topk_token_ids": tensor(each.actor_topk.ids),
            "rollout_topk_log_probs": tensor(each.actor_topk.log_probs),
        }
        for each in rollouts
    ]
    return saved(folder / "rollout_data" / f"{STEP}.pt", {"rollout_id": STEP, "samples": samples})


@producer("slime", *BOTH, "advantages", "entropy", "reward", "step", "weight_version", "actor_topk")
def slime_both(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """slime: a dump with both folders, whose files say different things of the same samples."""
    return [*slime_rollout(folder, rollouts), *slime_train_file(folder, rollouts)]


def chunks(rollout: Rollout, values: Any, rank: int, size: int) -> Any:
    """The part of a rank of context parallelism: the tokens are cut into 2·size chunks, of which it has two.

    A token's log-prob is computed where the token before it lies.
    """
    total, prompt = len(rollout.row), len(rollout.prompt)
    chunk = -(-total // (2 * size))
    owner = [min(at // chunk, 2 * size - 1 - at // chunk) for at in range(total)]
    return np.asarray(values)[[t for t in range(len(rollout.token)) if owner[prompt + t - 1] == rank]]


def miles_files(
    folder: Path, rollouts: Sequence[Rollout], size: int, copies: int, *, told: bool = True, stages: int = 1
) -> list[Path]:
    """miles: a file per rank of pipeline, context and tensor parallelism."""
    paths, rank = [], 0
    for stage in range(stages):
        for cp_rank in range(size):
            for _ in range(copies):
                samples = [trainer_sample(each) for each in rollouts]
                for each, sample in zip(rollouts, samples, strict=True):
                    for name in ("rollout_log_probs", "log_probs", "advantages", "entropy"):
                        sample[name] = tensor(chunks(each, sample[name], cp_rank, size))
                    if stage < stages - 1:
                        del sample["log_probs"], sample["entropy"]
                data = {key: [each[key] for each in samples] for key in samples[0]}
                data |= {
                    "sample_indices": [each.number for each in rollouts],
                    "weight_versions": [[str(each.weight_version)] for each in rollouts],
                    "rewards": [each.reward for each in rollouts],
                    "micro_batch_indices": [[0]],
                }
                content = {"rollout_id": STEP, "rank": rank, "rollout_data": data}
                if told:
                    content |= {"cp_rank": cp_rank, "cp_size": size, "qkv_format": "thd"}
                paths += saved(folder / "train_data" / f"{STEP}_{rank}.pt", content)
                rank += 1
    return paths


MILES = (*BOTH, "advantages", "entropy", "reward", "step", "weight_version")


@producer("miles", *MILES)
def miles(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """miles: one rank."""
    return miles_files(folder, rollouts, 1, 1)


@producer("miles", *MILES)
def miles_in_chunks(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """miles: two ranks of context parallelism, and two stages of a pipeline."""
    return miles_files(folder, rollouts, 2, 1, stages=2)


@producer("miles", *MILES)
def miles_of_old(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """miles: a dump that does not say the ranks of context parallelism."""
    return miles_files(folder, rollouts, 2, 1, told=False)


def left_padded(rows: Sequence[Any], width: int, dtype: type = np.int64) -> Any:
    """Rows at the end of (B, width), behind zeros."""
    out = np.zeros((len(rows), width), dtype=dtype)
    for line, row in zip(out, rows, strict=True):
        line[width - len(row) :] = row
    return out


def right_padded(rows: Sequence[Any], width: int, dtype: type = np.int64, pad: float = 0) -> Any:
    """Rows at the beginning of (B, width), before padding."""
    out = np.full((len(rows), width), pad, dtype=dtype)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def skyrl_batch(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """SkyRL's batch, padded on the left."""
    width = max(len(each.row) for each in rollouts)
    response = max(len(each.token) for each in rollouts)

    def of(name: str, dtype: type = np.float32) -> Any:
        return tensor(left_padded([getattr(each, name) for each in rollouts], response, dtype))

    return {
        "sequences": tensor(left_padded([each.row for each in rollouts], width)),
        "attention_mask": tensor(left_padded([np.ones(len(each.row)) for each in rollouts], width)),
        "response_mask": tensor(left_padded([np.ones(len(each.token)) for each in rollouts], response)),
        "loss_mask": of("mask"),
        "rollout_logprobs": of("actor_log_probs"),
        "action_log_probs": of("policy_log_probs"),
        "base_action_log_probs": None,
        "advantages": of("advantages"),
    }


def skyrl_file(folder: Path, rollouts: Sequence[Rollout], release: str) -> list[Path]:
    """SkyRL's pickle, as a release of it writes it."""
    path = folder / "dumped_data" / f"global_step_{STEP}_training_input.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(foreign.skyrl(skyrl_batch(rollouts), release))
    return [path]


SKYRL = (*BOTH, "advantages", "step")


@producer("skyrl", *SKYRL)
def skyrl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """SkyRL: the newest release."""
    return skyrl_file(folder, rollouts, "newest")


@producer("skyrl", *SKYRL)
def skyrl_of_numpy(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """SkyRL: a release that pickled each tensor twice."""
    return skyrl_file(folder, rollouts, "twice")


@producer("skyrl", *SKYRL)
def skyrl_of_old(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """SkyRL: the first release, with torch's bytes."""
    return skyrl_file(folder, rollouts, "first")


def verl_batch(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """verl's batch: prompts padded on the left, responses on the right."""
    asked, width = max(len(each.prompt) for each in rollouts) + 1, max(len(each.token) for each in rollouts) + 1
    prompts = left_padded([each.prompt for each in rollouts], asked)
    responses = right_padded([each.token for each in rollouts], width)
    live = [
        left_padded([np.ones(len(each.prompt)) for each in rollouts], asked),
        right_padded([np.ones(len(each.token)) for each in rollouts], width),
    ]

    def of(name: str, dtype: type = np.float32) -> Any:
        return tensor(right_padded([getattr(each, name) for each in rollouts], width, dtype))

    scores = [np.eye(1, len(each.token), len(each.token) - 1)[0] * each.reward for each in rollouts]
    return {
        "prompts": tensor(prompts),
        "responses": tensor(responses),
        "input_ids": tensor(np.concatenate([prompts, responses], axis=1)),
        "attention_mask": tensor(np.concatenate(live, axis=1)),
        "response_mask": of("mask", np.int64),
        "rollout_log_probs": of("actor_log_probs"),
        "old_log_probs": of("policy_log_probs"),
        "advantages": of("advantages"),
        "entropys": of("entropy"),
        "token_level_scores": tensor(right_padded(scores, width, np.float32)),
    }


VERL = (*BOTH, "advantages", "entropy", "reward", "step")


@producer("verl", *VERL)
def verl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """verl: a dictionary of the batch's tensors."""
    return saved(folder / f"step_{STEP}.pt", verl_batch(rollouts))


def data_proto_file(folder: Path, rollouts: Sequence[Rollout], *, of_numpy: bool) -> list[Path]:
    """A DataProto as it pickles itself."""
    path, others = folder / "data_proto.pkl", {"uid": ["a"] * len(rollouts)}
    path.write_bytes(foreign.data_proto(verl_batch(rollouts), others, {"global_steps": STEP}, of_numpy=of_numpy))
    return [path]


@producer("verl", *VERL)
def verl_data_proto(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """verl: a DataProto, with torch's bytes."""
    return data_proto_file(folder, rollouts, of_numpy=False)


@producer("verl", *VERL)
def verl_data_proto_of_numpy(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """verl: a DataProto, with numpy's bytes."""
    return data_proto_file(folder, rollouts, of_numpy=True)


@producer("trl", *BOTH, "advantages", "step")
def trl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """TRL: the inputs of its loss."""
    asked, width = max(len(each.prompt) for each in rollouts) + 1, max(len(each.token) for each in rollouts) + 1

    def of(name: str, dtype: type = np.float32, pad: float = 0) -> Any:
        return tensor(right_padded([getattr(each, name) for each in rollouts], width, dtype, pad))

    content = {
        "prompt_ids": tensor(left_padded([each.prompt for each in rollouts], asked)),
        "prompt_mask": tensor(left_padded([np.ones(len(each.prompt)) for each in rollouts], asked)),
        "completion_ids": of("token", np.int64),
        "completion_mask": tensor(right_padded([np.ones(len(each.token)) for each in rollouts], width)),
        "tool_mask": of("mask", np.int64, 1),
        "advantages": tensor(np.array([each.advantage for each in rollouts], dtype=np.float32)),
        "num_items_in_batch": tensor(sum(len(each.token) for each in rollouts)),
        "sampling_per_token_logps": of("actor_log_probs"),
        "old_per_token_logps": of("policy_log_probs", pad=-3.0),
    }
    return saved(folder / f"step_{STEP}.pt", content)
