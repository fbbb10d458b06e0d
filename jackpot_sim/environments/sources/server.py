"""The actor that is a rollout server: whatever model it serves writes, and shows its likeliest tokens alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from jackpot_sim.environments.engines.server import client
from jackpot_sim.environments.engines.server.client import Client
from jackpot_sim.environments.engines.server.engine import USUAL_TOPK, ServerEngine
from jackpot_sim.environments.engines.server.flavour import Told
from jackpot_sim.environments.engines.server.flavours import FLAVOURS
from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.language_models.library import Tokenizer
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import Actors, Setting
from jackpot_sim.environments.sources.real_models import WithoutKnob

FlavourName = Literal["auto", "vllm", "sglang", "llama.cpp", "tgi", "llama-cpp-python", "openai"]


@dataclass(frozen=True, kw_only=True)
class ServerActor(WithoutKnob):
    """A server of the policy's tokens: vLLM, SGLang, llama.cpp, TGI, or another that speaks OpenAI's completions.

    Attributes:
        url: its address, as in http://127.0.0.1:8000/v1.
        model: the model's name there; None: the only one that it serves.
        flavour: the kind of server; auto asks it.
        topk: the most likeliest tokens to ask for, where more are to be stored: vLLM refuses more than 20, unless it
            was started with a greater --max-logprobs.
        log_probs: the log-probs that it returns: `raw` ones, before the sampler, or `processed` ones; None: those of
            its flavour (raw of vLLM, after the temperature of SGLang, processed of TGI, and llama.cpp gives either).
        timeout: the longest wait for an answer, seconds.
        retries: further attempts after one that failed.
        concurrency: requests at a time.
        key: the environment variable that holds the key, where the server wants one.
    """

    kind: Literal["server"] = "server"
    url: str
    model: str | None = None
    flavour: FlavourName = "auto"
    topk: int = USUAL_TOPK
    log_probs: Literal["raw", "processed"] | None = None
    timeout: float = 600.0
    retries: int = 5
    concurrency: int = 8
    key: str = client.KEY

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.flavour not in ("auto", *FLAVOURS):
            raise ValueError(f"flavour must be auto or one of {', '.join(FLAVOURS)}, got {self.flavour!r}")
        check_count("topk", self.topk, 0)
        check_positive("timeout", self.timeout)
        check_count("retries", self.retries, 0)
        check_count("concurrency", self.concurrency, 1)

    def engine(self, vocab: int, tokenizer: Tokenizer | None) -> ServerEngine:
        """The engine of this server, for a policy with so many tokens."""
        return ServerEngine(
            Client(self.url, key=self.key, timeout=self.timeout, retries=self.retries),
            vocab,
            tokenizer=tokenizer,
            flavour=self.flavour,
            model=self.model,
            topk=self.topk,
            told=None if self.log_probs is None else Told(self.log_probs),
            concurrency=self.concurrency,
        )

    @override
    def actors(self, setting: Setting) -> Actors:
        vocab = int(setting.base.config.get_text_config().vocab_size)
        pair = CausalLM(setting.base), self.engine(vocab, setting.tokenizer)
        return lambda share: pair
