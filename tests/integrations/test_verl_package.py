"""verl itself, where it is installed: `python -m tests.integrations.verl_environment` runs these in its environment."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jackpot_sim.integrations.corrected import Loss, Settings, correct
from jackpot_sim.integrations.verl import plugin
from jackpot_sim.integrations.verl.options import options_of
from jackpot_sim.training.objective import TokenPass
from tests.cases import each
from tests.integrations import verl_stand_ins
from tests.integrations.parity import CORRECTIONS, LENGTH, ROWS, assert_equal, case
from tests.integrations.test_verl import step, verl_batch

pytest.importorskip("verl")
pytestmark = pytest.mark.filterwarnings("default")  # verl's modules warn of packages that it would like to have

ROOT = Path(__file__).parents[2]
BASE = [
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.name=vllm",
    "trainer.n_gpus_per_node=1",
]
"""What verl asks of every run."""
PAGE = (ROOT / "docs/trainers.md").read_text()
COMMANDS = [
    shlex.split(found.replace("\\\n", " "))[3:]
    for found in re.findall(r"```bash\n(python -m verl\.trainer\.main_ppo.*?)```", PAGE, re.DOTALL)
]
LOG_PROBS = "actor_rollout_ref.rollout.calculate_log_probs=True"
NO_LOG_PROBS = "actor_rollout_ref.rollout.calculate_log_probs=False"
BYPASS = "algorithm.rollout_correction.bypass_mode=True"
LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode=jackpot_sim:tis"


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    plugin.install()
    yield
    plugin.uninstall()


def composed(overrides: list[str]) -> Any:
    """verl's configuration with overrides, after verl's own check, as its main hands it to its workers."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    config_module = importlib.import_module("verl.utils.config")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=BASE + overrides)
    config_module.validate_config(config=config, use_reference_policy=False, use_critic=False)
    config = pickle.loads(pickle.dumps(config))
    OmegaConf.resolve(config)
    return config


# --- The stand-ins ----------------------------------------------------------------------------------------------------


@each("path", verl_stand_ins.MODULES)
def test_stand_ins_have_verls_signatures(path: str) -> None:
    plugin.uninstall()
    module = importlib.import_module(path)
    for name in verl_stand_ins.MODULES[path]:
        ours, theirs = getattr(verl_stand_ins, name), getattr(module, name)
        if callable(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


@each("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"])
def test_stand_ins_compute_what_verl_does(mode: str) -> None:
    from verl.trainer.ppo import core_algos

    batch = case(CORRECTIONS["tis"], topk=False)
    mask = batch.mask.clone()
    mask[1] = False
    for counts in ({}, {"dp_size": 2, "batch_num_tokens": 50, "global_batch_size": 8, "loss_scale_factor": 7}):
        losses = (batch.new_log_probs().detach(), mask, mode)
        torch.testing.assert_close(
            verl_stand_ins.agg_loss(*losses, **counts),
            core_algos.agg_loss(*losses, **counts),  # type: ignore[arg-type]
        )
    config = verl_stand_ins.actor_config({}, clip_ratio_c=3.0)
    told = {
        "old_log_prob": batch.given.reference_log_probs,
        "log_prob": batch.new_log_probs().detach(),
        "advantages": batch.advantage[:, None].expand(ROWS, LENGTH),
        "response_mask": mask,
        "loss_agg_mode": mode,
        "config": config,
        "rollout_is_weights": torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(0)),
    }
    ours, theirs = (each.compute_policy_loss_vanilla(**told)[0] for each in (verl_stand_ins, core_algos))
    torch.testing.assert_close(ours, theirs)


# --- Loading and configuration ----------------------------------------------------------------------------------------


