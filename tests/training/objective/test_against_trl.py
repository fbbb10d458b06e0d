"""The loss, its gradient and the advantages are those of TRL's GRPOTrainer wherever both compute the same thing.

TRL's own code makes every number on its side: it scores given rollouts before the update (p_ref, its ratio to the
actor, advantages), and then the policy's weights are moved, so that PPO's ratio is not 1, and it takes its loss.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from jackpot_sim import estimators  # noqa: E402
from jackpot_sim.environments.language_models.build import TinyQwen3, build  # noqa: E402
from jackpot_sim.estimators import Correction  # noqa: E402
from jackpot_sim.training import objective  # noqa: E402
from jackpot_sim.training.config import Sampling, Training, Update  # noqa: E402
from jackpot_sim.training.loop.measures import Means  # noqa: E402
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass  # noqa: E402
from jackpot_sim.training.loop.trainer import Trainer  # noqa: E402
from jackpot_sim.training.models.texts import Texts  # noqa: E402
from jackpot_sim.training.objective import Aggregation, Proposed, Standardisation  # noqa: E402
from jackpot_sim.training.tasks.addition import Addition  # noqa: E402
from jackpot_sim.training.tasks.characters import character_tokenizer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
"""TRL calls what transformers is about to rename."""

PROMPTS, SAMPLES, LENGTH = 4, 3, 6
N = PROMPTS * SAMPLES
TASK = Addition()
TOKENIZER = character_tokenizer(TASK.characters)
TEXTS = ["12+3=", "1+2=", "123+45=", "9+9="]
"""Prompts of different lengths: TRL pads them on the left, we on the right."""


def made() -> Any:
    """A small model in float32, which TRL's head computes in."""
    config = TinyQwen3(hidden=16, layers=2, heads=2, kv_heads=1)
    return build(config, len(TOKENIZER), np.random.default_rng(0)).float()


class Batch:
    """Rollouts with rewards: what an inference server would have handed to either trainer."""

    def __init__(self) -> None:
        draws = np.random.default_rng(1)
        self.prompts = [np.array(TOKENIZER(text)["input_ids"]) for text in TEXTS]
        self.prompt = np.repeat(np.arange(PROMPTS), SAMPLES)
        lengths = draws.integers(1, LENGTH + 1, N)
        lengths[0] = LENGTH
        self.mask = np.arange(LENGTH) < lengths[:, None]
        self.tokens = np.where(self.mask, draws.integers(1, len(TOKENIZER), (N, LENGTH)), 0)
        self.rewards = draws.choice([0.0, 0.5, 1.0], N)
        self.rewards[:SAMPLES] = 0.5  # a group of equal rewards
        self.sequences = PaddedSequences.of(self.prompts, self.prompt, self.tokens, self.mask, "cpu")
        self.log_ratio = torch.as_tensor(0.8 * draws.standard_normal((N, LENGTH)), dtype=torch.float32)

    def rows(self) -> list[list[int]]:
        """The completions without their padding."""
        return [row[there].tolist() for row, there in zip(self.tokens, self.mask, strict=True)]


@pytest.fixture(scope="module")
def policy() -> Any:
    return made()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch()


