"""Prompts that reasoning-gym generates, held against the package itself, and what is refused of them."""

from typing import Any

import pytest

from jackpot_sim.environments.language_models.generated_prompts import GeneratedPrompts
from jackpot_sim.environments.language_models.prompts import Prompt, encoded
from jackpot_sim.requirements import RequirementError
from tests.cases import each
from tests.packages import without

reasoning_gym = pytest.importorskip("reasoning_gym")


def test_prompts_are_those_of_the_package_with_their_answers_and_repeated_ones_once() -> None:
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    theirs = reasoning_gym.create_dataset("chain_sum", seed=3, size=300, **config)
    wanted = {theirs[at]["question"]: theirs[at]["answer"] for at in range(300)}
    assert len(wanted) < 300, "the case needs a repeated question"
    read = GeneratedPrompts(dataset="chain_sum", config=config, size=300, seed=3, template="Q: {question}\nA:").read()
    assert [(each.messages, each.answer) for each in read] == [
        (({"role": "user", "content": f"Q: {question}\nA:"},), answer) for question, answer in wanted.items()
    ]


def test_a_plain_prompt_is_read_as_it_is_by_a_tokenizer_with_a_template_too() -> None:
    class Tokenizer:
        chat_template = "one"

        def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

        def apply_chat_template(self, messages: Any, **_: object) -> list[int]:
            return [0, *(ord(letter) for letter in messages[0]["content"])]

    (prompt,) = GeneratedPrompts(dataset="chain_sum", size=1, template="{question}", chat=False).read()
    assert prompt.plain
    assert prompt.text
    text, tokenizer = [ord(letter) for letter in prompt.text], Tokenizer()
    assert encoded([prompt], tokenizer)[0].tolist() == text
    assert encoded([prompt], tokenizer, chat=True)[0].tolist() == [0, *text]
    assert encoded([Prompt(text=prompt.text)], tokenizer)[0].tolist() == [0, *text]


@each(
    "fields, message",
    [
        ({"dataset": "chain_sums"}, "reasoning-gym has no data set 'chain_sums'; did you mean .*'chain_sum'.*?"),
        ({"dataset": "chain_sum", "config": {"max_term": 2}}, "no option 'max_term'; did you mean 'max_terms'"),
        ({"dataset": "chain_sum", "config": {"max_terms": 0}}, "chain_sum refuses its options: max_terms"),
        ({"dataset": "chain_sum", "size": 0}, "size must be an integer of at least 1"),
        ({"dataset": "chain_sum", "template": "none"}, "template must hold {question} once"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_a_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedPrompts(**fields).read()


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "reasoning-gym")
    with pytest.raises(RequirementError, match=r"needs reasoning-gym, which is missing: pip install"):
        GeneratedPrompts(dataset="chain_sum").read()
