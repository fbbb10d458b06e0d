"""Actors that llama.cpp runs: a GGUF file beside the policy's checkpoint, or the policy's own weights as one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import override

from jackpot_sim.environments.engines.llama_cpp import LlamaCpp
from jackpot_sim.environments.engines.llama_library import KVFormat, Weights
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.carried import gguf_of, is_gguf
from jackpot_sim.environments.language_models.gguf_files import Quantisation, write
from jackpot_sim.environments.language_models.library import Tokenizer
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import Actors, Setting
from jackpot_sim.environments.sources.real_models import WithoutKnob


@dataclass(frozen=True, kw_only=True)
class LlamaCppActor(WithoutKnob):
    """A GGUF file that llama.cpp runs, in this process and on the CPU.

    Attributes:
        path: the file, or the name of a model that a package carries; None: the file that the policy is made of.
        format: the number format in which the policy's weights of the moment take the place of those in the file; None
            leaves the file as it is.
        kv: the number format of keys and values.
        threads: llama.cpp's threads; None: as many as torch's. They change no number.
    """

    kind: Literal["llama-cpp"] = "llama-cpp"
    path: str | None = None
    format: Quantisation | None = None
    kv: KVFormat = KVFormat.F16
    threads: int | None = None

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "kv", KVFormat(self.kv))
        if self.format is not None:
            object.__setattr__(self, "format", Quantisation(self.format))
        if self.threads is not None:
            check_count("threads", self.threads, 1)
        super().__post_init__()

    @override
    def actors(self, setting: Setting) -> Actors:
        weights = self._weights(setting)
        _check_tokens(weights, int(setting.base.config.get_text_config().vocab_size), setting.tokenizer)
        pair = (
            CausalLM(setting.base),
            LlamaCpp(weights, threads=self.threads, kv=self.kv, device=str(setting.base.device)),
        )
        return lambda share: pair

    def _weights(self, setting: Setting) -> Weights:
        file = self._file(setting.name)
        if self.format is None:
            return Weights(file)
        # llama.cpp keeps a file open that it has mapped, which some systems then do not delete.
        with tempfile.TemporaryDirectory(prefix="jackpot-sim-", ignore_cleanup_errors=True) as folder:
            written = Path(folder) / f"{file.stem}-{self.format}.gguf"
            write(setting.base, file, written, self.format)
            return Weights(written)

    def _file(self, policy: str) -> Path:
        if self.path is not None:
            return gguf_of(self.path)
        if not is_gguf(policy):
            raise ValueError(
                f"llama-cpp without a path runs the policy's own GGUF file, and {policy or 'the policy'} is none: give "
                "its path"
            )
        return gguf_of(policy)


def _check_tokens(weights: Weights, vocab: int, tokenizer: Tokenizer | None) -> None:
    """Refuses a file whose token ids differ in meaning from the policy's.

    Args:
        weights: the file, loaded.
        vocab: the number of the policy's tokens.
        tokenizer: the policy's; without one the numbers of tokens alone are compared.

    Raises:
        ValueError: the numbers differ, or a token has another text.
    """
    if weights.vocab != vocab:
        raise ValueError(
            f"the policy has a vocabulary of {vocab} and {weights.path} one of {weights.vocab}: they must agree"
        )
    if tokenizer is None:
        return
    ours = tokenizer.convert_ids_to_tokens(range(min(vocab, len(tokenizer))))
    for number, (own, text) in enumerate(zip(ours, weights.token_texts(), strict=False)):
        # Converters write the spaces of some added tokens out.
        if own is not None and own.replace("▁", " ") != text.replace("▁", " "):
            raise ValueError(
                f"token {number} is {own!r} for the policy's tokenizer and {text!r} in {weights.path}: they must agree"
            )
