"""The pair that is made for those without checkpoints, in a small size."""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.environments.language_models import example  # noqa: E402
from jackpot_sim.environments.language_models.build import check_same_vocabulary  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load  # noqa: E402
from jackpot_sim.environments.language_models.example import Example, Made, Size, main, make, trained_model  # noqa: E402
from jackpot_sim.environments.language_models.generation import generate  # noqa: E402
from jackpot_sim.environments.language_models.prompts import PromptFile, encoded  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402

SMALL = Example(
    vocab=320,
    steps=12,
    prompts=3,
    max_bytes=200_000,
    context=32,
    batch=4,
    policy=Size(hidden=64, layers=1),
    actor=Size(hidden=64, layers=1),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made, Counter[str]]:
    out, heard = tmp_path_factory.mktemp("pair"), Counter[str]()
    return out, make(out, SMALL, lambda name, done, all_: heard.update([f"{name} of {all_}"])), heard


def test_a_pair_with_prompts_is_made_that_can_be_loaded_and_sampled(pair: tuple[Path, Made, Counter[str]]) -> None:
    out, _, heard = pair
    policy, actor = (load(out / name, precision=Precision.FP32, device="cpu") for name in ("policy", "actor"))
    check_same_vocabulary(policy.model, actor.model, policy.tokenizer, actor.tokenizer)
    assert policy.tokenizer is not None
    assert policy.tokenizer.chat_template is None
    prompts = PromptFile(path=out / "prompts.jsonl").read()
    assert len(prompts) == 3
    ids = encoded(prompts, policy.tokenizer)
    written = generate(
        CausalLM(actor.model),
        *(ids, np.arange(3), np.random.default_rng(0).random((3, 4))),
        sampling=SamplingLaw(),
        end_tokens=(policy.tokenizer.eos_token_id,),
        batch_size=3,
    )
    assert written.mask[:, 0].all()
    assert heard == {"policy of 12": 12, "actor of 12": 12}


def test_any_text_goes_through_the_tokenizer_and_comes_back(pair: tuple[Path, Made, Counter[str]]) -> None:
    tokenizer = load(pair[0] / "policy", precision=Precision.FP32, device="cpu").tokenizer
    assert tokenizer is not None
    text = "def f(x):\n\treturn 'ü €'  # \x00\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 320
    assert tokenizer.eos_token == "<|endoftext|>"


def test_something_is_learned(pair: tuple[Path, Made, Counter[str]]) -> None:
    made = pair[1]
    assert made.uniform == pytest.approx(math.log(320))
    assert set(made.losses) == {"policy", "actor"}
    assert all(loss < made.uniform - 0.5 for loss in made.losses.values())


def test_the_same_configuration_makes_the_same_files(pair: tuple[Path, Made, Counter[str]], tmp_path: Path) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        made = make(tmp_path / "again", SMALL)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()
    assert made == pair[1]
    again = tmp_path / "again"
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        assert (again / file).read_bytes() == (pair[0] / file).read_bytes()


def test_weights_depend_on_the_seed_and_the_name(pair: tuple[Path, Made, Counter[str]]) -> None:
    tokenizer = load(pair[0] / "policy", precision=Precision.FP32, device="cpu").tokenizer
    ids = np.arange(300)
    with torch.random.fork_rng(devices=[]):
        first, again, seed, name = (
            trained_model(name, SMALL.policy, ids, dataclasses.replace(SMALL, steps=1, seed=seed), tokenizer)
            for name, seed in (("policy", 0), ("policy", 0), ("policy", 1), ("actor", 0))
        )
    weights = [model.model.embed_tokens.weight.detach() for model in (first, again, seed, name)]
    assert torch.equal(weights[0], weights[1])
    assert all(float((weights[0] - other).abs().max()) > 0.05 for other in weights[2:])  # more than a step moves them


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match="holds something already"):
        make(tmp_path, SMALL)
    with pytest.raises(ValueError, match="cannot write there"):
        make(tmp_path / "mine", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_too_many_prompts_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gives \d+ prompts, not 9999: ask for fewer"):
        make(tmp_path, Example(prompts=9999, max_bytes=60_000))


@pytest.mark.parametrize("changes", [{"vocab": 200}, {"steps": 0}, {"prompts": 0}, {"seed": -1}, {"max_bytes": 10}])
def test_a_config_out_of_range_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} must be an integer of at least"):
        Example(**changes)  # type: ignore[arg-type]


def test_the_command_says_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[Example]()

    def pretend(out: Path, config: Example, report: example.Report) -> Made:
        asked.append(config)
        report("policy", 1, 2)
        return Made(losses={"policy": 1.0, "actor": 2.0}, uniform=3.0)

    monkeypatch.setattr(example, "make", pretend)
    assert main([str(tmp_path), "--vocab", "512", "--steps", "7"]) == 0
    assert asked == [Example(vocab=512, steps=7)]
    said = capsys.readouterr().out
    assert f"{tmp_path / 'policy'}: 1.00 nats per token of unseen code, perplexity 3 (uniform law: 3.00" in said
    assert f"{tmp_path / 'prompts.jsonl'}: prompts" in said


def test_the_command_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    for argv, error in (
        ([str(tmp_path)], "holds something already"),
        ([str(tmp_path / "new"), "--vocab", "5"], "vocab must be an integer of at least 300"),
        ([str(tmp_path / "new"), "--nothing"], "nothing"),
        ([], "out"),
    ):
        assert main(argv) == 2
        assert error in capsys.readouterr().err.lower()
    assert main(["--help"]) == 0
