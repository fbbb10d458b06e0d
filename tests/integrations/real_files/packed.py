"""The losses of slime and miles from their own files, with the project's hooks in them; Megatron is a stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import Tensor, multiprocessing

from jackpot_sim.integrations import miles, slime
from tests.integrations.packed_batches import AT_REFERENCE, REDUCTIONS, Packed, expected, on_policy
from tests.integrations.parity import CENTRED, CORRECTIONS, assert_equal, case
from tests.integrations.real_files.loading import loaded

OPTIONS: Mapping[str, object] = {
    **dict.fromkeys(("use_rollout_logprobs", "use_opsm", "get_mismatch_metrics", "use_kl_loss", "allgather_cp"), False),
    **dict.fromkeys(("recompute_loss_function", "skip_actor_forward_only", "observe_training_entropy"), False),
    **dict.fromkeys(("use_dynamic_global_batch_size", "true_on_policy_mode", "multi_lora"), False),
    **dict.fromkeys(("eps_clip_c", "custom_pg_loss_reducer_function_path", "dump_details"), None),
    "rollout_top_p": 1.0,
    "rollout_temperature": 1.0,
    "log_probs_chunk_size": -1,
    "entropy_coef": 0.0,
    "advantage_estimator": "grpo",
    "qkv_format": "thd",
    "tis_clip": 1.5,
    "tis_clip_low": 0.0,
}
"""The options of both trainers that their losses read."""
RECOMPUTED = {**OPTIONS, "recompute_loss_function": True}
"""The same, with the loss computed anew in the backward pass."""


def megatron(rank: int, size: int) -> dict[str, dict[str, object]]:
    """Megatron's parallel state on one of `size` processes that share each sequence, and its cross entropy."""

    def cross_entropy(logits: Tensor, ids: Tensor, _: object) -> Tensor:
        return -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]

    state = SimpleNamespace(
        get_context_parallel_rank=lambda: rank,
        get_context_parallel_world_size=lambda: size,
        get_context_parallel_group=lambda: dist.group.WORLD,
        get_tensor_model_parallel_group=lambda: None,
        get_data_parallel_world_size=lambda with_context_parallel=False: 1,
    )
    fused = "megatron.core.fusions.fused_cross_entropy"
    return {
        **{name: {} for name in ("megatron", "megatron.core.fusions")},
        "megatron.core": {"mpu": state},
        fused: {"fused_vocab_parallel_cross_entropy": cross_entropy},
    }


