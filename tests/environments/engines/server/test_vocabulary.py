"""Texts of tokens become ids by the vocabulary; what may be several tokens, or none, is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from jackpot_sim.environments.engines.server.ask import ServerError
from jackpot_sim.environments.engines.server.vocabulary import Vocabulary


class Letters:
    """A tokenizer as far as it is asked: its vocabulary, and the splitting of a text into its letters."""

    all_special_tokens = ("<end>",)

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def get_vocab(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(self.names[each] for each in ids)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.names.index(sign) for sign in text]}


def vocabulary(*names: str) -> Vocabulary:
    return Vocabulary(cast("Any", Letters(*names)))


def test_byte_level_tokens_are_known_by_text_and_by_bytes() -> None:
    # The alphabet of GPT-2: Ġ is a space, â ĺ ĥ are the bytes E2 98 83 of ☃.
    found = vocabulary("<end>", "Ġa", "âĺ", "ĥ", "âĺĥ")
    assert found.id(" a") == 1
    assert found.id("☃") == 4
    assert found.id(r"bytes:\xe2\x98") == 2
    assert found.id(r"bytes:\x83") == 3
    assert found.id("Ġa") == 1, "as the vocabulary spells it"
    assert found.id("<end>") == 0
    with pytest.raises(ServerError, match="may be any of 2 tokens of the policy, such as 2 and 3"):
        found.id("\ufffd")
    with pytest.raises(ServerError, match="is none of the policy's tokenizer"):
        found.id("b")


def test_tokens_of_sentencepiece_are_known_with_their_spaces() -> None:
    found = vocabulary("<end>", "▁a", "a", "<0x41>", "A")
    assert (found.id(" a"), found.id("a")) == (1, 2)
    with pytest.raises(ServerError, match="may be any of 2 tokens of the policy, such as 3 and 4"):
        found.id("A")


def test_a_prompt_that_its_text_does_not_give_back_is_refused() -> None:
    found = vocabulary("a", "b", "ab")
    assert found.text([0, 1]) == "ab"
    with pytest.raises(ServerError, match="the tokenizer makes other tokens of 'ab'"):
        found.text([2])
