"""The part that all integrations share: a correction as a configuration names it, applied to a trainer's batch.

No formula lives here. The weights, the loss and its divisors are those of `jackpot_sim.training.objective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import yaml
from pydantic import ValidationError

from jackpot_sim.core import log_ratios
from jackpot_sim.core.checks import check_per_token
from jackpot_sim.estimators import Correction, Tokens, TokenWeights, UpdateTarget
from jackpot_sim.estimators.sequences.updates import require_target
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.training import objective
from jackpot_sim.training.objective import Aggregation, Divisor, PolicyLoss, Proposed, Scored

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """A correction and all that a trainer has to know of it."""

    correction: Correction
    """The correction."""
    target: UpdateTarget = UpdateTarget.REFERENCE
    """The policy that it leads to: p_ref, the one before the update, or p_new."""
    divisor: Divisor = Divisor.PROPOSED
    """The divisor of the weighted sum, beside the trainer's own: 1, the share kept, or the mean weight."""
    topk: int = 20
    """The actor's likeliest tokens that are kept for Ẑ; 0: Ẑ is the mean acceptance probability of the batch."""
    seed: int = 0
    """The seed of the masks that are drawn."""

    def __post_init__(self) -> None:
        require_target(self.correction, self.target)
        if self.topk < 0:
            raise ValueError(f"topk must be at least 0, got {self.topk}")

    @classmethod
    def of(
        cls, correction: Settings | Correction | EstimatorSpec | Mapping[str, object] | str, **own: object
    ) -> Settings:
        """The settings that a configuration names.

        >>> Settings.of("{kind: jackpot, c1: 3, divisor: accepted}").divisor
        <Divisor.ACCEPTED: 'accepted'>

        Args:
            correction: an object, a name or a preset (`verl:decoupled_token_is`), or a mapping as studies have it,
                in which `divisor`, `topk` and `seed` may stand beside the correction's fields; also as YAML or JSON.
            **own: `divisor`, `topk`, `seed` and, for an object, `target`: they count for more than the mapping.

        Raises:
            TypeError: the correction is none of these.
            ValueError: no such correction, no such field, or a value outside its range; one sentence.
        """
        if isinstance(correction, Settings):
            return _made(dataclasses.asdict(correction) | {"correction": correction.correction} | own)
        if isinstance(correction, Correction):
            return _made({"correction": correction} | own)
        if isinstance(correction, str):
            correction = _read(correction)
        if isinstance(correction, Mapping):
            beside = {name: correction[name] for name in ("divisor", "topk", "seed") if name in correction}
            own = beside | own
            correction = _spec({name: value for name, value in correction.items() if name not in beside})
        if not isinstance(correction, EstimatorSpec):
            given_as = f"the class {correction.__name__}" if isinstance(correction, type) else repr(correction)
            raise TypeError(
                f"the correction is {given_as}: give a name (jackpot), a preset (verl:decoupled_token_is), a mapping "
                "({kind: jackpot, c1: 3}) or YAML of one, or a correction or Settings object"
            )
        if correction.acceptance_rate is not None:
            raise ValueError("acceptance_rate is solved for from whole laws, which a trainer does not have: give lam")
        given: dict[str, object] = {"target": correction.target, "divisor": Divisor.of(correction.denominator)}
        return _made({"correction": correction.correction()} | given | own)

    @property
    def needs_topk(self) -> bool:
        """True where the correction uses the actor's likeliest tokens: for Ẑ, or for a mean that is subtracted."""
        return self.correction.subtracts_mean or (self.correction.overlap_lam is not None and self.topk > 0)


def _read(text: str) -> Mapping[str, object]:
    """The mapping that a text stands for: a name alone, or YAML."""
    if "{" not in text and "\n" not in text and ": " not in text:
        return {"kind": text.strip()}
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the correction {text!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, Mapping):
        raise ValueError(f"the correction {text!r} is no name and no mapping: write {{kind: jackpot, c1: 3}}")
    return read


def _spec(fields: Mapping[str, object]) -> EstimatorSpec:
    if "kind" not in fields:
        raise ValueError("the correction has no kind: write {kind: jackpot, c1: 3}")
    try:
        return EstimatorSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        sentence = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{place}: {sentence}" if place else sentence) from error


def _made(fields: Mapping[str, object]) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"there is no setting {unknown[0]} (there are {', '.join(sorted(known - {'correction'}))})")
    made = dict(fields)
    for name, kind in (("target", UpdateTarget), ("divisor", Divisor)):
        if name in made:
            try:
                made[name] = kind(str(made[name]))
            except ValueError:
                raise ValueError(f"{name} {made[name]!r} is none of {', '.join(map(str, kind))}") from None
    for name in ("topk", "seed"):
        if name in made and (isinstance(made[name], bool) or not isinstance(made[name], int)):
            raise ValueError(f"{name} must be a whole number, got {made[name]!r}")
    return Settings(**made)  # type: ignore[arg-type]


_ROUNDING = 0.1
"""The log-prob above 0 that the rounding of logits in half precision may leave, nats."""