@pytest.fixture(scope="module")
def theirs(policy: Any, batch: Batch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer of the same model, with the rollouts in the place of its generation."""
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of options that are on their way out
        config = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            per_device_train_batch_size=N,
            num_generations=SAMPLES,
            max_completion_length=LENGTH,
        )
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=lambda completions, **_: batch.rewards.tolist(),
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in TEXTS]),
            processing_class=TOKENIZER,
        )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.fixture(autouse=True)
def as_before(theirs: Any, policy: Any) -> Iterator[None]:
    """Whatever a test sets of TRL's trainer, and does to the weights, is undone."""
    attributes, weights = dict(vars(theirs)), {key: each.clone() for key, each in policy.state_dict().items()}
    steps = theirs.args.steps_per_generation
    yield
    vars(theirs).clear()
    vars(theirs).update(attributes)
    theirs.args.steps_per_generation = steps
    policy.load_state_dict(weights)
    policy.zero_grad()
    policy.eval()


def scored(theirs: Any, policy: Any, batch: Batch, log_ratio: Any, **options: Any) -> dict[str, Any]:
    """What TRL makes of the rollouts before the update: its own code, with vLLM's part played by us.

    Args:
        theirs: TRL's trainer.
        policy: the model.
        batch: the rollouts.
        log_ratio: log p_ref/q of every token; None: the policy itself wrote them, and nothing is corrected.
        options: attributes of the trainer.
    """
    policy.train()
    vars(theirs).update(options)
    prompts = [batch.prompts[each].tolist() for each in batch.prompt]
    sampled = None
    if log_ratio is not None:
        theirs.use_vllm = theirs.vllm_importance_sampling_correction = True
        with torch.no_grad():
            actor = model_pass(policy, batch.sequences).log_probs - log_ratio
        sampled = [row[: len(each)].tolist() for row, each in zip(actor, batch.rows(), strict=True)]
    given = (prompts, batch.rows(), None, [""] * N, sampled, {}, None, [None] * N)
    theirs._generate = lambda _: given
    theirs.args.steps_per_generation = 2  # else it takes p_new for p_ref
    out = theirs._generate_and_score_completions([{"prompt": TEXTS[each]} for each in batch.prompt])
    theirs.args.steps_per_generation = 1
    return dict(out)


def moved(policy: Any) -> None:
    """The weights after an update or two: PPO's ratio is not 1 any more."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)


def gradients(policy: Any) -> list[Any]:
    return [weight.grad.clone() for weight in policy.parameters()]


def their_loss(theirs: Any, policy: Any, scores: dict[str, Any]) -> tuple[float, list[Any]]:
    policy.train()  # else TRL takes its loss as an evaluation's, with other divisors
    policy.zero_grad()
    loss = theirs._compute_loss(policy, scores)
    loss.backward()
    return float(loss.detach()), gradients(policy)


def our_loss(
    policy: Any, batch: Batch, reference: Any, log_ratio: Any, correction: Correction, update: Update
) -> tuple[float, list[Any]]:
    """The loss of one update by our trainer, and the gradient that its optimiser is given."""
    proposed = Proposed(
        actor_log_probs=reference if log_ratio is None else reference - log_ratio,
        reference_log_probs=reference,
        mask=batch.sequences.mask,
        advantage=objective.advantages(torch.as_tensor(batch.rewards), SAMPLES, update.standardisation),
        topk=None,
        reference_on_topk=None,
        uniforms=torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(3)),
    )
    config = Training(task=TASK, rollout=Sampling(prompts=PROMPTS, samples=SAMPLES, topk=0), update=update)
    policy.eval()
    trainer = Trainer(config, Texts(TASK, TOKENIZER, LENGTH), policy, None, seed=0)
    sums = Means()
    trainer._updated(batch.sequences, proposed, correction, sums)
    return sums.means()["loss"], gradients(policy)


def assert_same(
    theirs: Any,
    policy: Any,
    batch: Batch,
    update: Update,
    correction: Correction,
    log_ratio: Any = None,
    their_share: float = 1.0,
    **options: Any,
) -> None:
    """Both trainers at the same weights; TRL's loss is `their_share` of ours."""
    scores = scored(theirs, policy, batch, log_ratio, **options)
    with torch.no_grad():
        reference = model_pass(policy, batch.sequences).log_probs
    moved(policy)
    value, gradient = their_loss(theirs, policy, scores)
    found, ours = our_loss(policy, batch, reference, log_ratio, correction, update)
    assert value == pytest.approx(their_share * found, rel=2e-5)
    assert abs(value) > 1e-4
    largest = max(float(each.abs().max()) for each in gradient)
    assert largest > 1e-3
    for their, our in zip(gradient, ours, strict=True):
        torch.testing.assert_close(their, their_share * our, rtol=1e-3, atol=2e-6 * max(1.0, largest))


def update(aggregation: Aggregation, clip: float | None = 0.2, clip_high: float | None = None) -> Update:
    return Update(aggregation=aggregation, clip=clip, clip_high=clip_high, max_grad_norm=None, minibatches=1)


NONE = estimators.get("none")


# --- the loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "clip_high"), [(None, None), (0.2, None), (0.1, 0.28)])
@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [
        ("grpo", Aggregation.SEQUENCE_MEAN),
        ("bnpo", Aggregation.TOKEN_MEAN),
        ("dapo", Aggregation.TOKEN_MEAN),
        ("luspo", Aggregation.SEQUENCE_SUM),
    ],
)
def test_loss_and_gradient(
    theirs: Any,
    policy: Any,
    batch: Batch,
    loss_type: str,
    aggregation: Aggregation,
    clip: float | None,
    clip_high: float | None,
) -> None:
    low = math.inf if clip is None else clip
    high = low if clip_high is None else clip_high
    options = {"loss_type": loss_type, "epsilon_low": low, "epsilon_high": high}
    assert_same(theirs, policy, batch, update(aggregation, clip, clip_high), NONE, **options)


