"""Divisors and figures of two processes, by an accelerator that gathers what both have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jackpot_sim.integrations.corrected import Settings
from jackpot_sim.integrations.trl.processes import divided, figures_of_all
from jackpot_sim.training import objective
from jackpot_sim.training.objective import Divisor

torch = pytest.importorskip("torch")


class Two:
    """An accelerator of two processes, of which the other has these tensors, padded to a common length."""

    num_processes, device = 2, "cpu"

    def __init__(self, other: Any) -> None:
        self.other = other

    def pad_across_processes(self, own: Any, dim: int) -> Any:
        return torch.nn.functional.pad(own, (0, self.other.shape[dim] - own.shape[dim]))

    def gather(self, own: Any) -> Any:
        return torch.cat([own, self.other])


@pytest.mark.parametrize("kind", list(Divisor))
def test_the_divisor_is_that_of_the_tokens_of_both(kind: Divisor) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[4], [2], [5], [0], [3]])
    mask = torch.arange(5)[None, :] < lengths
    accepted = mask & (torch.rand(5, 5, generator=generator) < 0.6)
    factor = torch.where(accepted, torch.rand(5, 5, generator=generator).double(), 0.0)
    settings = Settings.of("tis", divisor=kind)
    whole, own = mask.any(-1), slice(0, 2)
    expected = factor / objective.divisor(kind, accepted[whole], factor[whole], mask[whole])
    here = objective.divisor(kind, accepted[own, :4], factor[own, :4], mask[own, :4])
    other = torch.stack([mask.double(), accepted.double(), factor], dim=1)[2:]
    found = divided(Two(other), settings, factor[own, :4] / here, accepted[own, :4], mask[own, :4], here)
    assert torch.allclose(found, expected[own, :4])


def test_a_process_without_tokens_leaves_means_and_extremes_to_the_other() -> None:
    names = {"ratio/mean": 1.5, "ratio/min": 0.5, "ratio/max": 3.0, "log_ratio/abs_max": 1.0, "missing_share": 0.25}
    other = torch.tensor([[2.5, 0.1, 2.0, 0.5, 2.0, *[math.nan] * 10, 0.75]], dtype=torch.float64)
    found = figures_of_all(Two(other), names)
    assert found == {
        "ratio/mean": 2.0,
        "ratio/min": 0.1,
        "ratio/max": 3.0,
        "log_ratio/abs_mean": 0.5,
        "log_ratio/abs_max": 2.0,
        "missing_share": 0.5,
    }
    assert figures_of_all(Two(other), {})["ratio/max"] == 2.0
