"""The tokens of a tokenizer in letters: from the text that a server writes for a token to its id, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from jackpot_sim.environments.engines.server.ask import ServerError
from jackpot_sim.environments.language_models.library import Tokenizer

_BYTES = "bytes:"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    r"""The letters of every token, by which texts are aligned with ids.

    A server writes a token as its text, as `bytes:\xe2\x98` where its bytes are no text, or as the vocabulary spells
    it. Two tokens may share a text, bytes that are no text above all; which of them it was is then not known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Reads the tokenizer's vocabulary."""
        self._tokenizer = tokenizer
        spelt: dict[str, int] = tokenizer.get_vocab()
        special = set(tokenizer.all_special_tokens)
        letters = _letters(spelt)
        self._of_bytes: dict[bytes, list[int]] = {}
        self._of_text: dict[str, list[int]] = {}
        for name, token in spelt.items():
            content = name.encode() if name in special else letters(name)
            self._of_bytes.setdefault(content, []).append(token)
            self._of_text.setdefault(content.decode("utf-8", errors="replace"), []).append(token)
        self._spelt = spelt

    def id(self, text: object) -> int:
        """The id of the token that a server writes so.

        Raises:
            ServerError: no token is written so, or more than one.
        """
        if not isinstance(text, str):
            raise ServerError(f"it gives {text!r} in the place of a token's text")
        if text.startswith(_BYTES):
            found = self._of_bytes.get(_unescaped(text[len(_BYTES) :]), [])
        else:
            found = self._of_text.get(text) or ([self._spelt[text]] if text in self._spelt else [])
        if len(found) == 1:
            return found[0]
        if found:
            raise ServerError(
                f"its token {text!r} may be any of {len(found)} tokens of the policy, such as {found[0]} and "
                f"{found[1]}: serve the model where token ids come back (vLLM, SGLang, llama.cpp)"
            )
        raise ServerError(f"its token {text!r} is none of the policy's tokenizer: serve the policy's own tokenizer")

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prompt, of which the tokenizer makes the very same ids.

        Raises:
            ServerError: it makes others.
        """
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        if list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) != list(ids):
            raise ServerError(
                f"it takes prompts as text alone, and the tokenizer makes other tokens of {text[:40]!r} than the "
                "prompt's own: serve the model where prompts may be ids (vLLM, SGLang, llama.cpp)"
            )
        return text


def _letters(spelt: dict[str, int]) -> Callable[[str], bytes]:
    """The function from the spelling of an ordinary token to its bytes, by the kind of the vocabulary."""
    if any("Ġ" in name for name in spelt):
        alphabet = _byte_alphabet()
        return lambda name: (
            bytes(alphabet[sign] for sign in name) if all(sign in alphabet for sign in name) else name.encode()
        )

    def piece(name: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(name)
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()

    return piece


def _byte_alphabet() -> dict[str, int]:
    """The signs in which byte-level vocabularies (of GPT-2 and after) spell bytes: themselves, or signs from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _unescaped(text: str) -> bytes:
    r"""The bytes of a text such as `\xe2\x98`."""
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
