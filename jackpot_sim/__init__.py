"""Simulation and analysis of actor-policy mismatch in RL for language models.

Notation
    q            the actor, the model that writes the rollouts (p_inf in the papers)
    p            the policy, the model that is trained: p_ref before the update at hand, p_new during it
    ℓ, r         the log-ratio log p − log q, nats, and the importance ratio r = e^ℓ: always policy over actor
    S, G         Σ_t ℓ_t over the tokens of a sequence y, and S/|y|: e^S = p(y)/q(y), e^G the geometric mean of r
    A            the advantage
    a, w, m      the accept probability and the weight that a correction gives a token, and its mask m ~ Bernoulli(a)
    λ, Z(λ)      the threshold of OBRS, a = min(1, r/λ), and the overlap Σ min(q, p/λ), the mean acceptance rate
    q̃, q_w      the law of accepted tokens, ∝ q·a, and of the weighted update, ∝ q·a·w
    f, g, ĝ      f(x) = A(x)(e_x − p), the policy gradient g = E_p[f] in logits, and its estimate E_q[a·w·f]/D
    k1, k2, k3   −ℓ, ℓ²/2 and r − 1 − ℓ: estimates of KL(q‖p) from the actor's tokens

Sources
    [J]  Chen et al., Jackpot, arXiv 2602.06107
    [V]  Verine et al., Optimal Budgeted Rejection Sampling, arXiv 2311.00460
    [L]  Liu & Li, When Speed Kills Stability, 2025
    (ours) marks what was derived and checked numerically for this project and is in none of them.

Theorems of OBRS ([V], with the edges that [J] leaves out; `core.obrs`)
    T1  D_f(p‖q̃) does not increase with λ, for every f-divergence. It starts at the value for q conditioned on
        supp p and is 0 for λ ≥ max r if p ≪ q; so KL(p‖q̃) ≤ KL(p‖q) at every λ > 0.
    T2  Among all rules a with the same acceptance rate ā OBRS minimises D_f(p‖q̃), for every f-divergence. λ is
        unique below the attainable maximum ā = q(supp p), which is 1 only if p vanishes nowhere on supp q;
        [J] Thm 3.4 claims a unique λ for every ā in (0, 1].

Identities (ours; `estimators.corrections.jackpot`, `paper_figures.unification`)
    I1  obrs(λ) and tis(C = λ) have the same effective law, min(q, p/λ)/Z.
    I2  In expectation over its mask jackpot(λ, c1) weighs a token by Z·min(r, c1/Z) where c1 ≥ λZ, and by
        (c1/λ)·min(r, λ) otherwise.
    I3  The variance of jackpot is at least that of its Rao-Blackwell form, Z²·Var[TIS(c1/Z)].
"""

__version__ = "0.5.0"
