"""A stand-in for rollout servers: a tiny model that answers over HTTP in each flavour's documented form.

Forms: vLLM's "OpenAI-Compatible Server" (completions, `return_tokens_as_token_ids`), SGLang's "Native APIs" and
"Sampling Parameters" (/generate), llama.cpp's tools/server/README.md (/completion), TGI's OpenAPI document (/generate),
OpenAI's reference of legacy completions.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from jackpot_sim.environments.language_models.sampling_law import SamplingLaw

Law = Any


class StandIn:
    """A server of one model; faults are taken by one request after the other, None serves it."""

    def __init__(self, model: Any, tokenizer: Any, flavour: str, ends: tuple[int, ...] = ()) -> None:
        self.model, self.tokenizer, self.flavour, self.ends = model, tokenizer, flavour, ends
        self.faults: deque[str | None] = deque()
        self.always: str | None = None
        self.processed = False  # vLLM's --logprobs-mode processed_logprobs
        self.most = 20  # vLLM's --max-logprobs
        self.key: str | None = None
        self.models = ["tiny"]
        self.asked: list[dict[str, Any]] = []
        self.url = ""
        self._lock = threading.Lock()

    def fault(self) -> str | None:
        with self._lock:
            return self.faults.popleft() if self.faults else self.always

    # --- The model ----------------------------------------------------------------------------------------------------

    def write(
        self, prompt: list[int], length: int, seed: int, sampling: SamplingLaw, ends: tuple[int, ...]
    ) -> tuple[list[int], list[dict[str, np.ndarray]]]:
        """Tokens, and at each the laws `raw`, `tempered` and `processed`."""
        generator, tokens, laws = np.random.default_rng(seed), [], []
        for _ in range(length):
            with self._lock:
                scores = _scores(self.model, (*prompt, *tokens))
            law = {
                "raw": SamplingLaw().log_probs(scores),
                "tempered": SamplingLaw(temperature=sampling.temperature).log_probs(scores),
                "processed": sampling.log_probs(scores),
            }
            laws.append(law)
            tokens.append(int(generator.choice(len(scores), p=np.exp(law["processed"]))))
            if tokens[-1] in ends:
                break
        return tokens, laws

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.asked.append(body)
        route = {"sglang": "/generate", "tgi": "/generate", "llama.cpp": "/completion"}.get(
            self.flavour, "/v1/completions"
        )
        if path != route:
            return 404, {"detail": "Not Found"}
        return {
            "vllm": self.vllm,
            "sglang": self.sglang,
            "llama.cpp": self.llama_cpp,
            "tgi": self.tgi,
            "openai": self.openai,
        }[self.flavour](body)

    # --- Its words ----------------------------------------------------------------------------------------------------

    def vllm(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["logprobs"] > self.most:
            text = f"Requested sample logprobs of {body['logprobs']}, which is greater than max allowed: {self.most}"
            return 400, {"error": {"message": text, "type": "BadRequestError", "code": 400}}
        ends = (*body["stop_token_ids"], *(() if body["ignore_eos"] else self.ends))
        tokens, laws = self.write(body["prompt"], body["max_tokens"], body["seed"], _law(body, -1), ends)
        own = [law["processed" if self.processed else "raw"] for law in laws]
        name = "token_id:{}".format if body["return_tokens_as_token_ids"] else self._text
        rows = [
            {name(each): _finite(law[each]) for each in dict.fromkeys([*_top(law, body["logprobs"]), token])}
            for token, law in zip(tokens, own, strict=True)
        ]
        ended = tokens[-1] in ends
        choice = {
            "index": 0,
            "text": self._text(tokens),
            "logprobs": {
                "tokens": [name(each) for each in tokens],
                "token_logprobs": [_finite(law[token]) for token, law in zip(tokens, own, strict=True)],
                "top_logprobs": rows,
                "text_offset": [0] * len(tokens),
            },
            "finish_reason": "stop" if ended else "length",
            "stop_reason": tokens[-1] if ended else None,
        }
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(tokens)},
        }

    def sglang(self, body: dict[str, Any]) -> tuple[int, Any]:
        given = body["sampling_params"]
        ends = () if given["ignore_eos"] else (*given["stop_token_ids"], *self.ends)
        tokens, laws = self.write(
            body["input_ids"], given["max_new_tokens"], given["sampling_seed"], _law(given, -1), ends
        )
        own = [law["tempered"] for law in laws]
        ended = tokens[-1] in ends
        meta = {
            "id": "1",
            "finish_reason": {"type": "stop", "matched": tokens[-1]} if ended else {"type": "length", "length": 3},
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": len(tokens),
            "weight_version": "default",
        }
        if body["return_logprob"]:
            meta["output_token_logprobs"] = [[law[token], token, None] for token, law in zip(tokens, own, strict=True)]
            meta["output_top_logprobs"] = [
                [[law[each], each, None] for each in _top(law, body["top_logprobs_num"])] for law in own
            ]
        return 200, {"text": self._text(tokens), "output_ids": tokens, "meta_info": meta}

    def llama_cpp(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["samplers"] == ["temperature", "top_k", "top_p"]
        tokens, laws = self.write(body["prompt"], body["n_predict"], body["seed"], _law(body, 0), self.ends)
        post = body["post_sampling_probs"]
        value, many = ("prob", "top_probs") if post else ("logprob", "top_logprobs")

        def entry(law: Law, token: int) -> dict[str, Any]:
            number = float(np.exp(law[token])) if post else float(law[token])
            return {"id": token, "token": self._text([token]), "bytes": [], value: number}

        own = [law["processed" if post else "raw"] for law in laws]
        return 200, {
            "index": 0,
            "content": self._text(tokens),
            "tokens": tokens if body["return_tokens"] else [],
            "stop": True,
            "tokens_predicted": len(tokens),
            "tokens_evaluated": len(body["prompt"]),
            "truncated": False,
            "stop_type": "eos" if tokens[-1] in self.ends else "limit",
            "completion_probabilities": [
                {
                    **entry(law, token),
                    many: [entry(law, each) for each in _top(law, body["n_probs"]) if law[each] > -99],
                }
                for token, law in zip(tokens, own, strict=True)
            ],
        }

    def tgi(self, body: dict[str, Any]) -> tuple[int, Any]:
        given = body["parameters"]
        prompt = self.tokenizer(body["inputs"])["input_ids"]
        tokens, laws = self.write(prompt, given["max_new_tokens"], given["seed"], _law(given, None), self.ends)

        def entry(token: int, law: Law) -> dict[str, Any]:
            return {"id": token, "text": self._text([token]), "logprob": law[token], "special": token in self.ends}

        own = [law["processed"] for law in laws]
        details = {
            "finish_reason": "eos_token" if tokens[-1] in self.ends else "length",
            "generated_tokens": len(tokens),
            "seed": given["seed"],
            "prefill": [{"id": each, "text": "", "logprob": None} for each in prompt],
            "tokens": [entry(token, law) for token, law in zip(tokens, own, strict=True)],
            "top_tokens": [
                [entry(each, law) for each in _top(law, given["top_n_tokens"]) if law[each] > -99] for law in own
            ],
        }
        return 200, {"generated_text": self._text(tokens), "details": details if given["details"] else None}

    def openai(self, body: dict[str, Any]) -> tuple[int, Any]:
        prompt = self.tokenizer(body["prompt"])["input_ids"]
        tokens, laws = self.write(prompt, body["max_tokens"], body["seed"], _law(body, None), self.ends)
        ended = tokens[-1] in self.ends
        shown = tokens[: len(tokens) - ended]
        own = [law["raw"] for law in laws[: len(shown)]]
        given = {
            "tokens": [self._text([each]) for each in shown],
            "token_logprobs": [law[token] for token, law in zip(shown, own, strict=True)],
            "top_logprobs": [{self._text([each]): law[each] for each in _top(law, body["logprobs"])} for law in own],
            "text_offset": [0] * len(shown),
        }
        choice = {
            "text": self._text(shown),
            "index": 0,
            "logprobs": given,
            "finish_reason": "stop" if ended else "length",
        }
        return 200, {"object": "text_completion", "choices": [choice], "usage": {"prompt_tokens": len(prompt)}}

    def _text(self, tokens: Any) -> str:
        return str(self.tokenizer.decode(tokens))

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/info" and self.flavour == "tgi":
            return 200, {"model_id": self.models[0], "max_total_tokens": 32, "router": "text-generation-router"}
        if path != "/v1/models":
            return 404, {"detail": "Not Found"}
        owner = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp"}.get(self.flavour, "someone")
        entries = [{"id": name, "object": "model", "owned_by": owner} for name in self.models]
        return 200, {"object": "list", "data": entries}


@functools.cache
def _scores(model: Any, prefix: tuple[int, ...]) -> np.ndarray:
    """The logits after a prefix, which is read once for all tests."""
    with torch.inference_mode():
        return model(torch.tensor([prefix])).logits[0, -1].double().numpy()


def _law(body: dict[str, Any], all_tokens: int | None) -> SamplingLaw:
    top_k = body.get("top_k", all_tokens)
    return SamplingLaw(
        temperature=body["temperature"], top_k=None if top_k == all_tokens else top_k, top_p=body.get("top_p", 1.0)
    )


def _top(law: Law, k: int) -> list[int]:
    return [int(each) for each in np.argsort(-law, kind="stable")[:k]]


def _finite(value: float) -> float:
    return -9999.0 if value == -np.inf else float(value)


@contextlib.contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(*(stand_in.get(self.path) if self._known() else (401, {"error": "Unauthorized"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = stand_in.fault()
            if not self._known():
                self._send(401, {"error": "Unauthorized"})
            elif fault == "500":
                self._send(500, {"error": {"message": "CUDA error: an illegal memory access was encountered"}})
            elif fault == "429":
                self._send(429, {"error": {"message": "busy"}}, {"Retry-After": "0.01"})
            elif fault == "reset":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif fault in ("cut", "half"):
                text = json.dumps(stand_in.answer(self.path, body)[1]).encode()
                self._send(200, text[: len(text) // 2], declared=len(text) if fault == "cut" else None)
            elif fault == "no log-probs":
                self._send(200, {"choices": [{"text": "a", "logprobs": None, "finish_reason": "length"}]})
            else:
                self._send(*stand_in.answer(self.path, body))

        def _known(self) -> bool:
            return stand_in.key is None or self.headers.get("Authorization") == f"Bearer {stand_in.key}"

        def _send(
            self, status: int, content: Any, headers: dict[str, str] | None = None, declared: int | None = None
        ) -> None:
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(declared or len(text)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)
            if declared:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
