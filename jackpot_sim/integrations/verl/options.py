"""The fields of verl's configuration that name a correction, checked before a run and wherever they are used.

algorithm.rollout_correction.correction   a name, or a mapping as studies have it; it needs a + before it
algorithm.rollout_correction.rejected     weight or mask, see `Rejected`; likewise
algorithm.rollout_correction.bypass_mode  verl's own: the policy loss corrects, and not the batch
actor_rollout_ref.actor.policy_loss.loss_mode            jackpot_sim, or jackpot_sim:NAME, in bypass mode
actor_rollout_ref.actor.policy_loss.rollout_correction   what the policy loss sees: `prepare` copies it from above
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.integrations.corrected import Settings
from jackpot_sim.integrations.verl.names import LOSS, is_ours
from jackpot_sim.record.foreign import Config
from jackpot_sim.training.objective import Divisor

LOG_PROBS = "set actor_rollout_ref.rollout.calculate_log_probs=True, with which verl keeps those of its engine"
"""The way to the log-probs of the rollout."""
_ALGORITHM, _ACTOR = "algorithm.rollout_correction", "actor_rollout_ref.actor.policy_loss"


class Rejected(StrEnum):
    """The place of the tokens that a correction's masks reject, in the batch that verl goes on with."""

    WEIGHT = "weight"
    """They weigh 0 and stay in response_mask: losses are divided by all tokens."""
    MASK = "mask"
    """They leave response_mask: KL and entropy do without them, and losses are divided by the tokens that are kept.

    Not so the mode token-mean of main_ppo, whose trainers count tokens in loss_mask, which stays as it was.
    """


@dataclass(frozen=True)
class Options:
    """A correction, and what verl has to know of it."""

    settings: Settings
    """The correction."""
    rejected: Rejected = Rejected.WEIGHT
    """The place of rejected tokens."""
    clips: bool = True
    """True where PPO's clip is around the policy loss of bypass mode."""


def options_of(rollout_correction: Mapping[str, Any], named: str | None = None) -> Options:
    """The options that the mapping `rollout_correction` of a configuration holds.

    Args:
        rollout_correction: the mapping.
        named: the correction, where its name is that of the policy loss.

    Raises:
        ValueError: no correction, two, or one that verl has no place for; one sentence.
    """
    given = rollout_correction.get("correction")
    if (given is None) is (named is None):
        raise ValueError(
            f"the correction is named twice: give loss_mode={LOSS} beside {_ALGORITHM}.correction, or the name alone"
            if named
            else f"no correction is named: give +{_ALGORITHM}.correction=jackpot, or loss_mode={LOSS}:jackpot"
        )
    settings = Settings.of(_plain(given) if named is None else named)  # type: ignore[arg-type]
    if settings.correction.subtracts_mean:
        raise ValueError(f"{settings.correction.name} is no factor on a token's loss, and verl has no place for it")
    for name in ("rollout_is", "rollout_rs"):
        if rollout_correction.get(name) is not None:
            raise ValueError(f"{_ALGORITHM}.{name} is verl's own correction beside ours: leave out one of the two")
    word = rollout_correction.get("rejected") or Rejected.WEIGHT
    if word not in list(Rejected):
        raise ValueError(f"{_ALGORITHM}.rejected must be weight or mask, got {word!r}")
    # PPO's ratio is p_new/q in bypass mode, which a correction with weights would weigh a second time.
    clips = not settings.correction.weighs and rollout_correction.get("loss_type", "ppo_clip") == "ppo_clip"
    found = Options(settings, Rejected(word), clips)
    (_check_loss if rollout_correction.get("bypass_mode") else _check_batch)(found)
    return found


def _check_loss(options: Options) -> None:
    if options.rejected is Rejected.MASK:
        raise ValueError(
            f"in bypass mode verl has counted the tokens before the loss rejects any: leave {_ALGORITHM}.rejected out, "
            "or give the correction divisor: accepted"
        )


def _check_batch(options: Options) -> None:
    """Refuses what a batch cannot have: verl corrects it once, before it knows advantages or p_new."""
    settings = options.settings
    name = settings.correction.name
    if settings.target is UpdateTarget.POLICY:
        raise ValueError(
            f"verl corrects a batch before p_new moves: give {name} without target, or {_ALGORITHM}.bypass_mode=True"
        )
    if "advantages" in settings.correction.needs:
        raise ValueError(
            f"{name} looks at advantages, which verl computes after its rollout correction: set "
            f"{_ALGORITHM}.bypass_mode=True and {_ACTOR}.loss_mode={LOSS}"
        )
    if options.rejected is Rejected.MASK and settings.divisor is not Divisor.PROPOSED:
        raise ValueError(
            f"with {_ALGORITHM}.rejected=mask the divisor is verl's own: give {name} divisor: proposed, or leave "
            "rejected out"
        )


def _plain(value: object) -> object:
    """Plain mappings and lists instead of those of OmegaConf."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def prepare(config: Config) -> None:
    """Checks what a configuration of verl asks of us, and gives the policy loss its copy of `rollout_correction`.

    verl's own bypass mode makes that copy when its workers have their configurations already.

    Raises:
        ValueError: the correction is wrong or has no effect with the rest of the configuration; one sentence.
    """
    asked: Config = config.algorithm.get("rollout_correction") or {}
    actor, rollout = config.actor_rollout_ref.actor.policy_loss, config.actor_rollout_ref.rollout
    mode = str(actor.get("loss_mode", "vanilla"))
    if asked.get("correction") is None and not is_ours(mode):
        return
    if not rollout.get("calculate_log_probs"):
        raise ValueError(f"a correction needs the rollout's log-probs: {LOG_PROBS}")
    if is_ours(mode) and not asked.get("bypass_mode"):
        raise ValueError(
            f"loss_mode={mode} sees no log-probs of the rollout outside bypass mode: set {_ALGORITHM}.bypass_mode=True,"
            f" or leave the loss as it is and give +{_ALGORITHM}.correction"
        )
    if asked.get("bypass_mode") and not is_ours(mode):
        raise ValueError(f"in bypass mode the policy loss corrects: set {_ACTOR}.loss_mode={LOSS}")
    options = options_of(asked, mode.partition(":")[2] or None)
    if mode == "bypass_mode":
        raise ValueError(f"the correction would do nothing with loss_mode={mode}, which uses no weights of a batch")
    if mode == "geo_mean" and options.rejected is Rejected.WEIGHT:
        raise ValueError(
            f"loss_mode={mode} takes the geometric mean of a sequence's weights, which one rejected token brings near "
            f"0: set +{_ALGORITHM}.rejected=mask"
        )
    if is_ours(mode) and actor.get("rollout_correction") is None:
        from omegaconf import open_dict

        with open_dict(actor):
            actor.rollout_correction = asked
