// The formulas of the explorer, for one state: pure functions of Float64Arrays over the vocabulary, in nats.
//
// They follow jackpot_sim.core and jackpot_sim.estimators operation by operation, so that near-equal laws keep their
// digits here too, and inf and nan mean what they mean there: a KL is inf where the policy writes a token that the
// actor cannot, 0·log 0 is 0, and a ratio with denominator 0 is nan. p is the policy, q the actor, ratios are p/q.

const formulas = (() => {
  "use strict";

  const SMALLEST_NORMAL = 2.2250738585072014e-308;
  const ATTAINABILITY_TOLERANCE = 1e-12;

  const array = (length, value) => Float64Array.from({ length }, (_, i) => value(i));
  const total = (length, term) => {
    let sum = 0;
    for (let i = 0; i < length; i++) sum += term(i);
    return sum;
  };
  const ratioOf = (numerator, denominator) => (denominator === 0 ? NaN : numerator / denominator);

  function logSumExp(values) {
    const peak = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return peak === -Infinity ? peak : peak + Math.log(total(values.length, (i) => Math.exp(values[i] - peak)));
  }

  /** log softmax of logits; they must hold a finite largest one. */
  function logSoftmax(logits) {
    const peak = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!Number.isFinite(peak)) throw new Error("logits hold NaN or +inf, or nothing but -inf");
    const shifted = logits.map((x) => x - peak);
    const normaliser = logSumExp(shifted);
    return shifted.map((x) => x - normaliser);
  }

  /** ℓ = log p − log q: +inf where only the policy has support, −inf where it has none. */
  const logRatioOf = (logP, logQ) => logP.map((p, i) => p - (p === -Infinity ? 0 : logQ[i]));

  /** x·w: 0 where the weight w is 0, or rather its log −inf, whatever x is; an infinite x stays so. */
  function times(x, w, logW) {
    if (logW === -Infinity) return 0;
    return x === Infinity ? Infinity : x * w;
  }

  /** e^x − 1 − x ≥ 0, with the digits of x²/2 at small x. */
  function expRemainder(x) {
    if (Math.abs(x) >= 0.125) return x === Infinity ? Infinity : Math.expm1(x) - x;
    const square = x * x;
    const even = square * (1 / 6 - square * (1 / 360 - square * (1 / 15120 - square / 604800)));
    return (x * (x - even)) / (2 - x + even);
  }

  /** e^first − e^second of log-probabilities. */
  function expDifference(first, second) {
    const ratio = first - (first === -Infinity ? 0 : second);
    const lacking = Math.expm1(ratio > 0 ? -ratio : ratio);
    return Math.exp(ratio > 0 ? first : second) * (ratio > 0 ? -lacking : lacking);
  }

  /** p·ℓ − p + q ≥ 0, the term of a KL. */
  function klTerm(logP, ratio, logQ, p) {
    if (ratio > -1) return times(expRemainder(-ratio), p, logP);
    return times(ratio, p, logP) - p + Math.exp(logQ);
  }

  /** KL(p‖q) = Σ p log(p/q). */
  function kl(logP, logQ) {
    const ratio = logRatioOf(logP, logQ);
    return total(logP.length, (i) => klTerm(logP[i], ratio[i], logQ[i], Math.exp(logP[i])));
  }

  /** TV = ½ Σ |p − q|. */
  const totalVariation = (logP, logQ) => total(logP.length, (i) => Math.abs(expDifference(logP[i], logQ[i]))) / 2;

  /** χ²(p‖q) = Σ p²/q − 1. */
  function chiSquare(logP, logQ) {
    const ratio = logRatioOf(logP, logQ);
    return total(logP.length, (i) => {
      if (ratio[i] <= 1) return times(Math.expm1(ratio[i]) ** 2, Math.exp(logQ[i]), logQ[i]);
      return Math.exp(logP[i] + ratio[i]) - 2 * Math.exp(logP[i]) + Math.exp(logQ[i]);
    });
  }

  /** log min(q, p/λ) of every token. */
  const logOverlapTerms = (logP, logQ, lam) => logP.map((p, i) => Math.min(logQ[i], p - Math.log(lam)));

  /** Z(λ) = Σ min(q, p/λ), the acceptance rate of OBRS. */
  const overlap = (logP, logQ, lam) => logOverlapTerms(logP, logQ, lam).reduce((sum, x) => sum + Math.exp(x), 0);

  /** log q̃ with q̃ = min(q, p/λ)/Z; nan where policy and actor share no token. */
  function acceptedLogProbs(logP, logQ, lam) {
    const terms = logOverlapTerms(logP, logQ, lam);
    const logZ = logSumExp(terms);
    return terms.map((x) => (logZ === -Infinity ? NaN : x - logZ));
  }

  /** The largest acceptance rate there is, q(supp p), and the λ that attains it, min r over the shared support. */
  function largestRate(logP, logQ) {
    let mass = 0, lam = Infinity;
    for (let i = 0; i < logP.length; i++) {
      const p = Math.exp(logP[i]), q = Math.exp(logQ[i]);
      if (!(p > 0 && q > 0)) continue;
      mass += q;
      lam = Math.min(lam, p / q);
    }
    return { mass, lam };
  }

  /** The λ at which OBRS accepts a share `rate`, by Newton's method in 1/λ, which ends exactly. */
  function solveLam(logP, logQ, rate) {
    const most = largestRate(logP, logQ);
    if (!(most.mass > 0)) throw new Error("policy and actor share no token: nothing can be accepted");
    const tolerance = ATTAINABILITY_TOLERANCE * most.mass;
    if (!(rate >= SMALLEST_NORMAL)) throw new Error("the acceptance rate must be positive");
    if (rate > most.mass + tolerance) {
      throw new Error(`an acceptance rate of ${+rate.toPrecision(6)} is not attainable: the actor's mass on the policy's support is ${+most.mass.toPrecision(6)}`);
    }
    if (rate >= most.mass - tolerance) return most.lam;
    const p = logP.map(Math.exp), q = logQ.map(Math.exp);
    for (let lam = 2 / rate, first = true; ; first = false) {
      let slope = 0, level = 0;
      for (let i = 0; i < p.length; i++) p[i] < lam * q[i] ? (slope += p[i]) : (level += q[i]);
      const root = slope > 0 && rate > level ? slope / (rate - level) : lam;
      if (!first && !(root < lam)) return lam;
      lam = first ? Math.min(root, lam) : root;
    }
  }

  /** KL(p‖q·v/Σqv) for the weight v, the product of finite factors; nan where q·v has no mass. */
  function klToWeighted(logP, logQ, ...factors) {
    const ratio = logRatioOf(logP, logQ), logM = logQ.slice();
    for (let i = 0; i < ratio.length; i++) {
      for (const factor of factors) {
        if (factor[i] === 1) continue;
        const logWeight = factor[i] > 0 ? Math.log(factor[i]) : -Infinity;
        logM[i] += logWeight;
        if (logP[i] > -Infinity) ratio[i] -= logWeight;
      }
    }
    // The KL is least at the true Σqv: of a rounded one only the square of the rounding enters.
    const shift = logSumExp(logM);
    if (shift === -Infinity) return NaN;
    return total(ratio.length, (i) => klTerm(logP[i], ratio[i] + shift, logM[i] - shift, Math.exp(logP[i])));
  }

  function likeliest(p) {
    let top = 0;
    for (let i = 1; i < p.length; i++) if (p[i] > p[top]) top = i;
    return top;
  }

  // At a near-certain token 1 − p would lose its digits: there it is summed over the other tokens.

  /** Σ_x law(x)·A(x)·(e_x − p), the gradient in logits under a signed law. */
  function gradientUnder(law, p, advantage) {
    const top = likeliest(p), terms = law.map((x, i) => x * advantage[i]);
    const elsewhere = total(p.length, (i) => (i === top ? 0 : terms[i]));
    const rest = total(p.length, (i) => (i === top ? 0 : p[i]));
    return terms.map((x, i) => (i === top ? x * rest - p[i] * elsewhere : x - p[i] * (terms[top] + elsewhere)));
  }

  /** g = E_p[f], exactly 0 for a constant advantage. */
  function policyGradient(p, advantage) {
    const constant = advantage[likeliest(p)];
    return gradientUnder(p, p, advantage.map((a) => a - constant));
  }

  /** ‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²) of every token. */
  function featureNormSq(p, advantage) {
    const top = likeliest(p);
    const rest = total(p.length, (i) => (i === top ? 0 : p[i]));
    const restSq = total(p.length, (i) => (i === top ? 0 : p[i] * p[i]));
    const pSq = total(p.length, (i) => p[i] * p[i]);
    return advantage.map((a, i) => a * a * (i === top ? rest * rest + restSq : 1 - 2 * p[i] + pSq));
  }

  /** ⟨e_x − p, v⟩ of every token x. */
  function scoreDot(p, vector) {
    const top = likeliest(p);
    const rest = total(p.length, (i) => (i === top ? 0 : p[i]));
    const elsewhere = total(p.length, (i) => (i === top ? 0 : p[i] * vector[i]));
    return vector.map((v, i) => (i === top ? rest * v : v - p[top] * vector[top]) - elsewhere);
  }

  const dot = (x, y) => total(x.length, (i) => x[i] * y[i]);

  /** The parts of a state that no correction changes. */
  function stateOf(logP, logQ, advantage) {
    const p = logP.map(Math.exp), q = logQ.map(Math.exp);
    const gradient = policyGradient(p, advantage), featureSq = featureNormSq(p, advantage);
    const gradNormSq = dot(gradient, gradient);
    return {
      logP, logQ, advantage, p, q, gradient, featureSq, gradNormSq,
      logRatio: logRatioOf(logP, logQ),
      klOfActor: klToWeighted(logP, logQ),
      onPolicyVariance: dot(p, featureSq) - gradNormSq,
    };
  }

  const fill = (state, value) => new Float64Array(state.p.length).fill(value);
  const accepting = (state, lam) => state.logRatio.map((l) => Math.exp(Math.min(l - Math.log(lam), 0)));
  const inBand = (state, low, high) =>
    state.logRatio.map((l) => +(l >= (low > 0 ? Math.log(low) : -Infinity) && l <= Math.log(high)));
  const ratios = (state) => state.logRatio.map(Math.exp);

  function jackpot(state, { lam, clip }) {
    const z = overlap(state.logP, state.logQ, lam);
    // Where Z = 0 nothing is ever accepted; 0·inf must not make it nan.
    const weight = state.logRatio.map((l) => Math.min(z > 0 ? z * Math.exp(Math.max(l, Math.log(lam))) : 0, clip));
    return { accept: accepting(state, lam), weight };
  }

  /** The same pair with accept 1 and weight a·w. */
  const raoBlackwell = ({ accept, weight }) => ({
    accept: accept.map(() => 1),
    weight: accept.map((a, i) => a * (a > 0 ? weight[i] : 0)),
  });

  /** Each correction's accept probability a and weight w of every token, from a state and {lam, clip, low, high}. */
  const CORRECTIONS = {
    none: (state) => ({ accept: fill(state, 1), weight: fill(state, 1) }),
    is: (state) => ({ accept: fill(state, 1), weight: ratios(state) }),
    tis: (state, { clip }) => ({
      accept: fill(state, 1),
      weight: state.logRatio.map((l) => Math.exp(Math.min(l, Math.log(clip)))),
    }),
    mis: (state, { low, high }) => ({ accept: inBand(state, low, high), weight: ratios(state) }),
    mask: (state, { low, high }) => ({ accept: inBand(state, low, high), weight: fill(state, 1) }),
    obrs: (state, { lam }) => ({ accept: accepting(state, lam), weight: fill(state, 1) }),
    jackpot,
    "rao-blackwell": (state, settings) => raoBlackwell(jackpot(state, settings)),
  };

  /** q·v − p for a finite weight v. */
  function weightedLessPolicy(q, p, weight, ratio) {
    if (!(Math.abs(ratio) < 1)) return q * weight - p;
    return q * (weight === Math.exp(ratio) ? 0 : weight - 1 - Math.expm1(ratio));
  }

  /** 1 − cos(ĝ, g), by Lagrange's identity where it is small. */
  function oneMinusCosine(errorSq, errorDot, estimateSq, estimateDot, signal) {
    const norms = estimateSq * signal, cosine = ratioOf(estimateDot, Math.sqrt(norms));
    if (!(cosine > 0)) return 1 - cosine;
    const area = errorSq < estimateSq ? errorSq * signal - errorDot ** 2 : norms - estimateDot ** 2;
    return Math.max(ratioOf(area, norms) / (1 + Math.abs(cosine)), 0);
  }

  /** The exact moments of the pair (a, w) with a denominator: proposed, accepted or self_normalized. */
  function moments(state, { accept, weight }, denominator, nSamples) {
    const { logP, logQ, p, q, advantage, gradient, gradNormSq, onPolicyVariance, logRatio, featureSq } = state;
    const live = q.map((x) => +(x >= SMALLEST_NORMAL));
    const accepted = q.map((x, i) => (live[i] ? x * accept[i] : 0));
    const reachable = weight.map((w) => (w < Infinity ? w : 0));
    const law = accepted.map((x, i) => x * (live[i] ? weight[i] : 0));
    const squared = law.map((x, i) => x * (live[i] ? weight[i] : 0));
    const excess = p.map((x, i) => (live[i] ? weightedLessPolicy(q[i], x, accept[i] * reachable[i], logRatio[i]) : -x));
    const sum = (terms) => terms.reduce((a, b) => a + b, 0);
    const acceptanceRate = sum(accepted), weightMean = sum(law), own = denominator === "self_normalized";
    const divisor = own ? weightMean : denominator === "accepted" ? acceptanceRate : 1;
    const lessOne = own ? sum(excess) / sum(p) : divisor - 1;
    const errorLaw = law.map((x, i) =>
      Math.abs(lessOne) < 0.5 ? (excess[i] - lessOne * p[i]) / divisor : x / divisor - p[i]);
    const error = gradientUnder(errorLaw, p, advantage);
    const estimate = gradientUnder(law.map((x) => x / divisor), p, advantage);
    const errorSq = dot(error, error), estimateSq = dot(estimate, estimate);
    const estimateDot = dot(estimate, gradient);
    let spread = featureSq;
    if (own) {
      const along = scoreDot(p, estimate);
      spread = featureSq.map((x, i) => x - 2 * advantage[i] * along[i] + estimateSq);
    }
    const secondMoment = dot(squared, spread);
    let variance = secondMoment - estimateSq;
    if (own) variance = secondMoment / divisor ** 2;
    if (denominator === "accepted") variance = (secondMoment - divisor * estimateSq) / divisor ** 2;
    const klAccepted = accept.every((a) => a === 1) ? state.klOfActor : klToWeighted(logP, logQ, accept);
    const found = {
      acceptanceRate,
      klAccepted,
      klEffective: weight.every((w) => w === 1) ? klAccepted : klToWeighted(logP, logQ, accept, reachable),
      bias: Math.sqrt(ratioOf(errorSq, gradNormSq)),
      directionBias: oneMinusCosine(errorSq, dot(error, gradient), estimateSq, estimateDot, gradNormSq),
      gain: ratioOf(estimateDot, gradNormSq),
      variance: ratioOf(variance, onPolicyVariance),
      noiseToSignal: ratioOf(onPolicyVariance, gradNormSq),
      essFraction: weightMean ** 2 / sum(squared),
      sizeSq: ratioOf(estimateSq, gradNormSq),
    };
    return { ...found, ...errorsAt(found, nSamples) };
  }

  /** bias², the noise of n proposals, their sum, and the MSE of the update's best non-negative multiple. */
  function errorsAt({ bias, variance, noiseToSignal, gain, sizeSq }, nSamples) {
    const noise = (variance * noiseToSignal) / nSamples, size = sizeSq + noise;
    const aligned = gain > 0 && size > 0;
    const mseRescaled = Number.isNaN(gain) || Number.isNaN(size) ? NaN : aligned ? 1 - gain ** 2 / size : 1;
    return { biasSq: bias ** 2, noise, mse: bias ** 2 + noise, mseRescaled };
  }

  /** Acceptance rate and KL(p‖q̃) of OBRS at each of several λ. */
  function tradeOff(logP, logQ, lams) {
    const logRatio = logRatioOf(logP, logQ);
    return lams.map((lam) => ({
      lam,
      rate: overlap(logP, logQ, lam),
      kl: klToWeighted(logP, logQ, accepting({ logRatio }, lam)),
    }));
  }

  /** All figures of the page, from a state and {lam, clip, low, high, denominator, nSamples}. */
  function measure(logP, logQ, advantage, settings) {
    const state = stateOf(logP, logQ, advantage), { lam, denominator, nSamples } = settings;
    const accepted = acceptedLogProbs(logP, logQ, lam);
    const tv = totalVariation(logP, logQ);
    return {
      lam,
      overlap: overlap(logP, logQ, lam),
      totalVariation: tv,
      overlapAtOne: overlap(logP, logQ, 1),
      kl: kl(logP, logQ),
      klReverse: kl(logQ, logP),
      chiSquare: chiSquare(logP, logQ),
      klAccepted: klToWeighted(logP, logQ, accepting(state, lam)),
      klAcceptedReverse: Number.isNaN(accepted[0]) ? NaN : kl(accepted, logP),
      accepted,
      logRatio: state.logRatio,
      corrections: Object.fromEntries(
        Object.entries(CORRECTIONS).map(([name, weigh]) =>
          [name, moments(state, weigh(state, settings), denominator, nSamples)])),
    };
  }

  return { array, logSoftmax, overlap, solveLam, largestRate, tradeOff, errorsAt, measure, kl, CORRECTIONS };
})();