def _require_log_probs(log_probs: Tensor, mask: Tensor, name: str, *, written: bool = False) -> None:
    """Refuses numbers of tokens that are no log-probs, such as probabilities, or log-probs with the other sign.

    Args:
        log_probs: (n, length).
        mask: True on tokens, the same shape.
        name: the trainer's name for them.
        written: they are of the policy that wrote the tokens, to which none of them is impossible.

    Raises:
        ValueError: see above.
    """
    bad = mask & ~(log_probs <= _ROUNDING)
    if written:
        bad = bad | (mask & log_probs.isneginf())
    if bool(bad.any()):
        row, at = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds {float(log_probs[row, at]):g} at token {at} of row {row}: log-probs are logarithms of "
            f"probabilities, at most 0{', and finite for a token that was written' * written}"
        )


def _require_policys(given: Proposed, new: Scored) -> None:
    new.check(given.mask)
    _require_log_probs(given.reference_log_probs, given.mask, "log p_ref, the policy's from before the update,")
    _require_log_probs(new.log_probs.detach(), given.mask, "log p_new, the policy's under way,")


@dataclass(frozen=True)
class Loss:
    """The trainer's own loss around the correction, as `training.config.Update` has it."""

    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    """The way from tokens to one loss."""
    clip: float | None = 0.2
    """PPO's ε below 1 and, unless `clip_high` is given, above it; None does not clip."""
    clip_high: float | None = None
    """PPO's ε above 1."""
    bypass: bool = False
    """The rollout's log-probs take the place of p_ref's; without a clip, the correction that of PPO's ratio."""


class Corrected(NamedTuple):
    """A correction's effect on the tokens of a batch; (n, length), without a graph, 0 at padding."""

    tokens: Tokens
    """The tokens as the correction saw them."""
    weights: TokenWeights[Tensor]
    """Accept probability and weight."""
    accepted: Tensor
    """m: True on the tokens that are kept."""
    factor: Tensor
    """m·w over the divisor, in the precision of the trainer's log-probs: what multiplies a token's loss."""
    divisor: float
    """The divisor."""
    clipped: Tensor | None = None
    """True on the tokens whose term PPO clips, where the loss is the project's and has a clip."""


def correct(settings: Settings, given: Proposed, new: Scored) -> Corrected:
    """The factor by which a trainer multiplies each token's own loss.

    Args:
        settings: the correction.
        given: the batch.
        new: the policy's log-probs under way; only the target p_new looks at them.

    Raises:
        ValueError: as `objective.weigh`, a number is no log-prob, or the correction subtracts a mean, which no factor
            can do.
    """
    _require_policys(given, new)
    if settings.correction.subtracts_mean:
        raise ValueError(f"{settings.correction.name} is no factor on a token's loss: use the trainer's custom loss")
    tokens = objective.tokens_of(settings.correction, settings.target, given, new)
    weights = objective.weights_of(settings.correction, tokens)
    accepted, factor = objective.draw(weights, given.uniforms)
    return _corrected(settings, given, tokens, weights, accepted, factor)


def policy_loss(
    settings: Settings, given: Proposed, new: Scored, loss: Loss, shares: Tensor | None = None
) -> tuple[Tensor, Corrected]:
    """The project's own loss of a batch, divided as the settings say, with its graph; and what the correction did.

    Args:
        settings: the correction.
        given: the batch.
        new: the policy's log-probs under way, with their graph.
        loss: the loss around the correction.
        shares: the share of each token in the trainer's loss, (n, length); None: those of the loss's aggregation.

    Raises:
        ValueError: as `objective.policy_loss`, or a number is no log-prob.
    """
    _require_policys(given, new)
    found: PolicyLoss = objective.policy_loss(settings.correction, settings.target, given, new, loss, shares)
    assert found.tokens is not None
    corrected = _corrected(settings, given, found.tokens, found.weights, found.accepted, found.factor)
    return found.loss / corrected.divisor, corrected._replace(clipped=found.clipped)


def _corrected(
    settings: Settings, given: Proposed, tokens: Tokens, weights: TokenWeights[Tensor], accepted: Tensor, factor: Tensor
) -> Corrected:
    divisor = objective.divisor(settings.divisor, accepted, factor, given.mask, settings.correction.unit)
    return Corrected(tokens, weights, accepted, (factor / divisor).to(given.actor_log_probs.dtype), divisor)


