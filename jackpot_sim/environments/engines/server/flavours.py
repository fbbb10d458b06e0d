"""The flavours of servers by name, and the model and flavour that a server says it has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jackpot_sim.environments.engines.server.ask import ServerError
from jackpot_sim.environments.engines.server.client import Client
from jackpot_sim.environments.engines.server.flavour import Flavour
from jackpot_sim.environments.engines.server.llama_cpp import LlamaCppServer
from jackpot_sim.environments.engines.server.openai import LlamaCppPython, OpenAI
from jackpot_sim.environments.engines.server.sglang import SGLang
from jackpot_sim.environments.engines.server.tgi import TGI
from jackpot_sim.environments.engines.server.vllm import VLLM

LOG = logging.getLogger(__name__)

FLAVOURS: dict[str, type[Flavour]] = {
    each.name: each for each in (VLLM, SGLang, LlamaCppServer, TGI, LlamaCppPython, OpenAI)
}
_OWNERS = {"vllm": VLLM, "sglang": SGLang, "llamacpp": LlamaCppServer, "me": LlamaCppPython}
"""The `owned_by` in the list of models, by which most servers are known."""


@dataclass(frozen=True)
class Found:
    """The model that a server serves.

    Attributes:
        flavour: the kind of the server.
        model: the model's name there.
        positions: the most tokens of a sequence; None where the server does not say.
    """

    flavour: type[Flavour]
    model: str
    positions: int | None


def found(client: Client, flavour: str, model: str | None) -> Found:
    """The model and flavour, asked of the server.

    Args:
        client: the connection.
        flavour: a name of `FLAVOURS`, or auto.
        model: the model wanted; None: the only one that is served.

    Raises:
        ServerError: the server cannot be reached, or serves no such model.
    """
    info = client.get("/info") if flavour in ("auto", "tgi") else None
    if isinstance(info, dict) and "model_id" in info:
        name = _chosen(client, model, [str(info["model_id"])])
        return Found(TGI, name, _count(info.get("max_total_tokens")))
    listed = client.get("/v1/models")
    data = listed.get("data") if isinstance(listed, dict) else None
    entries = [each for each in data if isinstance(each, dict) and "id" in each] if isinstance(data, list) else []
    if not entries:
        raise ServerError(
            f"{client.root} lists no model at /v1/models: give the address of a server of language models"
        )
    name = _chosen(client, model, [str(each["id"]) for each in entries])
    entry = next(each for each in entries if str(each["id"]) == name)
    kind = FLAVOURS.get(flavour) or _OWNERS.get(str(entry.get("owned_by")), OpenAI)
    LOG.info("%s is a server of flavour %s with the model %s", client.root, kind.name, name)
    return Found(kind, name, _count(entry.get("max_model_len")))


def _chosen(client: Client, model: str | None, names: list[str]) -> str:
    if model is None and len(names) == 1:
        return names[0]
    if model in names:
        return model
    wanted = "and `model` says none" if model is None else f"and not {model}"
    raise ServerError(f"{client.root} serves {', '.join(names)}, {wanted}: name one of them")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
