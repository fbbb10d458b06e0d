"""Corrections in TRL's GRPOTrainer: any of them, Jackpot first.

    from jackpot_sim.integrations.trl import CorrectedGRPOTrainer

    trainer = CorrectedGRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=..., correction="jackpot")

See `trainer` for what is corrected where, and docs/trainers.md for what is logged and what it costs.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from jackpot_sim import requirements
from jackpot_sim.integrations.trl.trainer import CorrectsRollouts
from jackpot_sim.record.foreign import Passed

if TYPE_CHECKING:
    CorrectedGRPOTrainer: Any

__all__ = ["CorrectedGRPOTrainer", "CorrectsRollouts"]


@functools.cache
def _corrected_grpo_trainer() -> type:
    """`CorrectedGRPOTrainer`, made when it is first asked for: TRL is imported then, and not with this module.

    Raises:
        RequirementError: TRL is missing or too old.
    """
    requirements.require_tested("trl", purpose="CorrectedGRPOTrainer")
    return type(
        "CorrectedGRPOTrainer",
        (CorrectsRollouts, importlib.import_module("trl").GRPOTrainer),
        {"__module__": __name__, "__doc__": "TRL's GRPOTrainer with a correction, see `CorrectsRollouts`."},
    )


def __getattr__(name: str) -> Passed:
    if name == "CorrectedGRPOTrainer":
        return _corrected_grpo_trainer()
    raise AttributeError(f"module {__name__} has no attribute {name}")