def test_their_dr_grpo_divides_by_the_longest_possible_completion(theirs: Any, policy: Any, batch: Batch) -> None:
    ours = update(Aggregation.SEQUENCE_SUM)
    assert_same(theirs, policy, batch, ours, NONE, their_share=1 / LENGTH, loss_type="dr_grpo")


def test_their_dapo_divides_by_an_even_share_of_all_tokens(theirs: Any, policy: Any, batch: Batch) -> None:
    """Of a batch of several minibatches: by the mean number of tokens, where ours takes this minibatch's own."""
    scores = scored(theirs, policy, batch, None, loss_type="dapo")
    moved(policy)
    value, _ = their_loss(theirs, policy, scores)
    scores["num_items_in_batch"] = 2.5 * scores["num_items_in_batch"]
    theirs.args.steps_per_generation = 2
    assert their_loss(theirs, policy, scores)[0] == pytest.approx(value / 1.25, rel=1e-5)


# --- the corrections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", [Aggregation.SEQUENCE_MEAN, Aggregation.TOKEN_MEAN])
@pytest.mark.parametrize(
    ("mode", "low", "high", "correction"),
    [
        ("token_truncate", None, 1.5, estimators.get("tis", clip=1.5)),
        ("token_truncate", 0.6, 1.5, estimators.get("tis", clip=1.5, floor=0.6)),
        ("token_mask", 0.5, 1.8, estimators.get("mis", low=0.5, high=1.8)),
        ("token_mask", None, 1.8, estimators.get("mis", low=0.0, high=1.8)),
        ("sequence_truncate", None, 1.5, estimators.get("sequence-tis", clip=1.5)),
        ("sequence_mask", None, 3.0, estimators.get("sequence-mis")),
        ("sequence_mask", 0.4, 3.0, estimators.get("sequence-mis", low=0.4, high=3.0)),
        ("token_mask", None, None, estimators.get("is")),
        ("sequence_mask", None, None, estimators.get("sequence-is")),
    ],
)
def test_corrections(
    theirs: Any,
    policy: Any,
    batch: Batch,
    mode: str,
    low: float | None,
    high: float | None,
    correction: Correction,
    aggregation: Aggregation,
) -> None:
    options = {
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": low,
        "vllm_importance_sampling_clip_max": high,
        "loss_type": "grpo" if aggregation is Aggregation.SEQUENCE_MEAN else "bnpo",
    }
    assert_same(theirs, policy, batch, update(aggregation), correction, batch.log_ratio, **options)


def test_every_threshold_is_met(batch: Batch) -> None:
    """The cases above mean something: there are tokens and sequences on both sides of each bound."""
    ratio = batch.log_ratio.exp()[batch.sequences.mask]
    of_sequence = torch.where(batch.sequences.mask, batch.log_ratio, 0.0).sum(-1).exp()
    for values, bounds in ((ratio, (0.5, 0.6, 1.5, 1.8)), (of_sequence, (0.4, 1.5, 3.0))):
        assert all(0 < int((values > bound).sum()) < len(values) for bound in bounds)


# --- advantages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardisation", list(Standardisation))
def test_advantages(theirs: Any, policy: Any, batch: Batch, standardisation: Standardisation) -> None:
    found = scored(theirs, policy, batch, None, scale_rewards=str(standardisation))["advantages"]
    ours = objective.advantages(torch.as_tensor(batch.rewards), SAMPLES, standardisation)
    torch.testing.assert_close(found.double(), ours, rtol=1e-6, atol=1e-7)
    assert found[:SAMPLES].tolist() == [0.0] * SAMPLES
    assert float(found.abs().max()) > 0.1
