"""When an answer is right, however it is written, and what cannot be read is wrong and does not take for ever."""

import logging
import threading
import time

import numpy as np
import pytest

from jackpot_sim.requirements import RequirementError
from jackpot_sim.training.tasks import scoring
from jackpot_sim.training.tasks.scoring import MathReward, marked_answer
from tests.packages import without

pytest.importorskip("math_verify")

RIGHT = [
    ("12", "12"),
    ("12", " 12.\n"),
    ("12", "She has 12."),
    ("12", "3*4=12\n#### 12"),
    ("12", "#### 12 apples"),
    ("12", "#### $12.00"),
    ("12", r"First \boxed{3}, so \boxed{12}."),
    ("12", r"\fboxed{12}"),
    ("252", r"\boxed{\binom{10}{5}}"),
    ("1234", "#### 1,234"),
    ("1,234", r"\boxed{1234}"),
    ("033", "33"),
    ("3/4", r"\boxed{\frac{6}{8}}"),
    ("3/4", "0.75"),
    ("3.50", "#### 3.5"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\frac{1}{2}", "#### 1/2"),
    ("6 - 5i", r"\boxed{-5i+6}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}"),
    (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
    ("2^{2019}", r"\boxed{2 \cdot 2^{2018}}"),
    ("[2,5)", r"\boxed{[2, 5)}"),
]
WRONG = [
    ("12", "13"),
    ("12", ""),
    ("12", "12 13"),
    ("12", "####"),
    ("12", "#### 13 of 12"),
    ("12", r"\boxed{12} or \boxed{13}"),
    ("12", "#### 12, no: \\boxed{13}"),
    ("12", r"\boxed{}"),
    ("12", r"\boxed{121}"),
    ("12", "-12"),
    ("12", "1/0"),
    ("3/4", "4/3"),
    ("3/4", "0.74"),
    (r"\frac{1}{3}", "0.33"),
    ("6 - 5i", r"\boxed{6+5i}"),
    ("[2,5)", r"\boxed{[2, 5]}"),
    (r"\text{Evelyn}", r"\boxed{\text{John}}"),
]
ENDLESS = [
    r"\boxed{9^{9^{9^9}}}",
    "2^(2^(2^(2^5)))",
    r"\boxed{10000000!}",
    r"\boxed{\binom{100000000}{50000000}}",
    r"\boxed{((9^{999})^{999})^{999}}",
    r"\boxed{(x+1)^{99999999}}",
    r"\boxed{\begin{pmatrix} 9^{9^{9^9}} \end{pmatrix}}",
    r"\boxed{" * 3000,
    r"\boxed{" + "1" * 5000 + "}",
    "x" * 100_000,
    "1" * 10_000,
]


@pytest.mark.parametrize(("answer", "completion"), RIGHT)
def test_right_answers(answer: str, completion: str) -> None:
    assert MathReward().of_texts([completion], [answer]).tolist() == [1.0]


@pytest.mark.parametrize(("answer", "completion"), WRONG)
def test_wrong_answers(answer: str, completion: str) -> None:
    assert MathReward().of_texts([completion], [answer]).tolist() == [0.0]


@pytest.mark.parametrize("completion", ENDLESS)
def test_what_would_take_for_ever_is_wrong(completion: str) -> None:
    start = time.monotonic()
    assert MathReward().of_texts([completion], ["12"]).tolist() == [0.0]
    assert time.monotonic() - start < 4  # The library's own limit is 5 s, and none in a thread.


def test_only_marked_answers_count_if_so_chosen() -> None:
    completions = ["12", "It is 12", "#### 12", r"\boxed{12}", "#### 13"]
    assert MathReward(marked=True).of_texts(completions, ["12"] * 5).tolist() == [0, 0, 1, 1, 0]


def test_decimals_agree_to_the_rounding() -> None:
    rewards = [MathReward(rounding=digits).of_texts(["0.3333"], [r"\frac{1}{3}"])[0] for digits in (4, 5)]
    assert rewards == [1.0, 0.0]


def test_a_thread_scores_as_the_main_one_does() -> None:
    found: list[float] = []
    answers, completions = zip(*RIGHT, *WRONG, strict=True)

    def score() -> None:
        found.extend(MathReward().of_texts(completions, answers).tolist())

    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    assert found == [1.0] * len(RIGHT) + [0.0] * len(WRONG)


def test_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger("math_verify").level
    # The library warns once in a process that it has no time limit.
    for module in ("parser", "grader"):
        monkeypatch.setattr(f"math_verify.{module}.TIMEOUT_WARNING_SHOWN", False)
    thread = threading.Thread(target=lambda: MathReward().of_texts([r"\boxed{\frac{1}{}", "y^2 is 1"], ["x+1", "y^3"]))
    thread.start()
    thread.join()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger("math_verify").level == level


def test_the_shape_and_type_of_rewards() -> None:
    rewards = MathReward().of_texts(["1", "2", "3"], ["1", "2", "4"])
    assert rewards.dtype == np.float64
    assert rewards.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("12", None),
        (r"\boxed{12", None),
        (r"\boxed {a{b}c} d}", "a{b}c"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{so \boxed{2}}", "2"),
        ("#### 1\n#### 2\nend", "2"),
        ("####\n 5 \n6", "5"),
    ],
)
def test_where_the_answer_is_found(completion: str, found: str | None) -> None:
    assert marked_answer(completion) == found


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="an answer is empty"):
        MathReward().of_texts(["12"], [" "])
    with pytest.raises(ValueError, match="rounding must be an integer from 1 to 15"):
        MathReward(rounding=0)
    without(monkeypatch, "math-verify")
    scoring._library.cache_clear()
    with pytest.raises(RequirementError, match="needs math-verify, which is missing: pip install"):
        MathReward().of_texts(["a quarter"], [r"\sqrt{17}"])
