"""The divisor of a micro-batch over all processes, and its figures for the log."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_mask
from jackpot_sim.integrations.corrected import Corrected, Settings
from jackpot_sim.record.foreign import Trainer
from jackpot_sim.training import objective
from jackpot_sim.training.objective import Divisor

if TYPE_CHECKING:
    from torch import Tensor

FIGURES = (
    *("ratio/mean", "ratio/min", "ratio/max", "log_ratio/abs_mean", "log_ratio/abs_max", "kl", "masked_share"),
    *("acceptance_rate", "weight/mean", "weight/max", "ess", "divisor", "overlap/mean", "overlap/p05", "overlap/p50"),
    "missing_share",
)
"""The figures of a log, `correction/…`: those of `corrected.metrics`, and the share of tokens without a log-prob."""


def divided(accelerator: Trainer, settings: Settings, found: Corrected, mask: Tensor) -> Corrected:
    """The correction of this process's micro-batch, over the divisor of the micro-batch of all processes.

    Args:
        accelerator: TRL's.
        settings: the correction's.
        found: the correction, over this process's divisor.
        mask: True on tokens, (B, T).

    Raises:
        TypeError: the mask is not boolean.
        ValueError: it has another shape.
    """
    import torch

    check_mask(mask, found.factor, "found.factor")
    if accelerator.num_processes == 1 or settings.divisor is Divisor.PROPOSED:
        return found
    own = torch.stack([mask.double(), found.accepted.double(), found.factor.double() * found.divisor], dim=1)
    every = accelerator.gather(accelerator.pad_across_processes(own, dim=2))
    mask, accepted, factor = every[:, 0] > 0, every[:, 1] > 0, every[:, 2]
    divisor = objective.divisor(settings.divisor, accepted, factor, mask, settings.correction.unit)
    return found._replace(factor=found.factor * (found.divisor / divisor), divisor=divisor)


def figures_of_all(accelerator: Trainer, figures: Mapping[str, float]) -> dict[str, float]:
    """The means of figures over processes, and of smallest and largest ones those; without what no process has.

    Args:
        accelerator: TRL's.
        figures: this process's, by names of `FIGURES`.
    """
    import torch

    every = [[figures.get(name, math.nan) for name in FIGURES]]
    if accelerator.num_processes > 1:
        own = torch.tensor(every, dtype=torch.float64, device=accelerator.device)
        every = accelerator.gather(own).tolist()
    found = {}
    for name, values in zip(FIGURES, zip(*every, strict=True), strict=True):
        if known := [value for value in values if not math.isnan(value)]:
            whole = {"min": min, "max": max}.get(name.rpartition("/")[2].removeprefix("abs_"), statistics.fmean)
            found[name] = float(whole(known))
    return found