# --- The uniforms that draw masks -------------------------------------------------------------------------------------

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The constants of SplitMix64 as signed numbers (Steele, Lea and Flood, 2014)."""


def uniforms(actor_log_probs: Tensor, mask: Tensor, seed: int = 0, *, name: str = "actor_log_probs") -> Tensor:
    """Numbers in [0, 1) that decide which tokens are kept, float64 (n, length).

    They are a hash of the log-probs of the token's whole rollout, its place in it, and the seed: the same in each
    epoch, however rollouts are packed or padded, and on processes that hold copies of them; and no random state of the
    trainer moves. Rollouts that are equal bit for bit are told apart by their order in the batch, and share theirs
    with those of other batches.

    Args:
        actor_log_probs: log q of every token, (n, length), nats.
        mask: True on tokens, the same shape.
        seed: the seed.
        name: the trainer's name for the log-probs.

    Raises:
        TypeError: the mask is not boolean, or the log-probs are no real floating numbers.
        ValueError: a shape differs, a number is no log-prob, or as `require_float64`.
    """
    import torch

    check_per_token(mask, **{name: actor_log_probs})
    _require_log_probs(actor_log_probs, mask, name, written=True)
    require_float64(actor_log_probs.device)
    bits = actor_log_probs.detach().float().contiguous().view(torch.int32).long()
    place = mask.long().cumsum(-1)
    own = _mixed(bits ^ (place * _GOLDEN))
    rollout = torch.where(mask, own, torch.zeros_like(own)).sum(-1, keepdim=True)
    rollout = rollout + _signed(seed * _GOLDEN) + _equal_before(rollout) * _FIRST
    mixed = _mixed(_mixed(rollout) + place * _GOLDEN)
    return _shifted(mixed, 11).double() * 2.0**-53


def require_float64(device: torch.device) -> None:
    """Refuses a device on which a correction cannot be computed.

    Raises:
        ValueError: it has no float64.
    """
    if device.type == "mps":
        raise ValueError(
            "corrections are computed in float64, which mps has not: train on a CPU (use_cpu=True in TRL) or with CUDA"
        )


def _equal_before(numbers: Tensor) -> Tensor:
    """The number of equal numbers before each, (n, 1)."""
    import torch

    ordered, order = numbers[:, 0].sort(stable=True)
    at = torch.arange(len(order), device=order.device)
    at -= torch.searchsorted(ordered, ordered)
    return torch.empty_like(at).scatter_(0, order, at)[:, None]


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64, on int64 that wraps."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _signed(number: int) -> int:
    """A whole number modulo 2^64, as int64 has it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """The logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


# --- What trainers log ------------------------------------------------------------------------------------------------


def agreement(settings: Settings) -> dict[str, float]:
    """The `metrics` of a batch on which actor and policy agree: for trainers whose microbatch may hold no token."""
    overlap = () if settings.correction.overlap_lam is None else ("overlap/mean", "overlap/p05", "overlap/p50")
    return _AGREEMENT | dict.fromkeys(overlap, 1.0)


_AGREEMENT = dict.fromkeys(("ratio/mean", "ratio/min", "ratio/max"), 1.0)
_AGREEMENT |= dict.fromkeys(("log_ratio/abs_mean", "log_ratio/abs_max", "kl", "masked_share"), 0.0)
_AGREEMENT |= dict.fromkeys(("acceptance_rate", "weight/mean", "weight/max", "ess", "divisor"), 1.0)


def metrics(corrected: Corrected, given: Proposed) -> dict[str, float]:
    """Figures of a batch for a trainer's log, by plain names.

    Ratios are raw, before any truncation: `ratio/mean`, `ratio/min`, `ratio/max`, `log_ratio/abs_mean`,
    `log_ratio/abs_max` (nats), `kl` (k3 of actor‖policy, nats). Of the correction: `masked_share` (tokens whose mask
    rejects them), `acceptance_rate` (mean accept probability), `weight/mean`, `weight/max`, `ess` (the effective share
    of the tokens under m·w; 0 where none is kept), `divisor`. Where Ẑ is used: `overlap/mean`, `overlap/p05` and
    `overlap/p50`.

    Args:
        corrected: what `correct` or `policy_loss` gave.
        given: the batch, with at least one token.

    Raises:
        ValueError: no token is in the mask.
    """
    import torch

    mask = given.mask
    if not bool(mask.any()):
        raise ValueError("the batch has no token in its mask: there is nothing to measure")
    log_ratio = torch.as_tensor(corrected.tokens.log_ratio)[mask]
    ratio, factor = log_ratio.exp(), corrected.factor[mask].double()
    found = {
        "ratio/mean": ratio.mean(),
        "ratio/min": ratio.min(),
        "ratio/max": ratio.max(),
        "log_ratio/abs_mean": log_ratio.abs().mean(),
        "log_ratio/abs_max": log_ratio.abs().max(),
        "kl": torch.as_tensor(log_ratios.k3(log_ratio)).mean(),
        "masked_share": 1 - corrected.accepted[mask].double().mean(),
        "acceptance_rate": corrected.weights.accept[mask].mean(),
        "weight/mean": factor.mean(),
        "weight/max": factor.max(),
        # A number where no token is kept: trainers take means over microbatches.
        "ess": torch.where(factor.max() == 0, 0.0, torch.as_tensor(log_ratios.effective_sample_size(factor))),
        "divisor": factor.new_tensor(corrected.divisor),
    }
    if corrected.tokens.overlap is not None:
        overlap = torch.as_tensor(corrected.tokens.overlap)[mask].sort().values
        found["overlap/mean"] = overlap.mean()
        for name, share in (("p05", 0.05), ("p50", 0.5)):
            found[f"overlap/{name}"] = overlap[int(share * (len(overlap) - 1))]
    return dict(zip(found, torch.stack([each.double() for each in found.values()]).tolist(), strict=True))
