"""The meaning and unit of every column of the records: `python -m jackpot_sim.sweep --columns`.

p is the policy, q the actor, A the advantage, g the true policy gradient; KLs are in nats. A figure without a
unit is a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jackpot_sim.sweep import parameters, schema

_CELL = {
    "cell": "name of the cell, an environment with a seed, and of its shard",
    "environment": "the environment's configuration, as JSON",
}

_PARAMETERS = {
    "clip": "C, the largest weight",
    "floor": "the smallest weight",
    "low": "lower bound on the ratio",
    "high": "upper bound on the ratio",
    "bound": "upper bound on the statistic of a mask",
    "lam": "λ, where it is one number",
    "c1": "cap on Z·max(λ, r), or on r/λ",
    "c2": "cap on p_ref/p_new",
    "aggregate": "the way from the tokens' values to one of the sequence",
    "epsilon": "upper bound on |p − q|",
    "direction": "which binary KL: of policy and actor, of actor and policy, or the larger",
    "clip_on": "what c1 caps: the weight, or the ratio r/λ",
    "inverted": "whether bounds are on 1/r, as verl's k1 bounds are",
    "threshold": "largest second moment of log r (m2po), or least r of any token (veto)",
    "delta": "limit of the divergence or drift, beyond which tokens or sequences are dropped",
    "dual": "largest ratio of a token with a negative advantage",
    "tau_positive": "steepness of the weight where the advantage is positive",
    "tau_negative": "steepness of the weight where the advantage is negative",
    "k_positive": "exponent of the ratio where the advantage is positive",
    "k_negative": "exponent of the ratio where the advantage is negative",
    "lambda_positive": "decay of the weight in the ratio where the advantage is positive",
    "lambda_negative": "decay of the weight in the ratio where the advantage is negative",
}
"""The meaning of some parameters; of the others, the estimators that have them say enough."""

_RECORDS = {
    **_CELL,
    "env_kind": "what sets the actor apart: a mismatch family, or the source of a language-model actor",
    "base_kind": "origin of the policies: a base law, small-lm, or hf",
    "knob_name": "the one number of env_kind that is varied",
    "knob": "its value, given or solved for",
    "target_divergence": "the direction of target_kl",
    "target_kl": "the mean KL that was asked for, nats; empty if the knob was given",
    "achieved_kl": "the mean KL at the knob, nats; of real models over rollouts of the policy",
    "vocab": "tokens of the vocabulary",
    "states": "independent states, or prompts",
    "length": "the most new tokens of a sequence",
    "seed": "the seed of all randomness",
    "space": "the space of gradients of sequences: logits or parameters",
    "estimator": "the estimator with its parameters",
    "estimator_kind": "its name",
    "level": "token or sequence: the unit that its weights depend on",
    "masked_by": "an estimator that is multiplied with it",
    "target": "p_ref, the policy before the update, or p_new, the one that is trained",
    "rao_blackwell": "whether the mask is replaced by its mean",
    "batch_normalize": "whether weights are divided by their mean over the batch",
    "centred": "whether each token's term loses its mean over the actor's law at its state (score centring)",
    "laws": "what is known of the actor: whole, its laws at every token; top-k, its likeliest tokens alone, as of a "
    "server. Then kl_actor_policy (the mean of k3 = r − 1 − log r at the tokens drawn; of k1 = −log r where top_k or "
    "top_p cut), total_variation and acceptance_rate are sampled, Z in weights is the point of its bracket that the "
    "tokens of each update point to, and the other KLs, chi_square and achieved_kl are empty",
    "acceptance_low": "laws top-k: the mean over the visited states of the least that the acceptance rate of a "
    "rejection can be, from the actor's top-k and the policy's law",
    "acceptance_high": "likewise: of the most",
    "acceptance_budget": "the acceptance rate that λ was solved for",
    "budget_per_state": "whether each state got a λ of its own",
    "denominator": "divisor of the weighted sum: proposed, all tokens; accepted, the share of the batch's tokens that "
    "its drawn masks keep; self_normalized, the mean m·w of each state or prompt (for sequences with p_new/p_ref)",
    "method": "exact (closed form or enumeration) or monte_carlo",
    "kl_policy_actor": "KL(p‖q): mean over states; of sequences per token that the policy writes; here and below p and "
    "q are the whole policy and the law sampled from, whatever log_probs tells the trainer",
    "kl_actor_policy": "KL(q‖p): mean over states; of sequences per token that the actor writes",
    "total_variation": "total variation of p and q, in [0, 1]; over states, or tokens that the actor writes",
    "chi_square": "χ²(p‖q) = Σ p²/q − 1; likewise",
    "kl_sequence": "KL(p‖q) of whole sequences",
    "chi_square_sequence": "χ²(p‖q) of whole sequences",
    "mean_length": "tokens that the actor writes in a sequence",
    "prefix_total_variation": "total variation of the two laws of the last prefix",
    "acceptance_rate": "the share of tokens that the mask keeps",
    "kl_accepted": "KL(p‖·) of the accepted tokens' law; of sequences, of visits; hf: mean over the actor's states",
    "kl_effective": "the same of the law that the weighted update samples",
    "kl_prefix": "the part of kl_effective that is due to the law of prefixes",
    "bias_sq": "‖E[update] − g‖²/‖g‖²; an unbiased estimate of it may be negative",
    "bias": "root of bias_sq",
    "direction_bias": "1 − cos(E[update], g)",
    "gain": "⟨E[update], g⟩/‖g‖²: the share of the gradient that is left",
    "variance": "variance of one proposal, over that of one of the policy's own",
    "mse": "E‖update − g‖²/‖g‖² with n_samples proposals per state; 1 is that of no update",
    "mse_rescaled": "the same of the update's best multiple",
    "ess_fraction": "effective sample size E[mw]²/E[m w²], in [0, 1]",
    "bias_share_prefix": "Shapley share of the bias: the actor's prefixes; empty where log_probs is support",
    "bias_share_continuation": "likewise: its continuations",
    "bias_share_weight": "likewise: the token's own weight",
    "grad_norm_sq": "‖g‖², advantage²",
    "on_policy_variance": "variance of one proposal of the policy itself, advantage²",
    "noise_to_signal": "on_policy_variance / grad_norm_sq",
    "degenerate_states": "states without a gradient or without anything kept",
    "n_samples": "proposals per state, or sequences of each prompt, in an update",
    "replicates": "simulated updates",
    "config_hash": "digest of the study, its files and the version of jackpot_sim",
    "version": "version of jackpot_sim",
    "numpy": "version of numpy",
    "python": "version of Python",
    "commit": "commit of a checkout",
    "seconds": "time for this row",
    "weight_seconds": "time for masks and weights of all of the actor's tokens, Z given; hf",
}

_STATES = {
    "cell": _CELL["cell"],
    "estimator": _RECORDS["estimator"],
    "denominator": _RECORDS["denominator"],
    "state": "number of the state or prompt in the cell",
    "kl_policy_actor": "KL(p‖q) at the state",
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

_DIAGNOSTICS = {
    **_CELL,
    "figure": "name of the figure; the tables that a run prints explain each",
    "value": "its value over all rollouts of the actor",
    "se": "standard error, by the jackknife over sequences; of rewards over rollouts; nan where a figure has none",
    "low": "lower end of the 95 % interval; nan where no interval covers (too few sequences, or heavy-tailed weights)",
    "high": "upper end",
    "clusters": "sequences",
}

_NORMALIZERS = {
    **_CELL,
    "way": "estimate of Z; server-…: uses only the actor's own top-k, as a rollout server returns it",
    "k": "tokens kept of each law",
    "lam": "λ",
    "tokens": "number of tokens compared",
    "overlap": "mean exact Z(λ)",
    "kept": "mean estimate / mean Z",
    "error": "mean |estimate − Z|/Z, state by state",
    "error_max": "the largest",
    "above_one": "share of estimates above 1, which no Z is",
    "outside": "share of states whose Z lies outside the bracket",
    "width": "mean width of the bracket over Z",
    "bytes_per_token": "storage of the rollout for the estimate",
    "seconds": "the trainer's time for all tokens",
}

_THRESHOLDS = {
    **_CELL,
    "estimator": _RECORDS["estimator"],
    "denominator": _RECORDS["denominator"],
    "parameter": "the parameter that is the estimator's threshold; of a band its upper end, the lower one as given",
    "n_samples": _RECORDS["n_samples"],
    "given": "the threshold in the study, where it is one number",
    "best": "the threshold with the least MSE at n_samples for the states of this cell; nan where no gradient is left",
    "mse": "the MSE at the threshold given",
    "mse_best": "the MSE at the best",
    "mse_rescaled": "the rescaled MSE at the threshold given",
    "mse_rescaled_best": "the rescaled MSE at the threshold with the least plain MSE",
    "saved": "1 − mse_best/mse",
    "is_exact": "true for the global minimum; false for the best point of a refined grid",
    "seconds": "time that the search took, shared by estimators that differ in the threshold alone",
}

_TABLES = {
    "records": _RECORDS,
    "states": _STATES,
    "diagnostics": _DIAGNOSTICS,
    "normalizers": _NORMALIZERS,
    "thresholds": _THRESHOLDS,
}


def described(kinds: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """The meaning of each column, by table and in its order.

    Args:
        kinds: as in `schema.tables`.

    Raises:
        StudyError: as `schema.tables`.
    """
    kinds = tuple(kinds)
    owners, tables = parameters.owners(kinds), schema.tables(kinds)
    return {
        table: {name: _meaning(name, meanings, owners) for name in tables[table].names}
        for table, meanings in _TABLES.items()
    }


def _meaning(name: str, meanings: Mapping[str, str], owners: Mapping[str, tuple[str, ...]]) -> str:
    if name not in meanings and name in owners:
        return f"{_PARAMETERS.get(name, 'parameter')} ({', '.join(owners[name])})"
    if name not in meanings and name.endswith("_se"):
        return f"standard error of {name.removesuffix('_se')}, where it is sampled"
    return meanings[name]
