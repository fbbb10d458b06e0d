"""What every column of the records is, with its unit: `python -m jackpot_sim.sweep --columns`.

p is the policy, q the actor, A the advantage, g the true policy gradient; KLs are in nats. A figure without a
unit is a number.
"""

from __future__ import annotations

from jackpot_sim.sweep import records

_CELL = {
    "cell": "names the cell, an environment with a seed, and its shard",
    "environment": "the environment's configuration, as JSON",
}

_RECORDS = _CELL | {
    "env_kind": "what sets the actor apart: a mismatch family, or the source of a language-model actor",
    "base_kind": "where the policies come from: a base law, small-lm, or hf",
    "knob_name": "the one number of env_kind that is varied",
    "knob": "its value, given or solved for",
    "target_divergence": "the direction of target_kl",
    "target_kl": "the mean KL that was asked for, nats; empty if the knob was given",
    "achieved_kl": "the mean KL that the knob gives, nats; of real models over a few rollouts of the policy",
    "vocab": "tokens of the vocabulary",
    "states": "independent states, or prompts",
    "length": "the most new tokens of a sequence",
    "seed": "what all randomness is keyed by",
    "space": "in which gradients of sequences are taken: logits or parameters",
    "estimator": "the estimator with its parameters",
    "estimator_kind": "its name",
    "level": "whether it looks at single tokens or at sequences",
    "masked_by": "an estimator that is multiplied with it",
    "target": "p_ref, the policy before the update, or p_new, the one that is trained",
    "rao_blackwell": "whether the mask is replaced by its mean",
    "batch_normalize": "whether weights are divided by their mean over the batch",
    "clip": "C, the largest weight",
    "floor": "the smallest weight",
    "low": "lower bound on the ratio",
    "high": "upper bound on the ratio",
    "bound": "upper bound on a k-statistic",
    "lam": "λ of OBRS, where it is one number",
    "c1": "Jackpot's clip of Z·max(λ, r)",
    "c2": "Jackpot's clip of p_ref/p_new",
    "threshold": "of veto and M2PO",
    "delta": "of OPSM",
    "aggregate": "how the tokens' values become one of the sequence",
    "inverted": "whether bounds are on 1/r, as verl's k1 bounds are",
    "acceptance_budget": "the acceptance rate that λ was solved for",
    "budget_per_state": "whether each state got a λ of its own",
    "denominator": "divisor of the weighted sum: proposed, all tokens; accepted, the share of the batch's tokens that "
    "its drawn masks keep; self_normalized, the mean m·w of each state or prompt (for sequences with p_new/p_ref)",
    "method": "exact (closed form or enumeration) or monte_carlo",
    "kl_policy_actor": "KL(p‖q): mean over states; of sequences per token that the policy writes",
    "kl_actor_policy": "KL(q‖p): mean over states; of sequences per token that the actor writes",
    "total_variation": "of p and q, in [0, 1]; over states, or tokens that the actor writes",
    "chi_square": "χ²(p‖q) = Σ p²/q − 1; likewise",
    "kl_sequence": "KL(p‖q) of whole sequences",
    "chi_square_sequence": "χ²(p‖q) of whole sequences",
    "mean_length": "tokens that the actor writes in a sequence",
    "prefix_total_variation": "total variation of the two laws of the last prefix",
    "acceptance_rate": "the share of tokens that the mask keeps",
    "kl_accepted": "KL(p‖·) of the accepted tokens' law, of sequences of visits; hf: mean over the actor's states",
    "kl_effective": "the same of the law that the weighted update samples",
    "kl_prefix": "the part of kl_effective that is due to the law of prefixes",
    "bias_sq": "‖E[update] − g‖²/‖g‖²; an unbiased estimate of it may be negative",
    "bias": "its root",
    "direction_bias": "1 − cos(E[update], g)",
    "gain": "⟨E[update], g⟩/‖g‖²: the share of the gradient that is left",
    "variance": "of one proposal, over that of one of the policy's own",
    "mse": "E‖update − g‖²/‖g‖² with n_samples proposals per state; 1 is that of no update",
    "mse_rescaled": "the same of the update's best multiple",
    "ess_fraction": "E[mw]²/E[m w²], in [0, 1]",
    "bias_share_prefix": "Shapley share of the bias: the actor's prefixes",
    "bias_share_continuation": "likewise: its continuations",
    "bias_share_weight": "likewise: the token's own weight",
    "grad_norm_sq": "‖g‖², advantage²",
    "on_policy_variance": "variance of one proposal of the policy itself, advantage²",
    "noise_to_signal": "on_policy_variance / grad_norm_sq",
    "degenerate_states": "states without a gradient or without anything kept",
    "n_samples": "proposals per state, or sequences of each prompt, in an update",
    "replicates": "simulated updates",
    "config_hash": "digest of the study, its files and our version",
    "version": "of jackpot_sim",
    "numpy": "its version",
    "python": "its version",
    "commit": "of a checkout",
    "seconds": "what this row took",
    "weight_seconds": "what masks and weights of all of the actor's tokens took, Z given; hf",
}

