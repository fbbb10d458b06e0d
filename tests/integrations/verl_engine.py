"""`python -m tests.integrations.verl_engine FOLDER`: one update by verl's own worker, on the CPU, and by the project.

verl 0.9.1 has no platform for CPUs; the one here is its CUDA platform with torch.cpu behind it. The model is a Qwen2 of
two layers with random weights, the engine fsdp2 on one process. JSON on the last line: loss and norm of the gradient,
verl's and the project's, in bypass mode and where both laws are known.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Any

ROWS, PROMPT, LENGTH, VOCAB = 8, 2, 6, 64
BYPASS, BATCH = "bypass", "batch"


def on_cpu() -> None:
    """verl believes that it has a device."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "VERL_ENGINE_DEVICE")
    os.environ.update(zip(names, ("0", "1", "0", "127.0.0.1", "0", "cuda"), strict=True))
    import torch
    from verl.plugin.platform import platform_manager
    from verl.plugin.platform.platform_cuda import PlatformCUDA

    answers = {"mem_get_info": (0, 0), "get_device_name": "CPU"}

    class Device:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(torch.cpu, name, lambda *args, **kwargs: answers.get(name, 0))

    class Cpu(PlatformCUDA):  # type: ignore[misc]
        device_name, vendor_name, device_module = "cpu", "none", Device()

        def current_device(self) -> str:
            return "cpu"

        def set_device(self, device_index: int) -> None: ...

        def empty_cache(self) -> None: ...

    platform_manager._current_platform = Cpu()
    # A store in this process: no port is needed.
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def model_at(folder: str) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, num_key_value_heads=2, initializer_range=0.3, **sizes))
    model.save_pretrained(folder)
    return model.eval()


def configured(folder: str, mode: str) -> Any:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from verl.utils.config import validate_config

    actor, bypass = "actor_rollout_ref.actor", mode == BYPASS
    own = [f"algorithm.rollout_correction.bypass_mode={bypass}"]
    own += [f"{actor}.policy_loss.loss_mode=jackpot_sim"] if bypass else []
    overrides = [
        *("trainer.n_gpus_per_node=1", "actor_rollout_ref.rollout.name=vllm", f"{actor}.strategy=fsdp2"),
        *(f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.model.use_remove_padding=False"),
        "+actor_rollout_ref.model.override_config.attn_implementation=eager",
        *(f"{actor}.ppo_micro_batch_size_per_gpu={ROWS}", f"{actor}.use_torch_compile=False"),
        *(f"{actor}.fsdp_config.dtype=float32", f"{actor}.fsdp_config.model_dtype=fp32"),
        *(f"{actor}.fsdp_config.use_torch_compile=False", f"{actor}.grad_clip=1e9"),
        f"+{actor}.fsdp_config.mixed_precision={{param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}}",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
        "+algorithm.rollout_correction.correction={kind: jackpot, c1: 2}",
        *own,
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    validate_config(config=config, use_reference_policy=False, use_critic=False)
    OmegaConf.resolve(config)
    return config


def update(folder: str, mode: str) -> dict[str, float]:
    """Loss and norm of the gradient of one update."""
    import torch
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.ppo import rollout_corr_helper
    from verl.utils import tensordict_utils as tu
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig
    from verl.workers.utils.losses import ppo_loss

    from jackpot_sim.integrations.corrected import Loss, Settings, policy_loss, uniforms
    from jackpot_sim.training.objective import Proposed, TokenPass

    model, config = model_at(folder), configured(folder, mode)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, (ROWS, PROMPT + LENGTH), generator=generator)
    new = model(ids).logits[:, PROMPT - 1 : -1].float().log_softmax(-1).gather(-1, ids[:, PROMPT:, None])[..., 0]
    old, mask = new.detach(), torch.ones(ROWS, LENGTH, dtype=torch.bool)
    actor = (old + 0.4 * torch.randn(old.shape, generator=generator)).clamp(max=-1e-3)
    advantage = torch.randn(ROWS, generator=generator)
    fields = {"old_log_probs": actor if mode == BYPASS else old, "response_mask": mask.long()}
    if mode == BATCH:
        data = DataProto.from_dict(tensors=fields | {"rollout_log_probs": actor})
        step = rollout_corr_helper.compute_rollout_correction_and_add_to_batch
        fields = dict(step(data, config.algorithm.rollout_correction)[0].batch.items())
    fields |= {
        "input_ids": ids,
        "position_ids": torch.arange(PROMPT + LENGTH).expand(ROWS, -1).contiguous(),
        "prompts": ids[:, :PROMPT],
        "responses": ids[:, PROMPT:],
        "loss_mask": mask.long(),
        "advantages": advantage[:, None].expand(ROWS, LENGTH).contiguous(),
    }
    nested = {name: torch.nested.as_nested_tensor(list(each), layout=torch.jagged) for name, each in fields.items()}
    batch = TensorDict(nested, batch_size=[ROWS])
    told = {"temperature": 1.0, "global_batch_size": ROWS, "mini_batch_size": ROWS, "dataloader_kwargs": {}}
    tu.assign_non_tensor(batch, calculate_entropy=False, compute_loss=True, epochs=1, seed=1, **told)

    own = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=omega_conf_to_dataclass(config.actor_rollout_ref.model),
            engine_config=own.engine,
            optimizer_config=own.optim,
            checkpoint_config=own.checkpoint,
        )
    )
    worker.engine_config.micro_batch_size_per_gpu, worker.engine_config.use_dynamic_bsz = ROWS, False
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=own))
    metrics = tu.get(worker.train_mini_batch(batch), "metrics")

    settings = Settings.of("{kind: jackpot, c1: 2}")
    given = Proposed(actor, old, mask, advantage, None, None, uniforms(actor, mask), overlap_of_batch=True)
    loss = Loss(clip=None, bypass=True) if mode == BYPASS else Loss()
    total, _ = policy_loss(settings, given, TokenPass(new), loss)
    total.backward()
    norm = torch.nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
    found = {"loss": metrics["actor/pg_loss"][0], "norm": metrics["grad_norm"][0]}
    return {name: float(value) for name, value in found.items()} | {
        "own_loss": float(total.detach()),
        "own_norm": float(norm),
    }


def main() -> None:
    on_cpu()
    from jackpot_sim.integrations.verl import plugin

    plugin.install()
    found = {mode: update(sys.argv[1], mode) for mode in (BYPASS, BATCH)}
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
