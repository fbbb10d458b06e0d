"""A GRPO step and the corrections inside it are what they say; that they are timed right is not tested."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim import estimators  # noqa: E402
from jackpot_sim.bench import grpo_step, overhead, settings  # noqa: E402
from jackpot_sim.bench.errors import CannotMeasureError  # noqa: E402
from jackpot_sim.bench.grpo_step import Rollouts, Trainer, WayToZ, weigh  # noqa: E402
from jackpot_sim.bench.memory import torch_peak_bytes  # noqa: E402
from jackpot_sim.bench.settings import Device, Options, Precision  # noqa: E402
from jackpot_sim.bench.shapes import SHAPES, ShapeName  # noqa: E402
from jackpot_sim.core import normalizer, obrs  # noqa: E402
from jackpot_sim.core.topk import TopK  # noqa: E402
from jackpot_sim.training.objective import ModelPass, advantages  # noqa: E402
from tests.packages import without  # noqa: E402

VOCAB, BATCH, LENGTH, K = 24, 3, 5, 4
TINY = Options(shape=("tiny",), vocab=(VOCAB,), device=Device.CPU, batch=BATCH, length=LENGTH, topk=K, rounds=1)
JACKPOT = estimators.get("jackpot", lam=1.2)


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return SHAPES["tiny"].with_vocab(VOCAB).build(LENGTH + 1, "cpu", "float32")


def made(k: int = K) -> tuple[Any, Rollouts]:
    """A model and rollouts of it."""
    policy = model()
    return policy, grpo_step.rollouts(policy, BATCH, LENGTH, k, laws=True, device="cpu")


def far_apart(k: int = K) -> tuple[Rollouts, ModelPass, Any]:
    """Two policies that differ much, what is stored of the actor, and uniforms."""
    _, rollouts = made()
    torch.manual_seed(3)
    laws = torch.log_softmax(1.5 * torch.randn(BATCH, LENGTH, VOCAB), dim=-1)
    logits = 1.5 * torch.randn(BATCH, LENGTH, VOCAB) + 7
    tokens = rollouts.ids[:, 1:, None]
    log_normaliser = torch.logsumexp(logits, -1)
    of_policy = logits.gather(-1, tokens).squeeze(-1) - log_normaliser
    rollouts = dataclasses.replace(
        rollouts,
        actor_log_probs=laws.gather(-1, tokens).squeeze(-1),
        reference_log_probs=of_policy + 0.3 * torch.randn(BATCH, LENGTH),
        topk=TopK.of(laws, k),
        laws=laws,
    )
    return rollouts, ModelPass(logits, log_normaliser, of_policy), torch.rand(BATCH, LENGTH)


def expected(rollouts: Rollouts, policy: ModelPass, uniforms: Any, overlap: Any) -> Any:
    """Eq. 5 of the paper with its mask, written out, for Z that is given."""
    ratio = torch.exp(policy.log_probs - rollouts.actor_log_probs)
    second = torch.exp(rollouts.reference_log_probs - policy.log_probs).clamp(max=2.0)
    return (uniforms < ratio / 1.2) * (overlap * ratio.clamp(min=1.2)).clamp(max=2.0) * second


# --- shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SHAPES))
def test_parameters_are_those_of_the_model(name: ShapeName) -> None:
    built = SHAPES[name].build(8, "meta", "bfloat16")
    assert SHAPES[name].parameters == sum(each.numel() for each in built.parameters())
    assert {each.dtype for each in built.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() is torch.float32


def test_published_sizes() -> None:
    sizes = {name: shape.parameters for name, shape in SHAPES.items()}
    assert sizes["qwen3-0.6b"] == 596_049_920
    assert sizes["qwen3-1.7b"] == 1_720_574_976
    assert sizes["qwen3-8b"] == 8_190_735_360
    assert sizes["cpu-30m"] == pytest.approx(30e6, rel=0.05)


def test_a_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="kv_heads=3 must divide heads=2"):
        dataclasses.replace(SHAPES["tiny"], kv_heads=3)
    with pytest.raises(ValueError, match="vocab must be at least 1"):
        SHAPES["tiny"].with_vocab(0)


# --- the corrections --------------------------------------------------------------------------------------


def test_exact_z_gives_the_papers_weight() -> None:
    rollouts, policy, uniforms = far_apart()
    laws = torch.log_softmax(policy.logits, -1)
    overlap = obrs.overlap(laws, rollouts.laws, 1.2)
    found = weigh(JACKPOT, WayToZ.EXACT, rollouts, policy, uniforms)
    torch.testing.assert_close(found, expected(rollouts, policy, uniforms, overlap))
    assert 0 < int((found == 0).sum()) < found.numel()  # some are rejected, and some are not


def test_the_papers_form_corrects_the_terms_on_both_top_ks() -> None:
    rollouts, policy, uniforms = far_apart()
    kept = normalizer.topk(torch.log_softmax(policy.logits, -1), rollouts.laws, K, 1.2)
    accepted = uniforms < torch.exp(policy.log_probs - rollouts.actor_log_probs) / 1.2
    overlap = kept * accepted.float().mean() / kept.mean()
    found = weigh(JACKPOT, WayToZ.KAPPA, rollouts, policy, uniforms)
    torch.testing.assert_close(found, expected(rollouts, policy, uniforms, overlap))


def test_the_bracket_uses_nothing_but_what_is_stored() -> None:
    rollouts, policy, uniforms = far_apart()
    laws = torch.log_softmax(policy.logits, -1)
    low, high = normalizer.bracket_on_topk(rollouts.topk.gather(laws), rollouts.topk.log_probs, 1.2)
    accept = obrs.acceptance_probability(policy.log_probs - rollouts.actor_log_probs, 1.2)
    overlap = normalizer.calibrated(low, high, accept)
    found = weigh(JACKPOT, WayToZ.BRACKET, dataclasses.replace(rollouts, laws=None), policy, uniforms)
    torch.testing.assert_close(found, expected(rollouts, policy, uniforms, overlap))


def test_on_the_whole_vocabulary_every_way_has_the_exact_terms() -> None:
    rollouts, policy, uniforms = far_apart(k=VOCAB)
    exact = weigh(JACKPOT, WayToZ.EXACT, rollouts, policy, uniforms)
    torch.testing.assert_close(weigh(JACKPOT, WayToZ.BRACKET, rollouts, policy, uniforms), exact)
    overlap = obrs.overlap(torch.log_softmax(policy.logits, -1), rollouts.laws, 1.2)
    torch.testing.assert_close(grpo_step._on_union(1.2, rollouts.topk, rollouts.laws, policy), overlap)


def test_tis_is_that_of_the_policy_before_the_update() -> None:
    rollouts, policy, uniforms = far_apart()
    found = weigh(estimators.get("tis", clip=2.0), None, rollouts, policy, uniforms)
    ratio = torch.exp(rollouts.reference_log_probs - rollouts.actor_log_probs)
    torch.testing.assert_close(found, ratio.clamp(max=2.0))
    assert bool((found == 2.0).any())


def test_a_way_without_its_laws_is_refused() -> None:
    rollouts, policy, uniforms = far_apart()
    without = dataclasses.replace(rollouts, laws=None)
    for way in (WayToZ.EXACT, WayToZ.KAPPA):
        with pytest.raises(ValueError, match=f"the way {way} needs them"):
            weigh(JACKPOT, way, without, policy, uniforms)
    with pytest.raises(ValueError, match="jackpot needs overlap"):
        weigh(JACKPOT, None, rollouts, policy, uniforms)


# --- the step ---------------------------------------------------------------------------------------------


def test_the_loss_is_clipped_and_takes_its_factor() -> None:
    _, rollouts = made()
    rollouts = dataclasses.replace(rollouts, rewards=torch.tensor([1.0, 0.0, 0.5]))
    log_probs = rollouts.reference_log_probs + math.log(1.5)
    value = 0.0
    for advantage in advantages(rollouts.rewards, BATCH).tolist():
        value -= min(1.5 * advantage, 1.2 * advantage) / BATCH
    assert float(grpo_step.loss(log_probs, rollouts, None)) == pytest.approx(value, rel=1e-5)
    double = torch.full((BATCH, LENGTH), 2.0)
    assert float(grpo_step.loss(log_probs, rollouts, double)) == pytest.approx(2 * value, rel=1e-5)


def test_rollouts_hold_two_policies_that_differ_a_little() -> None:
    policy, rollouts = made()
    with torch.no_grad():
        laws = torch.log_softmax(policy(rollouts.ids[:, :-1]).logits, -1)
    tokens = rollouts.ids[:, 1:, None]
    torch.testing.assert_close(rollouts.reference_log_probs, laws.gather(-1, tokens).squeeze(-1))
    full: Any = rollouts.laws
    torch.testing.assert_close(rollouts.actor_log_probs, full.gather(-1, tokens).squeeze(-1))
    torch.testing.assert_close(rollouts.topk.log_probs, full.topk(K).values)
    assert 0.01 < float((full - laws).std()) < 0.2
    again = grpo_step.rollouts(policy, BATCH, LENGTH, K, laws=False, device="cpu")
    assert again.laws is None
    assert torch.equal(again.actor_log_probs, rollouts.actor_log_probs)


def test_a_step_is_an_update_by_the_weighted_gradient() -> None:
    """The gradient that AdamW is given is that of the loss, the weights being constants."""
    policy, rollouts = made()
    factor = 0.5 + torch.rand(BATCH, LENGTH)
    laws = torch.log_softmax(policy(rollouts.ids[:, :-1]).logits, -1)
    log_probs = laws.gather(-1, rollouts.ids[:, 1:, None]).squeeze(-1)
    grpo_step.loss(log_probs, rollouts, factor).backward()
    wanted = [each.grad.clone() for each in policy.parameters()]
    policy.zero_grad()
    trainer, given = Trainer(policy, rollouts), []
    trainer.optimizer.register_step_pre_hook(lambda *_: given.extend(each.grad.clone() for each in policy.parameters()))
    before = [each.detach().clone() for each in policy.parameters()]
    seconds = trainer.step(lambda _rollouts, _policy, _uniforms: factor)
    for found, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(found, want)
    assert 0 < seconds.weights < seconds.step
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))
    assert trainer.step(None).weights == 0


def test_no_gradient_flows_through_the_weights() -> None:
    policy, rollouts = made()
    seen: list[Any] = []

    def weights(rollouts: Rollouts, forward: ModelPass, uniforms: Any) -> Any:
        seen.extend((*forward, uniforms, torch.is_grad_enabled()))
        return torch.ones_like(uniforms)

    Trainer(policy, rollouts).step(weights)
    assert not any(each.requires_grad for each in seen[:-1])
    assert seen[-1] is False


# --- what is measured -------------------------------------------------------------------------------------


def test_memory_of_torch_counts_what_is_held_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> Any:
        first = torch.zeros(10**6, dtype=torch.float64)
        second = torch.zeros(10**6, dtype=torch.float64)
        del second
        third = torch.ones(3 * 10**6, dtype=torch.float32)
        return first[0] + third[0]

    assert 20e6 <= torch_peak_bytes(run, "cpu") < 20.1e6
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def findings() -> list[overhead.Finding]:
    return list(overhead.overhead(TINY))


def test_every_method_has_its_figures(findings: list[overhead.Finding]) -> None:
    found = {(each.labels["correction"], each.labels["way"], each.labels["figure"]) for each in findings}
    methods = [("tis", ""), *(("jackpot", str(way)) for way in WayToZ)]
    figures = ("weights share", "step / none", "memory / none")
    wanted = {(*method, figure) for method in methods for figure in figures}
    assert found == wanted | {("none", "", "step"), ("jackpot", "bracket", "top-k at rollout")}
    assert all(each.value > 0 and math.isfinite(each.value) for each in findings)
    assert all(each.labels["vocabulary"] == VOCAB and each.labels["k"] == K for each in findings)
    assert all(each.met is None for each in findings)


def test_what_is_stored_is_counted(findings: list[overhead.Finding]) -> None:
    notes = {each.labels["way"]: each.note for each in findings if each.labels["figure"] == "memory / none"}
    common = (BATCH * (LENGTH + 1) * 8 + BATCH * 4) / (BATCH * LENGTH) + 8  # ids, rewards, and two log-probs
    assert notes[""] == f"{common:,.0f} bytes stored per token"
    assert notes["bracket"] == f"{common + 8 * K:,.0f} bytes stored per token"
    assert notes["exact"] == f"{common + 4 * VOCAB:,.0f} bytes stored per token"
    assert notes["kappa"] == f"{common + 8 * K + 4 * VOCAB:,.0f} bytes stored per token"


def test_the_target_is_for_the_stored_top_k_alone() -> None:
    named = dataclasses.replace(settings.settings(TINY)[0], name="cpu-30m")
    assert named.percent_at_most == 3
    beyond = dataclasses.replace(named, shape=named.shape.with_vocab(151_936))
    assert beyond.percent_at_most is None
    targets = {each.labels["way"]: each.at_most for each in overhead._measure(named) if each.at_most}
    assert targets == {"bracket": 3}


def test_threads_are_as_before() -> None:
    torch.set_num_threads(2)
    try:
        findings = overhead.overhead(TINY)
        next(findings)
        assert torch.get_num_threads() == 1
        findings.close()  # type: ignore[attr-defined]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_function_that_does_not_compile_is_told_of() -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no compiler\nat all")

    assert overhead._failure(Trainer(*made()), broken) == "no compiler"
    assert overhead._failure(Trainer(*made()), None) == ""


@pytest.mark.cuda
def test_on_a_device_the_compiled_weights_are_there_too() -> None:
    options = dataclasses.replace(TINY, device=Device.CUDA)
    found = list(overhead.overhead(options))
    assert {each.labels["mode"] for each in found} == {"eager", "compiled"}
    assert {each.labels["precision"] for each in found} == {"bfloat16"}


# --- what is refused --------------------------------------------------------------------------------------


def test_the_device_decides_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    (here,) = settings.settings(Options(device=Device.CPU))
    assert (here.name, here.shape.vocab, here.batch, here.length) == ("cpu-30m", 32_000, 4, 64)
    assert here.precision is Precision.FLOAT32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (there,) = settings.settings(Options())
    assert (there.name, there.shape.vocab, there.device, there.length) == ("qwen3-0.6b", 151_936, "cuda", 1024)
    assert there.precision is Precision.BFLOAT16
    several = settings.settings(Options(shape=("tiny", "qwen3-8b"), vocab=(64, 128)))
    assert [(each.name, each.shape.vocab) for each in several] == [
        *(("tiny", 64), ("tiny", 128)),
        *(("qwen3-8b", 64), ("qwen3-8b", 128)),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch": 1}, "batch must be at least 2, got 1"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"topk": 0}, "topk must be at least 1"),
        ({"vocab": (64, 3)}, "vocab must be at least 2 and topk=4, got 3"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CannotMeasureError, match=told):
        settings.settings(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize(
    ("free", "length", "told"),
    [
        (10**5, 20, "GiB on cpu and 9.31e-05 GiB are free: take a smaller --shape"),
        (10**6, 10, "--batch 20 may fit"),
        (10**6, 200, "make --length smaller"),
    ],
)
def test_what_does_not_fit_is_refused_beforehand(
    monkeypatch: pytest.MonkeyPatch, free: int, length: int, told: str
) -> None:
    monkeypatch.setattr(settings, "free_bytes", lambda device: free)
    with pytest.raises(CannotMeasureError, match=told):
        next(overhead.overhead(dataclasses.replace(TINY, batch=1000, length=length)))


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_memory_that_runs_out_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object, **__: object) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(grpo_step, "rollouts", full)
    with pytest.raises(CannotMeasureError, match="make --batch or --length smaller"):
        next(overhead.overhead(TINY))
    error.args = ("an illegal memory access",)
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="illegal"):
            next(overhead.overhead(TINY))


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "transformers")
    with pytest.raises(CannotMeasureError, match=r"overhead needs transformers, which is missing: pip install"):
        settings.settings(TINY)
