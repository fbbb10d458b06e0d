"""The fused overlap against `obrs.overlap`, and what it refuses."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim.core import fused, obrs

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")


def laws(tokens: int, vocab: int, dtype: torch.dtype) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(tokens)
    logits = 3 * torch.randn(2, tokens, vocab, generator=generator, dtype=torch.float64)
    policy, actor = torch.log_softmax(logits, -1).to(dtype)
    policy[0, 1] = actor[1, 2] = -torch.inf
    return policy, actor


@needs_a_compiler
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-14), (torch.bfloat16, 1e-5)])
def test_it_is_the_overlap(dtype: torch.dtype, rtol: float) -> None:
    for tokens, vocab, lam in ((3, 1000, 1.0), (5, 700, 0.7)):
        policy, actor = laws(tokens, vocab, dtype)
        expected = obrs.overlap_of_checked(policy.double(), actor.double(), lam)
        np.testing.assert_allclose(fused.overlap(policy, actor, lam), expected, rtol=rtol)
    each = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    expected = obrs.overlap_of_checked(policy.double(), actor.double(), each)
    np.testing.assert_allclose(fused.overlap(policy, actor, each), expected, rtol=rtol)
    assert fused.overlap(policy, actor).dtype == torch.promote_types(dtype, torch.float32)


@needs_a_compiler
def test_logits_are_normalised_first() -> None:
    policy, actor = laws(4, 500, torch.float64)
    found = fused.overlap_of_logits(policy + 3, actor - torch.arange(4)[:, None])
    np.testing.assert_allclose(found, fused_reference(policy, actor), rtol=1e-14)


def fused_reference(policy: Any, actor: Any) -> Any:
    normalised = (each - torch.logsumexp(each, -1, keepdim=True) for each in (policy, actor))
    return obrs.overlap(*normalised)


@pytest.mark.parametrize(
    ("policy", "actor", "lam", "error"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), 1.0, TypeError),
        (torch.zeros(2, 3), np.zeros((2, 3)), 1.0, TypeError),
        (torch.zeros(2, 3), torch.zeros(2, 3).double(), 1.0, TypeError),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), 1.0, TypeError),
        (torch.zeros(2, 3), torch.zeros(2, 1), 1.0, ValueError),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0.0, ValueError),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3), ValueError),
    ],
)
def test_wrong_arrays_are_refused(policy: Any, actor: Any, lam: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        fused.overlap(policy, actor, lam)
