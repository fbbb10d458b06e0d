"""The legends of a run's tables, in one line and in full."""

from __future__ import annotations

import pandas as pd

from jackpot_sim.environments.worlds import World
from jackpot_sim.sweep.resolved import FEW, OF_GRADIENT, lost, of, thin
from jackpot_sim.sweep.worse import APART

DETAILED = 6
"""The most environments that get a table each; more of them get a line each with the best estimators."""

ON_MSE = (
    "MSE: squared error of the update over the squared true gradient; no update at all has 1. A smaller update has "
    "less variance, so that the MSE rewards shrinking it; rescaled, the MSE of the update's best multiple, does not."
)
ON_KLS = (
    "KL acc. and KL eff.: KL(policy‖·) of the accepted tokens and of the law that the weighted update samples; inf "
    "where a token of the policy is out of reach, nan where some state accepts nothing."
)
_ON_GRADIENT = (
    "gain: the share of the gradient that is left. var.: variance of one proposal, over that of one of the policy's "
    "own. *: the least of its column, where it lies more than {:g} standard errors below all others and ties with "
    "none. worse: the MSE over the least one of the table; tie: not told apart from it, exact figures by their "
    "scatter over seeds."
)
_ON_THIN = (
    f"?: the weights leave fewer than {FEW} effective rollouts (or tokens), so that the rollouts that carry the "
    "expectation may never have been drawn: the figure is not resolved, however small its scatter."
)
NOISE = (
    "The true gradient is lost in its noise, so that bias, gain and MSE, which are in units of it, are left out: {}. "
    "More n_samples or replicates are more rollouts; a reward that differs more among them helps too."
)
_ON_MONTE_CARLO = "monte_carlo: ± one standard error."
_ON_BIAS = "A bias is nan where the unbiased estimate of its square is negative."
_ON_TOO_MANY = (
    "Some environments have too many sequences to enumerate within memory_limit_gib; theirs were drawn. A smaller "
    "vocab or length gives exact figures."
)
_ON_REAL_MODELS = (
    "Real models: figures at the states that the actor visited are exact there, and ± is the standard error of their "
    "mean over rollouts. KL before belongs to the tokens that the policy writes; KL acc. and KL eff. are means over "
    "the actor's states, nan for corrections of whole sequences. weights: the time for masks and weights of all of the "
    "actor's tokens, Z given."
)
_ON_TOPK = (
    "Top-k actors show their likeliest tokens alone, as servers do. accept is sampled at the tokens drawn; bracket: "
    "the acceptance rate of a rejection at the visited states lies between these ends, whatever the actor's rest. "
    "KL before is KL(actor‖policy), sampled. Z in weights is the point of its bracket that the tokens of each "
    "update point to. KL acc. and KL eff. take whole laws and are left out."
)
_ON_SEQUENCES = (
    "Sequences: KL before is per token, and KL acc. and KL eff. compare visits to (prefix, token); KL prefix is the "
    "part that is due to the actor choosing the prefixes. Monte Carlo does not give them for corrections of whole "
    "sequences (nan)."
)


def legend(records: pd.DataFrame) -> str:
    """The meaning of the tables' words."""
    asked, measured = has_gradients(records), has_updates(records)
    sentences = [ON_MSE] * measured
    small, real = (of(records, world) for world in (World.SEQUENCES, World.ROLLOUTS))
    if records["environment"].nunique() <= DETAILED:
        sequences, rollouts = [_ON_SEQUENCES] * (len(small) > 0), [_ON_REAL_MODELS] * (len(real) > 0)
        rollouts += [_ON_TOPK] * shows_topk(real)
        sentences = [ON_KLS, *[_ON_GRADIENT.format(APART)] * asked, *sequences, *rollouts, *sentences]
    if (records["method"] == "monte_carlo").any():
        sentences += [_ON_MONTE_CARLO, *[_ON_BIAS] * measured]
    else:
        sentences.append("All figures are exact for their states; `jackpot-sim analysis` gives their uncertainty.")
    if small["prefix_total_variation"].isna().any():  # known wherever sequences are enumerated
        sentences.append(_ON_TOO_MANY)
    if asked and thin(records):
        sentences.append(_ON_THIN)
    if records["environment"].nunique() > DETAILED and (clauses := lost(records)):
        sentences.append(f"{'lost: ' * measured}{NOISE.format('; '.join(clauses))}")
    return " ".join(sentences)


def brief(records: pd.DataFrame) -> str:
    """The signs of the tables, in one line."""
    if not has_updates(records):
        return "KL: KL(policy‖·), nats. --wide explains the columns."
    if records["environment"].nunique() > DETAILED:
        lost_in = " lost: in noise." if lost(records) else ""
        return f"MSE: over |gradient|², no update has 1; none: uncorrected.{lost_in} --wide explains."
    signs = ["*: least", *["±: s.e."] * bool((records["method"] == "monte_carlo").any())]
    signs += ["?: unresolved"] * bool(thin(records))
    return f"MSE: no update has 1. KL: KL(policy‖·). {'; '.join(signs)}. --wide explains."


def shows_topk(rows: pd.DataFrame) -> bool:
    """True if the actor of some rows shows its likeliest tokens alone."""
    return bool((rows["laws"] == "top-k").any())


def has_gradients(rows: pd.DataFrame) -> bool:
    """True unless gradients were not asked for: then no estimator has a figure of them."""
    return bool(rows[[*OF_GRADIENT, "variance", "grad_norm_sq"]].notna().to_numpy().any())


def has_updates(rows: pd.DataFrame) -> bool:
    """True where the true gradient of some environment stands out, so that figures in units of it mean something."""
    return has_gradients(rows) and not all(lost(each) for _, each in rows.groupby("environment"))