def test_verl_loads_the_plugin_by_its_entry_point(tmp_path: Path) -> None:
    """As installed: the entry point of pyproject.toml in a distribution's metadata, and a fresh process."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["verl.plugins"]
    info = tmp_path / "of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-test\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {target}" for name, target in groups.items())
    (info / "entry_points.txt").write_text(f"[verl.plugins]\n{lines}\n")
    code = (
        "import sys, verl\n"
        "assert 'jackpot_sim.integrations.corrected' not in sys.modules\n"
        "from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY as names\n"
        "from verl.utils.config import validate_config\n"
        "assert 'jackpot_sim' in names and 'jackpot_sim:jackpot' in names\n"
        "assert hasattr(validate_config, '__wrapped__')"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"PYTHONPATH": path})
    code = (
        "import verl; from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY as n; assert 'jackpot_sim' not in n"
    )
    off = {"PYTHONPATH": path, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | off)


def test_the_page_has_commands_of_both_kinds() -> None:
    assert len(COMMANDS) == 3
    assert sum(BYPASS in command for command in COMMANDS) == 2


@pytest.mark.parametrize("at", range(len(COMMANDS)))
def test_the_commands_of_the_page_compose_and_train(at: int) -> None:
    """The configuration as verl makes it, through its workers' own loss, equals the project's loss."""
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(COMMANDS[at])
    actor = omega_conf_to_dataclass(pickle.loads(pickle.dumps(config.actor_rollout_ref)).actor)
    bypass = BYPASS in COMMANDS[at]
    batch = case({"kind": "jackpot", "c1": 3}, topk=False, divisor="accepted" if at == 2 else "proposed")
    weights = None
    if not bypass:
        data, _ = step(verl_batch(batch), config.algorithm.rollout_correction)
        weights = data.batch["rollout_is_weights"]
    old = batch.given.actor_log_probs if bypass else batch.given.reference_log_probs
    loss, metrics = workers_loss(actor, batch, old, weights)
    assert_equal((loss, batch.gradient(loss)), batch.own(Loss(clip=None if bypass else 0.2, bypass=bypass)))
    assert ("rollout_corr/jackpot_sim/overlap/of_batch" in metrics) is bypass


def workers_loss(actor: Any, batch: Any, old: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
    """verl's `ppo_loss`, which its workers call on each micro-batch: everything but the model around it."""
    from tensordict import TensorDict
    from verl.workers.utils.losses import ppo_loss

    rows, lengths = range(ROWS), batch.mask.sum(-1).tolist()

    def nested(values: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor([values[row, : lengths[row]] for row in rows], layout=torch.jagged)

    def model(values: torch.Tensor) -> torch.Tensor:
        """As a model gives them: a prompt of one token, and shifted to the left by one."""
        told = [torch.cat([values[row, : lengths[row]], values.new_zeros(1)]) for row in rows]
        return torch.nested.as_nested_tensor(told, layout=torch.jagged)

    data = {
        "prompts": torch.nested.as_nested_tensor([batch.ids[row, :1] for row in rows], layout=torch.jagged),
        "responses": nested(batch.ids),
        "response_mask": nested(batch.mask.long()),
        "old_log_probs": nested(old),
        "advantages": nested(batch.advantage[:, None].expand(ROWS, LENGTH)),
    }
    if weights is not None:
        data["rollout_is_weights"] = nested(weights)
    found = TensorDict(data, batch_size=[ROWS])
    for name, value in (
        *(("dp_size", 1), ("batch_num_tokens", int(batch.mask.sum())), ("global_batch_size", ROWS)),
        ("max_response_len", LENGTH),
    ):
        found.set_non_tensor(name, value)
    return ppo_loss(actor, {"log_probs": model(batch.new_log_probs())}, found)  # type: ignore[no-any-return]


@each(
    "overrides, sentence",
    [
        (
            [NO_LOG_PROBS, "+algorithm.rollout_correction.correction=tis"],
            "set actor_rollout_ref.rollout.calculate_log_probs=True",
        ),
        ([LOG_PROBS, LOSS], "sees no log-probs of the rollout outside bypass mode: set algorithm"),
        ([LOG_PROBS, BYPASS, "+algorithm.rollout_correction.correction=tis"], "loss_mode=jackpot_sim"),
        ([LOG_PROBS, "+algorithm.rollout_correction.correction=tiss"], "did you mean 'tis'"),
        ([LOG_PROBS, BYPASS, LOSS, "+algorithm.rollout_correction.rejected=mask"], "divisor: accepted"),
    ],
)
def test_a_configuration_that_would_correct_nothing_is_refused_before_a_run(
    overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        composed(overrides)
    assert "\n" not in str(error.value)


@each("override", re.findall(r"`'?(\+algorithm\.rollout_correction\.correction=[^`']+)'?`", PAGE))
def test_the_other_forms_of_a_correction_on_the_page_compose(override: str) -> None:
    found = options_of(composed([LOG_PROBS, override]).algorithm.rollout_correction).settings
    assert found == Settings.of(override.partition("=")[2].strip('"'))


def test_the_copy_for_other_launchers_is_the_one_that_is_made() -> None:
    (override,) = re.findall(r"`'(\+actor_rollout_ref\.actor\.policy_loss\.rollout_correction=[^`']+)'`", PAGE)
    assert composed([LOG_PROBS, BYPASS, LOSS, override]) == composed([LOG_PROBS, BYPASS, LOSS])


def test_configurations_without_a_correction_are_left_alone() -> None:
    plain = composed([])
    plugin.uninstall()
    assert composed([]) == plain


# --- The trainers' own call sites -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rejected", ["weight", "mask"])
def test_the_trainer_of_main_ppo_calls_our_step(rejected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `_compute_advantage`, with a store in memory in the place of TransferQueue."""
    from tensordict import TensorDict
    from tensordict.tensorclass import NonTensorStack
    from verl.trainer.ppo.v1 import trainer_base

    batch = case(CORRECTIONS["jackpot"], topk=False)
    lengths = batch.mask.sum(-1).tolist()
    fields = {
        "response_mask": batch.mask.long(),
        "rollout_log_probs": batch.given.actor_log_probs,
        "old_log_probs": batch.given.reference_log_probs,
        "rm_scores": torch.rand(ROWS, LENGTH),
    }
    stored = TensorDict(
        {
            name: torch.nested.as_nested_tensor([v[i, : lengths[i]] for i in range(ROWS)], layout=torch.jagged)
            for name, v in fields.items()
        },
        batch_size=[ROWS],
    )
    stored["uid"] = NonTensorStack(*[str(i // 2) for i in range(ROWS)])
    put: dict[str, Any] = {}

    def kv_batch_put(fields: Any, **_: Any) -> Any:
        put.update(fields.items())

    monkeypatch.setattr(trainer_base.tq, "kv_batch_get", lambda select_fields, **_: stored)
    monkeypatch.setattr(trainer_base.tq, "kv_batch_put", kv_batch_put)
    asked = f"{{kind: jackpot, seed: {batch.settings.seed}}}"
    overrides = [LOG_PROBS, f"+algorithm.rollout_correction.correction={asked}", "algorithm.adv_estimator=grpo"]
    trainer = SimpleNamespace(config=composed([*overrides, f"+algorithm.rollout_correction.rejected={rejected}"]))
    metrics: dict[str, float] = {}
    trainer_base.PPOTrainer._compute_advantage(trainer, Keys(ROWS), metrics)
    kept = metrics["rollout_corr/jackpot_sim/masked_share"]
    assert 0 < kept < 1
    assert "rollout_corr/k3_kl" in metrics
    weights = put["rollout_is_weights"].to_padded_tensor(0.0, output_size=(ROWS, LENGTH))
    expected = correct(batch.settings, batch.given, TokenPass(batch.given.reference_log_probs))
    torch.testing.assert_close(weights, expected.factor)
    counted = put["response_mask"].values().sum()
    assert int(counted) == int((expected.accepted if rejected == "mask" else batch.mask).sum())
    # What the page says of token-mean: its engine counts tokens in a field that the trainer does not write anew.
    assert "loss_mask" not in put
    engine = importlib.import_module("verl.workers.engine.fsdp.transformer_impl")
    assert 'batch_num_tokens = data["loss_mask"].sum()' in inspect.getsource(engine)


class Keys:
    """The keys of a batch, as TransferQueue has them."""

    partition_id = "train"

    def __init__(self, rows: int) -> None:
        self.keys = [f"{i // 2}_{i % 2}_0" for i in range(rows)]

    def __len__(self) -> int:
        return len(self.keys)


@each("path", ["verl.trainer.ppo.ray_trainer", "verl.experimental.separation.ray_trainer"])
def test_the_other_trainers_look_our_step_up_when_they_call_it(path: str) -> None:
    source = inspect.getsource(importlib.import_module(path))
    call = "from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch"
    assert re.search(rf"\n +{re.escape(call)}", source)
    helper = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
    assert hasattr(helper.compute_rollout_correction_and_add_to_batch, "__wrapped__")


def test_an_update_by_verls_own_engine_is_the_projects(tmp_path: Path) -> None:
    """One process, fsdp2, a model of two layers: bypass mode, and a batch with both laws."""
    command = [sys.executable, "-m", "tests.integrations.verl_engine", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for mode, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["loss"] == pytest.approx(found["own_loss"], rel=1e-5), mode
        assert found["norm"] == pytest.approx(found["own_norm"], rel=1e-5), mode
