"""Lists of 1-D tensors as a batch, and back; the losses of packed rollouts are tested with the hooks of slime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.integrations.packed import padded, padded_like, unpadded


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5), width=st.sampled_from([(), (3,)]))
def test_unpadded_is_the_inverse_of_padded(lengths: list[int], width: tuple[int, ...]) -> None:
    rows = [torch.randn(length, *width) for length in lengths]
    batch = padded(rows)
    assert batch.shape == (len(lengths), max(lengths), *width)
    assert all(torch.equal(*pair) for pair in zip(rows, unpadded(batch, lengths), strict=True))
    assert all(not row[length:].any() for row, length in zip(batch, lengths, strict=True))


def test_a_batch_of_no_rollouts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one rollout"):
        padded([])


def test_rows_of_other_lengths_than_their_masks_are_refused() -> None:
    masks = [torch.ones(2), torch.ones(3)]
    assert padded_like(masks, masks, "rollout_log_probs").shape == (2, 3)
    with pytest.raises(ValueError, match=r"^rollout_log_probs of response 0 has 3 numbers, and its loss mask 2$"):
        padded_like(masks[::-1], masks, "rollout_log_probs")
