"""Divisors and figures of two processes, by an accelerator that gathers what both have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jackpot_sim.integrations.corrected import Corrected, Settings
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
@pytest.mark.parametrize("name", ["tis", "sequence-tis"])
def test_the_divisor_is_that_of_the_tokens_of_both(name: str, kind: Divisor) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5)[None, :] < torch.tensor([[4], [2], [5], [0], [3]])
    accepted = mask & (torch.rand(5, 5, generator=generator) < 0.6) & torch.tensor([[True]] * 4 + [[False]])
    factor = torch.where(accepted, torch.rand(5, 5, generator=generator).double(), 0.0)
    settings = Settings.of(name, divisor=kind)
    of_all = objective.divisor(kind, accepted, factor, mask, settings.correction.unit)
    own, other = mask[:2, :4], torch.stack([mask.double(), accepted.double(), factor], dim=1)[2:]
    here = objective.divisor(kind, accepted[:2], factor[:2], mask[:2], settings.correction.unit)
    found = Corrected(Any, Any, accepted[:2, :4], factor[:2, :4] / here, here)  # type: ignore[arg-type]
    found = divided(Two(other), settings, found, own)
    assert found.divisor == pytest.approx(of_all)
    assert (here == of_all) is (kind is Divisor.PROPOSED)
    assert torch.allclose(found.factor, factor[:2, :4] / of_all)


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
