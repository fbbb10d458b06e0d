"""prime-rl's sum over sequences and SkyRL's registry, from their own files, with the project's loss in them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from jackpot_sim.integrations import skyrl
from jackpot_sim.integrations.corrected import Loss
from tests.integrations.parity import CORRECTIONS, assert_equal, case
from tests.integrations.real_files.loading import loaded
from tests.integrations.test_prime_rl import inputs_of, own, rows
from tests.integrations.test_skyrl import REDUCTIONS


class CustomLossConfig(SimpleNamespace):
    """prime-rl's `[trainer.loss]` of this name."""

    import_path: str
    kwargs: dict[str, Any]


def prime_rl(folder: Path) -> Iterator[str]:
    """The loss through `setup_rl_loss_fn` and `compute_loss`; the configuration's class is a stand-in."""
    kinds: dict[str, Any] = dict.fromkeys(("DefaultLossConfig", "IPOLossConfig", "LossConfig"), object)
    holds = {"prime_rl.configs.trainer": kinds | {"CustomLossConfig": CustomLossConfig}}
    absent = ("jaxtyping", "beartype", "wandb", "loguru")
    with loaded("prime_rl", [folder / "src"], absent, holds):
        module = import_module("prime_rl.trainer.rl.loss")
        for name, correction in CORRECTIONS.items():
            batch = rows(case(correction, topk=False))
            kwargs = {"correction": dict(correction)}
            path = "jackpot_sim.integrations.prime_rl.corrected_loss"
            loss_function = module.setup_rl_loss_fn(CustomLossConfig(import_path=path, kwargs=kwargs))
            sequences, tokens = [inputs_of(row) for row in batch], sum(int(row.mask.sum()) for row in batch)
            loss, figures = module.compute_loss(
                *([getattr(each, field) for each in sequences] for field in ("trainer_logprobs", "inference_logprobs")),
                *(None, [each.advantages for each in sequences], [each.loss_mask for each in sequences]),
                *(None, None, None, loss_function, tokens, 1, 1),
            )
            gradients = torch.autograd.grad(loss, [row.logits for row in batch])
            expected = [own(row) for row in batch]
            assert_equal(
                (loss, torch.cat(gradients)),
                (sum(each for each, _ in expected) / tokens, torch.cat([each for _, each in expected]) / tokens),
            )
            assert {value.shape for value in figures.values()} == {(len(batch),)}
            yield f"custom loss: {name}"


def skyrl_(folder: Path) -> Iterator[str]:
    """The loss out of `PolicyLossRegistry`, on advantages of `apply_loss_reduction_to_advantages_minibatch`."""
    absent = ("jaxtyping", "loguru", "omegaconf", "skyrl.train.config")
    with loaded("skyrl", [folder], absent, {}):
        module = import_module("skyrl.backends.skyrl_train.utils.ppo_utils")
        none = SimpleNamespace(**dict.fromkeys(skyrl.OWN_CORRECTION))
        config = SimpleNamespace(eps_clip_low=0.2, eps_clip_high=0.28, off_policy_correction=none)
        for name, correction in CORRECTIONS.items():
            skyrl.register(f"corrected {name}", correction, topk=0)
            for reduction, aggregation in REDUCTIONS.items():
                batch = case(correction, topk=False)
                mask, given = batch.mask.float(), batch.given
                scaled = module.apply_loss_reduction_to_advantages_minibatch(
                    batch.advantage[:, None].expand(mask.shape), mask, reduction, len(mask), mask.shape[1]
                )
                loss, _ = module.PolicyLossRegistry.get(f"corrected {name}")(
                    *(batch.new_log_probs(), given.reference_log_probs, scaled),
                    config=config,
                    loss_mask=mask,
                    rollout_logprobs=given.actor_log_probs,
                )
                assert_equal((loss, batch.gradient(loss)), batch.own(Loss(aggregation, clip=0.2, clip_high=0.28)))
            yield f"policy loss: {name}"
        yield from _skyrls_own_tis(module)


def _skyrls_own_tis(module: Any) -> Iterator[str]:
    """SkyRL's truncated importance sampling is that of the project."""
    batch = case({"kind": "tis", "clip": 1.5}, topk=False)
    given, mask = batch.given, batch.mask.float()
    own = dict.fromkeys(skyrl.OWN_CORRECTION) | {"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1.5}
    config = SimpleNamespace(
        policy_loss_type="regular", eps_clip_low=0.2, eps_clip_high=0.28, off_policy_correction=SimpleNamespace(**own)
    )
    scaled = batch.advantage[:, None].expand(mask.shape) / mask.sum()
    loss, _ = module.ppo_policy_loss(
        *(batch.new_log_probs(), given.reference_log_probs, scaled, config, mask, given.actor_log_probs)
    )
    assert_equal((loss, batch.gradient(loss)), batch.own(Loss(clip=0.2, clip_high=0.28)))
    yield "SkyRL's own TIS is tis"
