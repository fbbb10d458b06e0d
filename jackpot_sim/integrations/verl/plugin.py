"""The plugin that verl loads: policy losses by name, and our step in the place of its rollout correction.

Where verl is not being imported, an import of this module does nothing. Our modules wait until a run asks for them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING

from jackpot_sim.integrations.verl.names import LOSS, NAMED

if TYPE_CHECKING:
    from torch import Tensor

PolicyLoss = Callable[..., "tuple[Tensor, dict[str, float]]"]
"""A policy loss as verl calls it."""

_HELPER, _STEP = "verl.trainer.ppo.rollout_corr_helper", "compute_rollout_correction_and_add_to_batch"
_CONFIG, _CHECK = "verl.utils.config", "validate_config"

_replaced: list[tuple[ModuleType, str, object]] = []
"""Where verl's functions were replaced, and by which originals."""


def install() -> None:
    """Registers the policy losses, and replaces verl's rollout correction and its check of a configuration.

    Both do what verl's do where a configuration names no correction of ours. A second call changes nothing.

    Raises:
        RequirementError: verl is missing or too old.
        ImportError: its modules are not where 0.9.1 has them.
    """
    from jackpot_sim.requirements import require_tested

    if _replaced:
        return
    require_tested("verl", purpose="the plugin for verl")
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    for name in (None, *NAMED):
        core.register_policy_loss(LOSS if name is None else f"{LOSS}:{name}")(_loss(name))
    _replace(_HELPER, _STEP, _step)
    _replace(_CONFIG, _CHECK, _check)


def uninstall() -> None:
    """Takes back all that `install` did, in modules too that have imported it since."""
    core = sys.modules.get("verl.trainer.ppo.core_algos")
    if core is not None:
        for name in [each for each in core.POLICY_LOSS_REGISTRY if each == LOSS or each.startswith(f"{LOSS}:")]:
            del core.POLICY_LOSS_REGISTRY[name]
    for module, name, original in _replaced:
        _everywhere(name, getattr(module, name), original)
    _replaced.clear()


def _replace(module: str, name: str, around: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    home = importlib.import_module(module)
    original = getattr(home, name)
    _replaced.append((home, name, original))
    _everywhere(name, original, around(original))


def _everywhere(name: str, old: object, new: object) -> None:
    """Puts a function in the place of another in all of verl's modules that have it by this name."""
    for path, module in list(sys.modules.items()):
        if path.split(".")[0] == "verl" and vars(module).get(name) is old:
            setattr(module, name, new)


# --- What stands in verl: thin, so that our modules are imported by a run that asks for them -------------------------


def _loss(correction: str | None) -> PolicyLoss:
    """The policy loss of a name; None: of the configuration."""

    def loss(*args: object, **kwargs: object) -> tuple[Tensor, dict[str, float]]:
        from jackpot_sim.integrations.verl.losses import policy_loss

        return policy_loss(*args, named=correction, **kwargs)  # type: ignore[arg-type]

    return loss


def _step(original: Callable[..., object]) -> Callable[..., object]:
    @wraps(original)
    def step(batch: object, rollout_corr_config: Mapping[str, object]) -> object:
        if rollout_corr_config.get("correction") is None:
            return original(batch, rollout_corr_config)
        from jackpot_sim.integrations.verl.batches import correct_batch

        return correct_batch(batch, rollout_corr_config)

    return step


def _check(original: Callable[..., object]) -> Callable[..., object]:
    @wraps(original)
    def check(config: object, *args: object, **kwargs: object) -> object:
        from jackpot_sim.integrations.verl.options import prepare

        prepare(config)
        return original(config, *args, **kwargs)

    return check


if "verl" in sys.modules:
    try:
        install()
    except Exception as error:
        # verl would tell its debug log alone, and miss the policy loss later.
        warnings.warn(f"jackpot_sim could not be installed in verl: {error}", stacklevel=2)
        raise
