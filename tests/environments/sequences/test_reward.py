"""Rewards of whole sequences: what they are, and that they belong to the sequence alone."""

import numpy as np
import pytest
from scipy import stats

from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sequences.reward import (
    DistinctShareReward,
    RandomReward,
    Reward,
    SumReward,
    TokenShareReward,
)

SEQUENCES = PrefixTree(5, 5, end_token=4).sequences
TOKENS = np.array([[1, 2, 3], [4, 4, 1], [2, 4, 9]])
MASK = np.array([[True, True, True], [True, True, True], [True, True, False]])


def fresh(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_sums_count_all_tokens_that_are_there() -> None:
    assert SumReward(modulus=3, target=0).of(TOKENS, MASK, 10, fresh()).tolist() == [1.0, 1.0, 1.0]
    assert SumReward(modulus=4, target=2).of(TOKENS, MASK, 10, fresh()).tolist() == [1.0, 0.0, 1.0]


def test_shares_are_of_the_tokens_that_are_there() -> None:
    assert TokenShareReward(token=4).of(TOKENS, MASK, 10, fresh()).tolist() == [0.0, 2 / 3, 1 / 2]
    with pytest.raises(ValueError, match=r"token of the reward must be an integer from 0 to 3, got 4"):
        TokenShareReward(token=4).of(TOKENS, MASK, 4, fresh())


@pytest.mark.parametrize("reward", [SumReward(), RandomReward(), TokenShareReward()], ids=lambda each: each.kind)
def test_a_sequence_has_one_reward_wherever_it_is_met(reward: Reward) -> None:
    token, mask = SEQUENCES.token, SEQUENCES.mask
    everywhere = reward.of(token, mask, 5, fresh())
    rows = np.random.default_rng(1).integers(len(token), size=300)
    padding = np.where(mask, token, 3)  # whatever stands where there is no token
    np.testing.assert_array_equal(reward.of(padding[rows], mask[rows], 5, fresh()), everywhere[rows])


def test_random_rewards_are_normal_and_independent() -> None:
    drawn = RandomReward(scale=2.0).of(SEQUENCES.token, SEQUENCES.mask, 5, fresh())
    assert len(np.unique(drawn)) == len(drawn) == 1365
    assert stats.kstest(drawn / 2, "norm").pvalue > 0.01
    # Sequences that differ in their last token alone.
    last = drawn[-1024:].reshape(-1, 4)
    correlation = np.corrcoef(last.T)[np.triu_indices(4, 1)]
    assert np.max(np.abs(correlation)) < 4 / np.sqrt(len(last))
    assert np.any(drawn != RandomReward(scale=2.0).of(SEQUENCES.token, SEQUENCES.mask, 5, fresh(1)))


def test_bad_numbers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^target must be an integer from 0 to 2, got 3"):
        SumReward(modulus=3, target=3)
    with pytest.raises(ValueError, match=r"^modulus must be"):
        SumReward(modulus=1)
    with pytest.raises(ValueError, match=r"^scale must be positive"):
        RandomReward(scale=0.0)
    with pytest.raises(ValueError, match=r"^token must be"):
        TokenShareReward(token=-1)


@pytest.mark.parametrize(
    "reward", [SumReward(), RandomReward(), TokenShareReward(), DistinctShareReward()], ids=lambda each: each.kind
)
def test_tokens_and_mask_have_one_shape_and_are_integers_and_flags(reward: Reward) -> None:
    for tokens, mask in (
        (TOKENS, MASK.astype(int)),
        (TOKENS, MASK[:, :1]),
        (TOKENS, MASK[:1]),
        (TOKENS, MASK[0]),
        (TOKENS[0], MASK[0]),
        (TOKENS, ~MASK),
        (TOKENS * 1.0, MASK),
        (TOKENS - 2, MASK),
    ):
        with pytest.raises((TypeError, ValueError), match=r"tokens|mask"):
            reward.of(tokens, mask, 10, fresh())
