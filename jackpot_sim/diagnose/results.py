"""The diagnosis: what --json writes, field by field. Its JSON schema is documented by these models alone."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
"""The version of this schema; a field that is renamed, removed or changed in meaning raises it, a new one does not."""


class Part(BaseModel):
    """A part of the report: frozen, and without fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class State(StrEnum):
    """The verdict in a word."""

    HEALTHY = "healthy"
    """The mismatch is small, and no fault shows. Exit code 0."""
    PROBLEM = "problem"
    """A named problem. Exit code 1."""
    UNDECIDED = "undecided"
    """Too few tokens to tell. Exit code 1."""


class Verdict(Part):
    """The answer to: is my mismatch dangerous?"""

    state: State
    sentence: str = Field(description="the verdict in one plain sentence")


class CauseName(StrEnum):
    """The names of causes, which are a contract."""

    TEMPERATURE = "temperature"
    TRUNCATED_SAMPLING = "truncated-sampling"
    RAW_LOG_PROBS = "raw-log-probs"
    MISALIGNED = "misaligned"
    PLACEHOLDER = "placeholder"
    PRECISION = "precision"
    STALE = "stale"
    WEIGHT_SYNC = "weight-sync"
    OTHER_MODEL = "other-model"
    DOMINATED = "dominated"
    TOKENIZER = "tokenizer"
    BYPASS = "bypass"


class Cause(Part):
    """A cause of the mismatch, named only where it is more than chance."""

    name: CauseName
    confidence: float = Field(ge=0, le=1, description="0 to 1: how far the evidence excludes the other causes")
    evidence: str = Field(description="the figures that speak for it, in one plain sentence")
    remedy: str = Field(description="what to change, in one plain sentence")
    figures: dict[str, float] = Field(default_factory=dict, description="the figures of the sentence, by name")


class Figure(Part):
    """A figure of the dump with its 95 % interval over sequences; low and high are null where there is none."""

    name: str
    value: float | None = Field(description="null where it does not exist or is infinite")
    low: float | None = None
    high: float | None = None
    meaning: str = Field(description="what it is, with its unit")


class Row(Part):
    """A slice of the tokens: a range of positions, lengths, entropies or probabilities, a step or a weight version."""

    slice: str
    tokens: int
    sequences: int
    figures: dict[str, float | None]


class Breakdown(Part):
    """The mismatch by one property of the tokens."""

    by: str = Field(description="position, length, entropy, probability, step, weight-version or lag")
    rows: list[Row]


class Alarm(Part):
    """A threshold on a figure, and the first step whose figure crosses it."""

    name: str
    rule: str
    step: int | None = Field(description="the step at which it would have rung first; null: never, unless unsure")
    unsure: bool = Field(default=False, description="true where steps have too few sequences to tell")


class Worst(Part):
    """A token or a sequence that disagrees most."""

    place: str
    sequence: str
    position: int | None = Field(description="null for a whole sequence")
    token: int | None = None
    text: str | None = Field(default=None, description="decoded, where a tokenizer was given")
    actor_probability: float | None = Field(description="of the token; null for a whole sequence")
    policy_probability: float | None
    log_ratio: float = Field(description="ℓ, or for a sequence Σ ℓ, nats")


class Effect(Part):
    """The effect of one correction on this very batch."""

    name: str = Field(description="as --correction takes it")
    label: str = Field(description="the correction here, with its parameters")
    refused: str | None = Field(default=None, description="the reason why it could not be applied to this dump")
    kept: Figure | None = Field(default=None, description="share of tokens kept")
    kept_positive: float | None = Field(default=None, description="Σ m·w·A over Σ A of tokens with A > 0")
    kept_negative: float | None = Field(default=None, description="the same for A < 0")
    signal: Figure | None = Field(default=None, description="share of Σ |A| (tokens, where there is no A) kept")
    sequences_kept: float | None = Field(default=None, description="share of sequences of which any token is kept")
    ess: Figure | None = Field(default=None, description="effective sample size over tokens, in [0, 1]")
    keep: float | None = Field(
        default=None, description="share of the signal of exact weights that is kept, as --keep; of a sample"
    )
    bias: float | None = Field(
        default=None,
        description="total variation left between the policy and the weighted actor, as --bias; of a sample",
    )
    weight_mean: float | None = Field(default=None, description="mean of w over the tokens kept")
    weight_p99: float | None = Field(default=None, description="99th percentile of the same, within 0.4 %")
    weight_max: float | None = Field(default=None, description="the largest w of a token kept")
    effective_kl: float | None = Field(
        default=None,
        description="KL(policy‖weighted actor) of visits, by the tokens, nats; null where a mask makes it inf",
    )
    effective_kl_reverse: float | None = Field(
        default=None, description="KL(weighted actor‖policy), nats; masks leave it finite"
    )
    gradient_scale: dict[str, float | None] = Field(
        default_factory=dict, description="Σ m·w over the divisor, by denominator: 1 is the scale without mismatch"
    )
    by_length: list[float | None] = Field(
        default_factory=list, description="share of tokens kept in each quarter of the sequences, the shortest first"
    )
    random_control: dict[str, float | None] = Field(
        default_factory=dict,
        description="figures of rejection at random, of tokens or whole sequences, with the same share kept",
    )


class Advice(Part):
    """The advice: what to do, and what would change it."""

    action: str = Field(description="none-needed, fix-cause, correct, none-is-enough or too-few-tokens")
    sentence: str
    target: str = Field(description="the target that was asked for, or the default")
    correction: str | None = Field(default=None, description="as --correction takes it, with its threshold")
    threshold: Figure | None = Field(default=None, description="with its 95 % interval over sequences")
    changes_mind: list[str] = Field(default_factory=list, description="what would change the advice")
    configuration: dict[str, str] = Field(default_factory=dict, description="lines to paste, by framework")


class Rows(Part):
    """The account of what was read."""

    read: int = Field(description="tokens read")
    used: int = Field(description="tokens that every figure rests on")
    sequences_read: int
    sequences_used: int
    rounded: int = Field(default=0, description="tokens used with a log-prob above 0 by rounding, which is read as 0")
    left_out: dict[str, int] = Field(description="tokens (lines, for bad-row) left out, by reason")
    samples: dict[str, list[str]] = Field(description="where the first of each stand")
    passed_over: list[str] = Field(default_factory=list, description="files of the folders given that are no dumps")


class Diagnosis(Part):
    """A dump, diagnosed."""

    schema_version: int = SCHEMA
    jackpot_sim: str = Field(description="the version of this package")
    source: dict[str, str] = Field(description="the paths given, the format, the number of files")
    verdict: Verdict
    causes: list[Cause] = Field(description="the likeliest first")
    advice: Advice
    metrics: list[Figure]
    corrections: list[Effect] = Field(description="the user's own first, then the advised one")
    breakdowns: list[Breakdown]
    alarms: list[Alarm]
    worst_tokens: list[Worst]
    worst_sequences: list[Worst]
    rows: Rows