@contextlib.contextmanager
def opened(name: str, folder: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """A trainer's files, on one of `size` processes."""
    heavy = {
        "slime": ("slime.utils.http_utils",),
        "miles": ("miles.utils.http_utils", "miles.utils.audit_utils", "miles.utils.multi_lora", "fla"),
    }
    none = {"miles.utils.multi_lora": {"is_multi_lora_enabled": lambda args: False}} if name == "miles" else {}
    with loaded(name, [folder], heavy[name], megatron(rank, size) | none):
        if name == "miles":
            parallel = import_module("miles.backends.training_utils.parallel")
            mine = SimpleNamespace(rank=rank, size=size, group=dist.group.WORLD if size > 1 else None)
            alone = SimpleNamespace(rank=0, size=1, group=None)
            parallel.set_parallel_state(SimpleNamespace(cp=mine, tp=alone, intra_dp=alone, intra_dp_cp=alone))
        yield


def hooked(
    name: str, packed: Packed, reduction: str, hook: str | None, own: Mapping[str, object] = OPTIONS, **fields: Any
) -> tuple[Tensor, dict[str, Any]]:
    """The trainer's loss of one microbatch that is the whole batch, with a hook or its own TIS, and what it logs."""
    args = packed.arguments(
        **{f"custom_{kind}_function_path": None for kind in ("tis", "loss")},
        calculate_per_token_loss=reduction == "tokens",
        global_batch_size=len(packed.lengths),
    )
    custom = hook == "custom_loss"
    option = "custom_loss_function_path" if custom else "custom_tis_function_path"
    path = {option: None if hook is None else f"jackpot_sim.integrations.{name}.{hook}"}
    vars(args).update(own | path | {"loss_type": "custom_loss" if custom else "policy_loss", "use_tis": not custom})
    batch = packed.fields(**fields) | {"rollout_mask_sums": [each.sum() for each in packed.masks]}
    if name == "slime":
        loss_function = import_module("slime.backends.megatron_utils.loss").loss_function
        loss, count, log = loss_function(args, batch, 1, len(packed.lengths), packed.logits)
    else:
        loss_function = import_module("miles.backends.training_utils.loss").loss_function
        loss, count, log = loss_function(args, batch, 1, packed.logits, True)
    return loss / count, dict(zip(log["keys"], log["values"][1:].tolist(), strict=True))


def checked(name: str, folder: Path) -> Iterator[str]:
    """Both hooks inside the trainer's `loss_function`, then its gather on two processes."""
    with opened(name, folder):
        for correction in AT_REFERENCE:
            for reduction in REDUCTIONS:
                packed = Packed(case(CORRECTIONS[correction], topk=False, divisor="accepted"))
                loss, log = hooked(name, packed, reduction, "tis_function")
                assert_equal((loss, packed.batch.gradient(loss)), expected(packed, reduction))
                assert "jackpot_sim/ratio/max" in log
            yield f"TIS function: {correction}"
        packed = Packed(case({"kind": "tis", "clip": 1.5}, topk=False))
        loss, _ = hooked(name, packed, "samples", None)
        assert_equal((loss, packed.batch.gradient(loss)), expected(packed, "samples"))
        yield "the trainer's own TIS is tis"
        for correction in CORRECTIONS:
            for topk in (False, True):
                batch, fields = case(CORRECTIONS[correction], topk=topk), {}
                if topk:
                    batch = on_policy(batch)
                    fields = {"log_probs": None} | Packed(batch).stored()
                for reduction in REDUCTIONS:
                    loss, _ = hooked(name, Packed(batch), reduction, "custom_loss", **fields)
                    assert_equal((loss, batch.gradient(loss)), expected(Packed(batch), reduction))
            yield f"custom loss, without and with a top-k: {correction}"
        packed = Packed(on_policy(case(CENTRED, topk=True)))
        loss, _ = hooked(name, packed, "samples", "custom_loss", log_probs=None, **packed.stored())
        assert_equal((loss, packed.batch.gradient(loss)), expected(packed, "samples"))
        yield "custom loss: a centred correction"
        loss, _ = hooked(name, packed, "samples", "custom_loss", RECOMPUTED, log_probs=None, **packed.stored())
        loss.backward()
        assert packed.batch.logits.grad is not None
        assert_equal((loss, packed.batch.logits.grad), expected(packed, "samples"))
        yield "the same with --recompute-loss-function"
    multiprocessing.spawn(_shared, (name, folder, _free_port()), nprocs=2)
    yield "TIS function on two processes that share each sequence"


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _shared(rank: int, name: str, folder: Path, port: int) -> None:
    """One of two processes: its part of the loss is that part of the whole's, and the figures are the whole's."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    home = {"slime": "slime.backends.megatron_utils", "miles": "miles.backends.training_utils"}[name]
    hooks = {"slime": slime, "miles": miles}[name]
    with opened(name, folder, rank, 2):
        cut = import_module(f"{home}.cp_utils").slice_log_prob_with_cp
        for correction in AT_REFERENCE:
            packed = Packed(case(CORRECTIONS[correction], topk=False))

            def mine(rows: list[Tensor], packed: Packed = packed) -> list[Tensor]:
                return [cut(row, 2 + len(row), len(row)) for row in rows]

            term, _, figures = packed.tis(
                hooks,
                args=packed.arguments(context_parallel_size=2),
                pg_loss=torch.cat(mine(list(packed.term.split(packed.lengths)))),
                train_log_probs=mine(packed.at_tokens(packed.batch.before)),
                rollout_log_probs=mine(packed.at_tokens(packed.batch.actor)),
            )
            whole, _, of_whole = packed.tis(hooks)
            assert torch.equal(term, torch.cat(mine(list(whole.split(packed.lengths)))))
            assert all(torch.equal(each, of_whole[name][: len(each)]) for name, each in figures.items())
    dist.destroy_process_group()
