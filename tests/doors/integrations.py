"""The doors of jackpot_sim.integrations: the hooks of trainers, with stand-ins of what they call. All take tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Tokens, TokenWeights
from jackpot_sim.integrations import corrected, miles, packed, packed_loss, prime_rl, skyrl, slime
from jackpot_sim.integrations.corrected import Corrected, Loss, Settings
from jackpot_sim.integrations.trl import batches, processes
from jackpot_sim.integrations.trl.states import FusedHead, OnTopK
from jackpot_sim.integrations.verl import batches as verl_batches
from jackpot_sim.integrations.verl import losses
from jackpot_sim.training.objective import TokenPass
from tests.doors import objective
from tests.doors.harness import Door, Given, Sizes, Values, array, floats, ids, laws, masks, negative, numbers
from tests.doors.objective import MASK, PROPOSED, SHARES, TOKENS, partial_laws, whole_mask
from tests.integrations import verl_stand_ins
from tests.integrations.test_slime import responses, scored

EXEMPT: Mapping[str, str] = {
    **{
        f"integrations.packed.Layout.{name}": "a protocol: Slime and Miles have doors"
        for name in ("log_probs", "logits")
    },
    **{f"integrations.packed.Layout.{name}": "a protocol, as of Slime" for name in ("whole", "part")},
    "integrations.packed.check_as_many": "counts rows alone: corrected_term and whole_loss have doors",
    "integrations.slime.Slime.whole": "hands rows to slime's own gather: tis_function checks what comes of it",
    "integrations.slime.Slime.part": "hands rows to slime's own slice: tis_function checks what comes of it",
}
"""The public functions without a door, and why."""

PROMPT = 1
JACKPOT = Settings.of("jackpot", topk=0)
CENTRED = Settings.of({"kind": "tis", "clip": 1.5, "centred": True}, topk=2)
NUMBERS_OF_MASKS = {"any_dtype": True}
"""1 on tokens, of any dtype, as trainers have it."""


def named(name: str, call: Callable[..., Any], given: Mapping[str, Given], **options: Any) -> Door:
    """A door of a function that takes tensors alone."""
    return Door(call, given, name=f"integrations.{name}", numpy=False, **options)


def made(given: Mapping[str, Given]) -> Callable[[np.random.Generator, Sizes], Mapping[str, Any]]:
    """Tensors that fit, as the fixed arguments of a door."""

    def fixed(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
        shapes = {
            name: tuple(int(a) if a.isdecimal() else sizes[a] for a in each.shape) for name, each in given.items()
        }
        return {name: torch.as_tensor(each.make(generator, shapes[name], sizes)) for name, each in given.items()}

    return fixed


def standing_in(call: Callable[..., Any], modules: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
    """A function that finds these modules where a trainer's own are."""
    found = {name: ModuleType(name) for name in modules}
    for name, functions in modules.items():
        vars(found[name]).update(functions)

    def called(**arguments: Any) -> Any:
        with mock.patch.dict(sys.modules, found):
            return call(**arguments)

    return called


# --- All trainers -----------------------------------------------------------------------------------------------------

ON_TOPK = {name: PROPOSED[name] for name in ("topk_ids", "topk_log_probs")}


def policy_loss(new_log_probs: Any, new_on_topk: Any, shares: Any, **given: Any) -> Any:
    """A centred loss, which uses all arrays."""
    new = TokenPass(new_log_probs, new_on_topk)
    return corrected.policy_loss(CENTRED, objective.proposed(**given), new, Loss(), shares)


OF_ALL = (
    named(
        "corrected.policy_loss",
        policy_loss,
        {
            **PROPOSED,
            **SHARES,
            "new_log_probs": array(TOKENS, negative),
            "new_on_topk": array("n length k", partial_laws),
        },
        letters=("vocab",),
        says=("ids", "log_probs", "topk"),
    ),
    named("corrected.uniforms", corrected.uniforms, {"actor_log_probs": array(TOKENS, negative), **MASK}),
)

# --- slime and miles --------------------------------------------------------------------------------------------------

THEIRS: Mapping[str, Mapping[str, Any]] = {
    "slime.backends.megatron_utils.loss": {
        "get_rollout_top_p_logprob_kwargs": lambda args, batch: {},
        "get_log_probs_and_entropy": lambda logits, **own: (torch.empty(0), scored(logits, **own)),
        "get_responses": responses,
    },
    "miles.backends.training_utils.loss_hub.logit_processors": {
        "get_log_probs_and_entropy": scored,
        "get_responses": responses,
    },
}
"""The functions of slime and miles that make log-probs of logits."""


