"""A token for every character: exact in both directions, saved and read again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.environments.language_models.checkpoints import load_tokenizer
from jackpot_sim.environments.language_models.prompts import Prompt, encoded
from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.characters import END, PRINTABLE, character_tokenizer

pytest.importorskip("transformers")

ALPHABETS = [Addition().characters, PRINTABLE, "aé\u0301 \t世"]
PRINTED = character_tokenizer(PRINTABLE)


@given(st.text(PRINTABLE))
def test_texts_come_back_as_they_were(text: str) -> None:
    ids = PRINTED(text)["input_ids"]
    assert ids == [PRINTABLE.index(character) + 1 for character in text]
    assert PRINTED.decode(ids) == text
    assert PRINTED.decode([*ids, 0, 0], skip_special_tokens=True) == text


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_saved_and_read_again_it_is_the_same(alphabet: str, tmp_path: Path) -> None:
    made = character_tokenizer(alphabet)
    made.save_pretrained(tmp_path)
    read = load_tokenizer(tmp_path)
    assert read is not None
    text = alphabet + alphabet[::-1] + alphabet[:1] * 3
    for tokenizer in (made, read):
        assert tokenizer(text)["input_ids"] == made(text)["input_ids"]
        assert tokenizer.decode(made(text)["input_ids"]) == text
        assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
        assert tokenizer.bos_token_id is None
        assert len(tokenizer) == tokenizer.vocab_size == len(alphabet) + 1
        assert tokenizer.padding_side == "left"


def test_prompts_are_read_without_anything_added() -> None:
    task = Addition(digits=2)
    tokenizer = character_tokenizer(task.characters)
    assert [ids.tolist() for ids in encoded([Prompt(text="01+23=")], tokenizer)] == [[1, 2, 11, 3, 4, 12]]


def test_a_character_outside_the_alphabet_is_an_error() -> None:
    with pytest.raises(Exception, match="Missing"):
        character_tokenizer("ab")("abc")


@pytest.mark.parametrize(
    ("alphabet", "error"),
    [("", "the alphabet is empty"), ("abca", "holds 'a' more than once"), (f"a{END}", "stands for the end")],
)
def test_an_alphabet_that_makes_no_tokenizer_is_refused(alphabet: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        character_tokenizer(alphabet)
