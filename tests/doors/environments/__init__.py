"""The doors of environments, a file a world."""

from __future__ import annotations

from collections.abc import Mapping

from tests.doors.environments.models import MODELS
from tests.doors.environments.sequences import SEQUENCES_DOORS
from tests.doors.environments.states import STATES

EXEMPT: Mapping[str, str] = {
    "environments.engines.engine.Engine.check": "a protocol",
    "environments.engines.engine.Engine.write": "a protocol",
    "environments.engines.engine.LawEngine.laws": "a protocol",
    "environments.engines.engine.ModelEngine.check": "by checked_prompts",
    "environments.engines.engine.ModelEngine.write": "by generate",
    "environments.engines.engine.ModelEngine.laws": "compared with written by streaming.laws",
    **dict.fromkeys(
        (f"environments.engines.llama_cpp.LlamaCpp.{name}" for name in ("check", "laws", "write")),
        "by Completions.of_ids and checked_ids, whose doors are those of Completions.checked",
    ),
    **dict.fromkeys(
        (f"environments.engines.llama_library.Reader.{name}" for name in ("extend", "step")),
        "called by LlamaCpp, with ids that it has checked",
    ),
    **dict.fromkeys(
        (f"environments.language_models.generation.{name}" for name in ("Pages", "Pages.draw", "Pages.written")),
        "called by engines, with what generate and LlamaCpp.write have checked",
    ),
    "environments.language_models.completions.Completions.of_ids": "by Completions.checked, which calls it",
    "environments.language_models.completions.checked_ids": "by checked_prompts, which calls it",
    "environments.language_models.walking.check_ids": "by check_tokens, which calls it",
    "environments.engines.server.engine.ServerEngine.check": "needs a server; in its own tests",
    "environments.engines.server.engine.ServerEngine.write": "needs a server; in its own tests",
    "environments.engines.server.engine.ServerEngine.asks": "of what check and write have checked",
    "environments.engines.sharing.SharingEngine": "keeps what it has made itself",
    "environments.engines.sharing.SharingEngine.laws": "compared with written by streaming.laws",
    "environments.engines.sharing.SharingEngine.norm_gradients": "by Completions.checked",
    "environments.engines.sharing.SharingEngine.states": "by Completions.checked",
    "environments.engines.sharing.SharingEngine.write": "by generate",
    "environments.language_models.norm_gradients.NormGradients": "takes what an engine wrote and read",
    "environments.language_models.norm_gradients.NormGradients.of": "as gradients, with which a test compares it",
    "environments.language_models.reading.Reader.hidden": "called by last_hidden, on states that it has made",
    "environments.language_models.reading.Reader.logits": "called by laws, on states that last_hidden made",
    "environments.language_models.states.States": "made by generate of its model's own states",
    "environments.language_models.states.empty_states": "looks at the dtype, the device and the width alone",
    **dict.fromkeys(
        (f"environments.language_models.together.{name}" for name in ("Rows", "Rows.read")),
        "called by generate, with what it has checked and drawn",
    ),
    "environments.language_models.walking.seen": "called by generate and Reader, with a mask that they made",
    "environments.language_models.block_gradients.OtherTokens.beside": "called by gradients, which has checked it",
    "environments.language_models.completions.Completions.logits": "its arrays are a model's parameters, by name",
    "environments.language_models.example.trained_model": "trains for minutes; its check is that of loss_on",
    "environments.language_models.scoring.Scorer.log_probs": "a protocol",
    "environments.language_models.scoring.Scorer.log_probs_along": "a protocol",
    "environments.language_models.scoring.Scorer.draw": "a protocol",
    "environments.language_models.walking.on_device": "takes any array",
    "environments.language_models.walking.new_tokens": "prompts that check_tree has checked",
    "environments.prefix_tree.PrefixShift": "a result",
    "environments.states.actor_file.ActorFile.actor_law": "compared with a file",
    "environments.states.actor_file.ActorFile.solve": "looks at no array",
    "environments.states.advantage.FileAdvantage.draw": "compared with a file",
    "environments.states.mismatch.Mismatch.laws": "abstract",
    "environments.states.mismatch.Mismatch.solve": "abstract",
    "environments.states.mismatch.TransformedLaw.laws": "as actor_law",
    "environments.states.mismatch.TransformedLaw.actor_law": "abstract",
    "environments.states.compressed.QuantizedLogits.solve": "looks at no array",
    "environments.states.compressed.LowerOrder.solve": "looks at no array",
    "environments.states.perturbed.DirichletMixture.solve": "looks at no array",
    "environments.states.perturbed.LogitNoise.solve": "looks at no array",
    "environments.states.perturbed.Temperature.solve": "looks at no array",
    "environments.states.stale.StaleLogits.solve": "looks at no array",
}
"""The public functions without a door, and why."""

DOORS = (*STATES, *SEQUENCES_DOORS, *MODELS)