def vocabulary(sizes: Sizes) -> int:
    """More tokens than are stored."""
    return sizes["vocab"] + sizes.get("k", 0) + 1


def lengths_of(sizes: Sizes) -> list[int]:
    """Those of two responses: where the first is too short, padding to the second would hide it."""
    return [sizes["length"], sizes["length"] + 2]


def states(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """The logits of two prompts with their responses."""
    return laws(generator, (1, sum(lengths_of(sizes)) + 2 * PROMPT, vocabulary(sizes)), sizes)


def stored_ids(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Different tokens of each state."""
    return generator.random((shape[0], vocabulary(sizes))).argsort(axis=-1)[:, : shape[1]]


TERM = {
    "train_log_probs": array("length", negative),
    "rollout_log_probs": array("length", negative),
    "loss_masks": array("length", whole_mask, **NUMBERS_OF_MASKS),
    "pg_loss": array("all", lambda generator, shape, sizes: generator.normal(size=sum(lengths_of(sizes)))),
}
FIELDS = {
    "rollout_log_probs": array("length", negative),
    "loss_masks": array("length", whole_mask, **NUMBERS_OF_MASKS),
    "advantages": array("length", floats),
}
STORED = {
    "rollout_topk_token_ids": array("length k", stored_ids),
    "rollout_topk_log_probs": array("length k", partial_laws),
}
LOGITS = {"logits": array("1 *all *vocab", states)}
"""A vocabulary may be padded, and a batch too: what is too short is knocked at alone, at the layouts."""


def beside(given: Mapping[str, Given]) -> Callable[[np.random.Generator, Sizes], Mapping[str, Any]]:
    """The second response, and what is known of both."""

    def fixed(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
        lengths = lengths_of(sizes)
        tokens = [generator.integers(0, 2, size=each + PROMPT) for each in lengths]
        places = {
            "total_lengths": [each + PROMPT for each in lengths],
            "response_lengths": lengths,
            "unconcat_tokens": [torch.as_tensor(each) for each in tokens],
        }
        rows = {name: each for name, each in given.items() if each.shape[0] == "length"}
        return {"second": made(rows)(generator, {**sizes, "length": lengths[1]}), "places": places}

    return fixed


def both(given: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a microbatch of two responses."""
    return {name: [each, second[name]] for name, each in given.items()}


def rows_of(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields of a microbatch whose responses are equally long; a number is a row."""
    return {name: list(each) if getattr(each, "ndim", 1) else [each] for name, each in given.items()}


def term_of(module: Any) -> Callable[..., Any]:
    """A trainer's call of its TIS function."""

    def call(pg_loss: Any, second: Any, places: Any, **given: Any) -> Any:
        args = SimpleNamespace(jackpot_sim=JACKPOT)
        return module.tis_function(args, pg_loss=pg_loss, **both(given, second), **places)

    return call


def corrected_term(pg_loss: Any, **given: Any) -> Any:
    """The same of a batch with rows of equal lengths, so that there may be more of one field."""
    args = SimpleNamespace(jackpot_sim=JACKPOT)
    return packed.corrected_term(args, slime.Slime(args, [], []), pg_loss, **rows_of(given))


def loss_of(loss: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """A trainer's call of its custom loss."""

    def call(logits: Any, second: Any, places: Any, **given: Any) -> Any:
        args = SimpleNamespace(jackpot_sim=settings, eps_clip=0.2, eps_clip_high=0.28)
        return loss(args, both(given, second) | places, logits, lambda x: (0.3 * x).sum())

    return standing_in(call, THEIRS)


def whole_loss(args: Any, batch: Any, *rest: Any) -> Any:
    """By the places of slime."""
    return packed_loss.whole_loss(args, slime.Slime.of(args, batch), batch, *rest)


def method_of(layout: Any, name: str) -> Callable[..., Any]:
    """A method of a layout."""

    def call(logits: Any, places: Any) -> Any:
        return getattr(layout.of(SimpleNamespace(), places), name)(places, logits)

    return standing_in(call, THEIRS)


def one_response(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """The places of a response of three tokens after two."""
    tokens = [torch.as_tensor(ids("vocab")(generator, (5,), sizes))]
    return {"places": {"total_lengths": [5], "response_lengths": [3], "unconcat_tokens": tokens}}


def packed_proposed(topk_ids: Any, topk_log_probs: Any, **given: Any) -> Any:
    """A microbatch with its arrays as arguments."""
    return packed.proposed(JACKPOT, topk=TopK(topk_ids, topk_log_probs), **given)


OF_PACKED = (
    *(
        named(f"{module.__name__.split('.')[-1]}.tis_function", term_of(module), TERM, fixed=beside(TERM))
        for module in (slime, miles)
    ),
    named(
        "packed.corrected_term",
        corrected_term,
        {
            **{name: array(TOKENS, negative) for name in ("train_log_probs", "rollout_log_probs")},
            "loss_masks": array(TOKENS, whole_mask, **NUMBERS_OF_MASKS),
            "pg_loss": array(
                "all", lambda generator, shape, sizes: generator.normal(size=sizes["n"] * sizes["length"])
            ),
        },
    ),
    *(
        named(name, loss_of(loss, settings), given | LOGITS, fixed=beside(given), letters=("k",))
        for name, loss, settings, given in (
            ("slime.custom_loss", slime.custom_loss, JACKPOT, FIELDS | {"log_probs": array("length", negative)}),
            ("miles.custom_loss", miles.custom_loss, CENTRED, FIELDS | STORED),
            ("packed_loss.whole_loss", whole_loss, CENTRED, FIELDS | STORED),
        )
    ),
    *(
        named(
            f"{module}.{layout.__name__}.{name}",
            method_of(layout, name),
            {"logits": array("1 5 *vocab")},
            fixed=one_response,
        )
        for module, layout in (("slime", slime.Slime), ("miles", miles.Miles))
        for name in ("log_probs", "logits")
    ),
    named(
        "packed.check_rows_of_tokens",
        lambda **given: packed.check_rows_of_tokens(**rows_of(given)),
        {"loss_masks": array(TOKENS, masks, **NUMBERS_OF_MASKS), "log_probs": array(TOKENS, negative)},
    ),
    named(
        "packed.padded",
        lambda first, rows: packed.padded([first, rows]),
        {"first": array("*a width", floats), "rows": array("*b width", floats)},
    ),
    named(
        "packed.unpadded",
        lambda values: packed.unpadded(values, [1, 2, 3]),
        {"values": array("3 3", floats, "3 3 1", "3 3 3", any_dtype=True)},
    ),
    named(
        "packed.proposed",
        packed_proposed,
        {
            "actor": array(TOKENS, negative),
            "reference": array(TOKENS, negative),
            **MASK,
            "advantage": array("n", floats, TOKENS),
            **ON_TOPK,
            "reference_on_topk": array("n length k", partial_laws),
        },
        letters=("vocab",),
        says=("ids", "log_probs", "topk"),
    ),
    named(
        "packed.of_tokens",
        lambda like: packed.of_tokens({"ratio/mean": 1.5}, like),
        {"like": array("n", floats, any_shape=True)},
    ),
)

# --- TRL --------------------------------------------------------------------------------------------------------------


def trl_proposed(mask: Any, reference: Any, reference_on_topk: Any, **batch: Any) -> Any:
    """A batch of TRL with its arrays as arguments."""
    return batches.proposed(batch, mask, reference, reference_on_topk)


def divided(mask: Any, factor: Any) -> Any:
    """Over two processes, of which each has the same tokens, all of them kept."""
    gathered = SimpleNamespace(
        num_processes=2, gather=lambda own: torch.cat([own, own]), pad_across_processes=lambda own, dim: own
    )
    kept = torch.ones_like(factor, dtype=torch.bool)
    weights = TokenWeights(torch.ones_like(factor), factor)
    found = Corrected(Tokens(factor.log()), weights, kept, factor, 0.5)
    return processes.divided(gathered, Settings.of("tis", divisor="batch_normalized"), found, mask)


class Backbone(torch.nn.Module):
    """The part of a model whose hidden states are seen."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor]:
        """Gives them as they are."""
        return (hidden,)


def model_of(head: Any) -> Any:
    """A model with such a head."""
    embeddings = SimpleNamespace(weight=head, bias=None)
    return SimpleNamespace(base_model=Backbone(), get_output_embeddings=lambda: embeddings)


HEAD = FusedHead(temperature=1.0, scale=1.0, cap=None, single=True)
WEIGHTS = {"head": array("vocab 7")}


def head_logits(head: Any, **given: Any) -> Any:
    """Those of a model with such a head."""
    return HEAD.logits(**given, model=model_of(head))


def on_topk(topk_ids: Any, topk_log_probs: Any, of_sampled: Any, hidden: Any, head: Any, **batch: Any) -> Any:
    """log p on the top-k from a pass over a batch."""
    found, model = OnTopK(HEAD, **batch, topk=TopK(topk_ids, topk_log_probs)), model_of(head)
    with found.seen(model):
        model.base_model(hidden)
    return found.log_probs(of_sampled)


SAMPLED = {"of_sampled": array(TOKENS, negative)}
SEEN = {"tokens": array(TOKENS, ids("vocab")), **ON_TOPK, **MASK}
PASSED = {"hidden": array("n 9 7"), **WEIGHTS}
OF_TRL = (
    named(
        "trl.batches.proposed",
        trl_proposed,
        {
            "actor_log_probs": array(TOKENS, negative),
            **MASK,
            "reference": array(TOKENS, negative),
            "reference_on_topk": array("n length k", partial_laws),
            "advantages": array("n", floats, TOKENS),
            "correction_uniforms": array(TOKENS, numbers(0, 1)),
            **{f"actor_{name}": each for name, each in ON_TOPK.items()},
        },
        letters=("vocab",),
        says=("advantage", "uniforms", "ids", "log_probs", "topk"),
    ),
    named(
        "trl.processes.divided",
        divided,
        {"mask": array(TOKENS, masks)},
        fixed=made({"factor": array(TOKENS, numbers(0.1, 2))}),
    ),
    named(
        "trl.states.FusedHead.logits",
        head_logits,
        {"states": array("n 7"), "ids": array("n *k", ids("vocab"))},
        fixed=made(WEIGHTS),
        letters=("vocab",),
    ),
    named(
        "trl.states.OnTopK",
        on_topk,
        SEEN,
        fixed=made(PASSED | SAMPLED),
        letters=("vocab",),
        says=("ids", "log_probs", "topk"),
    ),
    named("trl.states.OnTopK.log_probs", on_topk, SAMPLED, fixed=made(SEEN | PASSED), letters=("k", "vocab")),
)

# --- verl, prime-rl and SkyRL -----------------------------------------------------------------------------------------

OF_VERL = {name: vars(module) for name, module in verl_stand_ins.modules().items()}
VERL_MASK = {"response_mask": array(TOKENS, masks, **NUMBERS_OF_MASKS)}


def verl_loss(**given: Any) -> Any:
    """In bypass mode."""
    bypass = {"rollout_correction": {"correction": "jackpot", "bypass_mode": True}}
    return losses.policy_loss(**given, config=verl_stand_ins.actor_config(bypass))


def prime_rl_loss(**inputs: Any) -> Any:
    """Of a sequence with its arrays as arguments."""
    return prime_rl.corrected_loss(SimpleNamespace(**inputs))


def skyrl_loss(**given: Any) -> Any:
    """With SkyRL's usual clip."""
    config = SimpleNamespace(eps_clip_low=0.2, eps_clip_high=0.28)
    return skyrl.corrected_policy_loss("jackpot")(**given, config=config)


OF_OTHERS = (
    named(
        "verl.batches.mask_of", verl_batches.mask_of, {"response_mask": array("*n *length", masks, **NUMBERS_OF_MASKS)}
    ),
    named(
        "verl.batches.proposed",
        lambda **fields: verl_batches.proposed(fields, Settings.of("jackpot", topk=2)),
        {
            **VERL_MASK,
            "rollout_log_probs": array(TOKENS, negative),
            "old_log_probs": array(TOKENS, negative),
            "rollout_topk_ids": array("n length k", ids("vocab")),
            "rollout_topk_log_probs": array("n length k", partial_laws),
            "old_topk_log_probs": array("n length k", partial_laws),
        },
        letters=("vocab",),
        says=("topk",),
    ),
    named(
        "verl.losses.policy_loss",
        standing_in(verl_loss, OF_VERL),
        {
            "old_log_prob": array(TOKENS, negative),
            "log_prob": array(TOKENS, negative),
            "advantages": array(TOKENS),
            **VERL_MASK,
        },
    ),
    named(
        "prime_rl.corrected_loss",
        standing_in(
            prime_rl_loss, {"prime_rl.trainer.rl.loss": {"LossOutputs": lambda loss, metrics: (loss, metrics)}}
        ),
        {
            "trainer_logprobs": array("length", negative),
            "inference_logprobs": array("length", negative),
            "advantages": array("length"),
            "loss_mask": array("length", whole_mask),
            "loss_weights": array("length", numbers(0.1, 1)),
        },
    ),
    named(
        "skyrl.CorrectedPolicyLoss.__call__",
        skyrl_loss,
        {
            **{name: array(TOKENS, negative) for name in ("log_probs", "old_log_probs", "rollout_logprobs")},
            "advantages": array(TOKENS),
            "loss_mask": array(TOKENS, masks, **NUMBERS_OF_MASKS),
        },
    ),
)
DOORS = (*OF_ALL, *OF_PACKED, *OF_TRL, *OF_OTHERS)