_STATES = {
    "cell": _CELL["cell"],
    "estimator": _RECORDS["estimator"],
    "denominator": _RECORDS["denominator"],
    "state": "which state or prompt of the cell",
    "kl_policy_actor": "KL(p‖q) there",
    "acceptance_rate": "E[kept tokens]/E[tokens]",
    "weight_mean": "E[Σ mw]/E[units]; a unit is a token or a sequence",
    "weight_square": "E[Σ mw²]/E[units]",
    "grad_norm_sq": "‖g‖²",
    "on_policy_variance": "variance of one proposal of the policy",
    "divisor": "D, by which the expected update is divided",
    "error_sq": "‖ĝ − g‖², ĝ the expected update",
    "error_dot": "⟨ĝ − g, g⟩",
    "estimate_sq": "‖ĝ‖²",
    "estimate_dot": "⟨ĝ, g⟩",
    "second_moment": "E‖X‖² of one weighted proposal X",
    "kl_accepted": "as in records",
    "kl_effective": "as in records",
    "kl_prefix": "as in records",
    "length": "E[tokens]",
    "units": "E[units]",
    "kept_dot_cov": "Cov(⟨X, g_w⟩, kept tokens), g_w = E[X]",
    "length_dot_cov": "Cov(⟨X, g_w⟩, tokens)",
    "kept_var": "Var(kept tokens)",
    "kept_length_cov": "Cov(kept tokens, tokens)",
    "length_var": "Var(tokens)",
}

_DIAGNOSTICS = _CELL | {
    "figure": "which figure; a run's own table says what each is",
    "value": "of all rollouts of the actor",
    "se": "standard deviation of bootstrap replicates, which resample sequences; of rewards over rollouts",
    "low": "lower end of the 95 % interval",
    "high": "upper end",
    "clusters": "sequences",
}

_NORMALIZERS = _CELL | {
    "way": "how Z is estimated; server-: the actor is known on its own top-k alone",
    "k": "tokens kept of each law",
    "lam": "λ",
    "tokens": "how many are compared",
    "overlap": "mean exact Z(λ)",
    "kept": "mean estimate / mean Z",
    "error": "mean |estimate − Z|/Z, state by state",
    "error_max": "the largest",
    "above_one": "share of estimates above 1, which no Z is",
    "outside": "share of states whose Z lies outside the bracket",
    "width": "mean width of the bracket over Z",
    "bytes_per_token": "what the rollout stores for it",
    "seconds": "the trainer's time for all tokens",
}

_TABLES = {"records": _RECORDS, "states": _STATES, "diagnostics": _DIAGNOSTICS, "normalizers": _NORMALIZERS}


def described() -> dict[str, dict[str, str]]:
    """What each column is, by table and in its order."""
    return {
        table: {name: _told(name, known) for name in records.TABLES[table].names} for table, known in _TABLES.items()
    }


def _told(name: str, known: dict[str, str]) -> str:
    own = known.get(name)
    if own is None and name.endswith("_se"):
        return f"the standard error of {name.removesuffix('_se')}, where it is sampled"
    return known[name] if own is None else own
