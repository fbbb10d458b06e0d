"""The dumps of slime and miles: ranks, versions of weights, rewards, and what is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.formats import miles, slime
from jackpot_sim.readers.formats.chunks import assembled, places
from jackpot_sim.readers.sequence import DumpedSequence
from tests.cases import each, every
from tests.readers.formats.reading import of_contents, read
from tests.readers.formats.rollouts import STEP, Rollout
from tests.readers.formats.rollouts import rollouts as rollouts
from tests.readers.formats.trainers import miles_files, slime_rollout_sample, slime_train_file
from tests.readers.formats.written import saved


def of_samples(*samples: dict[str, Any]) -> list[DumpedSequence]:
    return of_contents("slime", {"rollout_id": 2, "samples": list(samples)})


def sample(**changes: Any) -> dict[str, Any]:
    return {
        "index": 5,
        "tokens": [9, 8, 7, 6, 5],
        "response_length": 3,
        "loss_mask": [1, 0, 1],
        "rollout_log_probs": [-1.0, 0.0, -2.0],
        "weight_versions": ["4"],
        "reward": 1.0,
        **changes,
    }


def test_ranks_that_repeat_each_other_are_given_as_often(rollouts: list[Rollout], tmp_path: Path) -> None:
    """They are told, and counted, by what screens tokens."""
    found = read("miles", miles_files(tmp_path, rollouts, 2, 2, stages=2))
    assert sorted({each.name for each in found}) == sorted(f"{STEP}-{each.number}" for each in rollouts)
    assert len(found) == 2 * len(rollouts)
    for sequence in found:
        rollout = rollouts[int(sequence.name.split("-")[1])]
        np.testing.assert_array_equal(sequence.policy_log_probs, rollout.policy_log_probs)


def test_a_rank_that_is_missing_is_named(rollouts: list[Rollout], tmp_path: Path) -> None:
    with pytest.raises(DumpError, match=r"rank 1 of 2 of context parallelism is missing: give the files of all ranks"):
        read("miles", miles_files(tmp_path, rollouts, 2, 1)[:1])


def test_chunks_that_do_not_fit_are_refused(rollouts: list[Rollout], tmp_path: Path) -> None:
    import torch

    first, second = miles_files(tmp_path, rollouts, 2, 1)
    content = torch.load(second, weights_only=True)
    for row in range(len(rollouts)):
        content["rollout_data"]["log_probs"][row] = torch.zeros(9)
    torch.save(content, second)
    with pytest.raises(DumpError, match=r"log_probs: rank 1 of 2 of context parallelism holds 9 tokens where"):
        read("miles", [first, second])


@each("size, prompt, length, padded", every((2, 3, 4), (1, 2, 7), (1, 2, 5, 30), (None, 48)))
def test_all_ranks_together_hold_each_token_once(size: int, prompt: int, length: int, padded: int | None) -> None:
    held = {rank: places(prompt + length, length, rank, size, padded) for rank in range(size)}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(held.values()))), np.arange(length))
    numbers = np.arange(length) + 0.5
    chunks = {rank: numbers[at] for rank, at in held.items()}
    np.testing.assert_array_equal(assembled(chunks, prompt + length, length, size, padded), numbers)


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        (["4"], [4, 4, 4]),
        ([4, 4], [4, 4, 4]),
        (["4", "5"], [4, 4, 5]),
        (["4", "5", "6"], None),
        (["default"], None),
        ([], None),
        (None, None),
    ],
)
def test_versions_of_weights_are_given_to_tokens_where_it_is_certain(versions: Any, told: list[int] | None) -> None:
    (found,) = of_samples(sample(weight_versions=versions))
    if told is None:
        assert found.weight_version is None
    else:
        np.testing.assert_array_equal(found.weight_version, told)


def test_a_removed_sample_is_masked_and_an_object_is_no_reward() -> None:
    (found,) = of_samples(sample(remove_sample=True, reward={"score": 1.0}))
    assert not np.any(found.mask)
    assert found.reward is None


def test_zeros_at_tokens_that_are_not_trained_on_stay_as_they_are() -> None:
    (found,) = of_samples(sample())
    np.testing.assert_array_equal(found.actor_log_probs, [-1.0, 0.0, -2.0])
    np.testing.assert_array_equal(found.mask, [True, False, True])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": None}, "tokens and response_length must tell"),
        ({"response_length": 9}, "tokens and response_length must tell"),
        ({"loss_mask": [1]}, r"loss_mask has shape|cannot|where the tokens have \(3,\)"),
        ({"rollout_log_probs": [-1.0]}, "rollout_log_probs has shape"),
        ({"rollout_topk_token_ids": [[1]], "rollout_topk_log_probs": [[-1.0]]}, "where there are 3 tokens"),
    ],
)
def test_a_bad_sample_is_told_and_the_next_is_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DumpError, match=says):
        of_samples(sample(**changes))
    errors: list[DumpError] = []
    content = {"rollout_id": 2, "samples": [sample(**changes), sample(index=6)]}
    assert [each.name for each in of_contents("slime", content, skip=errors)] == ["2-6"]
    assert len(errors) == 1


def test_an_empty_response_is_no_sequence_and_evaluations_are_passed_over() -> None:
    assert of_samples(sample(response_length=0, loss_mask=[], rollout_log_probs=[])) == []
    assert of_contents("slime", {"rollout_id": 2, "samples": [sample()]}, file="eval_2.pt") == []


def test_samples_without_a_number_stay_apart() -> None:
    found = of_samples(sample(index=None), sample(index=None))
    assert [each.name for each in found] == ["2-0", "2-1"]


def test_files_of_one_rollout_are_read_together() -> None:
    folder = Path("dump")
    paths: Sequence[Path] = [folder / "train_data" / "12_3.pt", folder / "rollout_data" / "12.pt"]
    assert len({miles.FORMAT.together(path) for path in paths}) == 1
    assert slime.FORMAT.together(paths[0]) != slime.FORMAT.together(folder / "train_data" / "1_3.pt")
    assert slime.FORMAT.together(Path("a/12.pt")) != slime.FORMAT.together(Path("b/12.pt"))
    assert miles.FORMAT.together(Path("a/12_0.pt")) == miles.FORMAT.together(Path("a/12_1.pt"))


def test_samples_that_the_trainer_left_out_are_passed_over(rollouts: list[Rollout], tmp_path: Path) -> None:
    samples = [slime_rollout_sample(each) for each in rollouts]
    samples += [slime_rollout_sample(each) | {"index": each.number + 100} for each in rollouts]
    paths = saved(tmp_path / "rollout_data" / f"{STEP}.pt", {"rollout_id": STEP, "samples": samples})
    found = read("slime", [*paths, *slime_train_file(tmp_path, rollouts)])
    assert [each.name for each in found] == [f"{STEP}-{each.number}" for each in rollouts]
    assert len(read("slime", paths)) == 2 * len(rollouts)


def test_samples_that_share_a_number_are_told_by_their_tokens() -> None:
    """One rollout may be cut into several samples, of which each keeps the rollout's number."""
    sides = [sample(), sample(tokens=[9, 8, 1, 2, 3], weight_versions=["6"])]
    rows = [
        {"sample_index": 5, "tokens": each["tokens"], "response_lengths": 3, "total_lengths": 5, "log_probs": [0.0] * 3}
        for each in sides[::-1]
    ]
    files = [{"rollout_id": 2, "samples": sides}, {"rollout_id": 2, "samples": rows}]
    found = of_contents("slime", *files)
    assert len(found) == 2
    for sequence, version in zip(found, (6, 4), strict=True):
        np.testing.assert_array_equal(sequence.weight_version, [version] * 3)
