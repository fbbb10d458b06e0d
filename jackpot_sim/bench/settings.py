"""The options of `overhead`, the settings that follow from them on a device, and the memory that they need."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.memory import free_bytes
from jackpot_sim.bench.shapes import SHAPES, Shape, ShapeName
from jackpot_sim.requirements import RequirementError, require

PAPER_PERCENT = 3.0
"""The largest cost of the paper's method, in percent of a step."""
TARGET_VOCAB = 32_000
"""The largest vocabulary at which cpu-30m has the paper's figure as its target: beyond, the model is all head."""


class Device(StrEnum):
    """The device of a step."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """The precision of weights, gradients and the optimiser's state."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `overhead`. Where a field is empty or None, the device decides.

    Attributes:
        shape: Models to time, with random weights; by default cpu-30m (31 million parameters) on a CPU and
            qwen3-0.6b on CUDA.
        vocab: Vocabularies to give each of them; by default its own.
        device: cpu (one thread), cuda, or auto: cuda where there is one.
        precision: Of weights, gradients and AdamW's states; by default float32 on a CPU and bfloat16 on CUDA.
        batch: Sequences in the step's one group, by default 4.
        length: Tokens of each sequence, by default 64 on a CPU and 1024 on CUDA.
        topk: Tokens of the actor's law that a rollout stores.
        rounds: Measured rounds, after one that is not counted.
    """

    shape: tuple[ShapeName, ...] = ()
    vocab: tuple[int, ...] = ()
    device: Device = Device.AUTO
    precision: Precision | None = None
    batch: int | None = None
    length: int | None = None
    topk: int = 20
    rounds: int = 5


DEFAULT = Options()


@dataclass(frozen=True)
class Setting:
    """A measurement with every option decided."""

    name: str
    shape: Shape
    device: str
    precision: Precision
    batch: int
    length: int
    k: int
    rounds: int
    threads: int = 1
    """Threads of torch on the CPU."""

    @property
    def tokens(self) -> int:
        """Tokens in one step."""
        return self.batch * self.length

    def labels(self) -> dict[str, str | float]:
        """The labels that distinguish the findings of this setting from others."""
        return {
            "shape": self.name,
            "parameters": self.shape.parameters,
            "vocabulary": self.shape.vocab,
            "device": self.device,
            "precision": str(self.precision),
            "batch": self.batch,
            "length": self.length,
            "k": self.k,
            "threads": self.threads,
        }

    @property
    def percent_at_most(self) -> float | None:
        """The target for Jackpot's weights; None where there is none."""
        published = self.device == "cuda" and self.name.startswith("qwen3")
        small = self.name == "cpu-30m" and self.device == "cpu" and self.shape.vocab <= TARGET_VOCAB
        return PAPER_PERCENT if published or small else None


def settings(options: Options) -> list[Setting]:
    """The settings that `options` ask for; the device decides what they leave open.

    bfloat16 weights, gradients and AdamW states are 8 bytes a parameter, 61 GiB for 8 billion: with the
    activations of 4 x 1,024 tokens this fits a device of 80 GiB barely and one of 96 GiB or more well. Float32
    masters would make the step longer and a correction's share of it smaller.
    """
    device = _device(options.device)
    names = options.shape or (("qwen3-0.6b",) if device == "cuda" else ("cpu-30m",))
    counts = {name: getattr(options, name) for name in ("topk", "rounds", "length", "batch")}
    for name, value in counts.items():
        least = 2 if name == "batch" else 1
        if value is not None and value < least:
            why = ": the advantages of a group of one are 0" if name == "batch" else ""
            raise CannotMeasureError(f"{name} must be at least {least}, got {value}{why}")
    if small := [vocab for vocab in options.vocab if vocab < max(2, options.topk)]:
        raise CannotMeasureError(f"vocab must be at least 2 and topk={options.topk}, got {small[0]}")
    return [
        Setting(
            name=name,
            shape=SHAPES[name].with_vocab(vocab),
            device=device,
            precision=options.precision or (Precision.BFLOAT16 if device == "cuda" else Precision.FLOAT32),
            batch=options.batch or 4,
            length=options.length or (1024 if device == "cuda" else 64),
            k=options.topk,
            rounds=options.rounds,
        )
        for name in names
        for vocab in options.vocab or (SHAPES[name].vocab,)
    ]


def _device(asked: Device) -> str:
    try:
        require("torch", "transformers", purpose="overhead")
    except RequirementError as error:
        raise CannotMeasureError(str(error)) from error
    import torch

    has_cuda = bool(torch.cuda.is_available())
    if asked is Device.CUDA and not has_cuda:
        raise CannotMeasureError("torch finds no CUDA device: use --device cpu, or a torch built for CUDA")
    return "cuda" if has_cuda and asked is not Device.CPU else "cpu"


def require_room(setting: Setting) -> None:
    """Refuses a setting that surely does not fit, before the machine starts to swap or kills the process.

    Raises:
        CannotMeasureError: the message names a batch that may fit, or another option to make smaller.
    """
    fixed, per_sequence = _least_bytes(setting)
    free = free_bytes(setting.device)
    needed = fixed + setting.batch * per_sequence
    if needed <= free:
        return
    fits = (free - fixed) // per_sequence
    hint = f"--batch {fits} may fit" if fits >= 2 else "make --length smaller"
    if fixed > free:
        hint = "take a smaller --shape"
    raise CannotMeasureError(
        f"{setting.name} with {setting.batch} x {setting.length} tokens needs at least {needed / 2**30:.3g} GiB on "
        f"{setting.device} and {free / 2**30:.3g} GiB are free: {hint}"
    )


def _least_bytes(setting: Setting) -> tuple[int, int]:
    """The least memory of a step: for the parameters, and for each sequence."""
    shape, width = setting.shape, 4 if setting.precision is Precision.FLOAT32 else 2
    heads = shape.head_dim * (shape.heads + shape.kv_heads)
    activations = shape.layers * (4 * shape.hidden + heads + 3 * shape.intermediate) * width
    # The logits and their gradient; the actor's laws, the policy's laws, and one temporary array.
    vocabulary = shape.vocab * (2 * width + 3 * 4)
    return 4 * shape.parameters * width, setting.length * (activations + vocabulary)
