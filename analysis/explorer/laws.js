// The laws of the explorer: policies, actors that differ from them by one knob, advantages, and seeded random numbers.
//
// The families are those of jackpot_sim.environments.states, as functions of the base law and of noise that is drawn
// once: a knob scales the same noise. All laws are log-probabilities, nats.

const laws = (() => {
  "use strict";

  const { array, logSoftmax } = formulas;

  /** Uniform numbers in (0, 1) from a seed and a name, so that each kind of draw has a stream of its own. */
  function uniforms(seed, name) {
    let h = 1779033703 ^ seed;
    for (const sign of name) h = Math.imul(h ^ sign.charCodeAt(0), 3432918353), (h = (h << 13) | (h >>> 19));
    return () => {
      // mulberry32, in 32-bit integers.
      h = (h + 0x6d2b79f5) | 0;
      let t = Math.imul(h ^ (h >>> 15), 1 | h);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
  }

  /** Standard normal numbers, by Box and Muller. */
  const normals = (uniform) => () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());

  /** The log of a Gamma(shape) number, by Marsaglia and Tsang at shape + 1 and a power of a uniform number. */
  function logGamma(uniform, shape) {
    const normal = normals(uniform), d = shape + 1 - 1 / 3, c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = normal(), v = (1 + c * x) ** 3;
      if (v <= 0 || Math.log(uniform()) >= 0.5 * x * x + d - d * v + d * Math.log(v)) continue;
      return Math.log(d * v) + Math.log(uniform()) / shape;
    }
  }

  const dirichlet = (uniform, concentration, vocab) => logSoftmax(array(vocab, () => logGamma(uniform, concentration)));
  const zipf = (exponent, vocab) => logSoftmax(array(vocab, (i) => -exponent * Math.log(i + 1)));

  /** The policies, by kind, from a shape, the vocabulary and uniform numbers. */
  const BASES = {
    dirichlet: (shape, vocab, uniform) => dirichlet(uniform, shape, vocab),
    zipf: (shape, vocab) => zipf(shape, vocab),
    "near-certain": (shape, vocab) => {
      const doubt = 10 ** -shape, rest = zipf(1.3, vocab - 1);
      return array(vocab, (i) => (i ? Math.log(doubt) + rest[i - 1] : Math.log1p(-doubt)));
    },
  };

  /** The nearest whole number; of two, the even one. */
  function rint(x) {
    const low = Math.floor(x), over = x - low;
    return over < 0.5 || (over === 0.5 && low % 2 === 0) ? low : low + 1;
  }

  const logAddExp = (x, y) => {
    const [low, high] = x < y ? [x, y] : [y, x];
    return low === -Infinity ? high : high + Math.log1p(Math.exp(low - high));
  };

  /** The `count` likeliest tokens alone, renormalised; ties go to the lower id. */
  function keep(base, count) {
    const ids = array(base.length, (i) => i).sort((i, j) => base[j] - base[i] || i - j);
    let cut = 0;
    for (let rank = base.length - 1; rank >= count; rank--) cut += Math.exp(base[ids[rank]]);
    const kept = new Set(ids.subarray(0, count));
    return base.map((x, i) => (kept.has(i) ? x - Math.log1p(-cut) : -Infinity));
  }

  function nucleus(base, share) {
    if (share >= 1) return base.length;
    const sorted = base.map(Math.exp).sort();
    let tail = 0, count = 0;
    // A rank is kept if the mass from it on exceeds 1 − share, and not by the rounding of the sums alone.
    for (const p of sorted) count += +((tail += p) > 1 - share + 4 * Number.EPSILON);
    return Math.max(count, 1);
  }

  const sameActor = (actor) => (base, knob) => ({ policy: base, actor: actor(base, knob) });

  /** Policy and actor, by family, from the base law, the knob, and {normal, mixed, advantage} over the vocabulary. */
  const FAMILIES = {
    "logit-noise": (base, sigma, { normal }) =>
      ({ policy: base, actor: logSoftmax(base.map((x, i) => x + sigma * normal[i])) }),
    "dirichlet-mixture": (base, epsilon, { mixed }) => ({
      policy: base,
      actor: base.map((x, i) => logAddExp(Math.log1p(-epsilon) + x, Math.log(epsilon) + mixed[i])),
    }),
    temperature: sameActor((base, temperature) => logSoftmax(base.map((x) => x / temperature))),
    "quantized-logits": sameActor((base, bits) => {
      const finite = base.filter(Number.isFinite);
      const high = finite.reduce((a, b) => Math.max(a, b)), low = finite.reduce((a, b) => Math.min(a, b), 0);
      const step = (high - low) / (2 ** bits - 1) || 1;
      return logSoftmax(base.map((x) => (x === -Infinity ? x : low + rint((x - low) / step) * step)));
    }),
    "top-k": sameActor((base, k) => keep(base, Math.min(k, base.length))),
    "top-p": sameActor((base, share) => keep(base, nucleus(base, share))),
    stale: (base, steps, { advantage }) => {
      const logits = base.slice();
      for (let step = 0; step < steps; step++) {
        const p = logSoftmax(logits).map(Math.exp);
        const baseline = p.reduce((sum, x, i) => sum + x * advantage[i], 0);
        for (let i = 0; i < p.length; i++) logits[i] += p[i] * (advantage[i] - baseline);
      }
      return { policy: steps ? logSoftmax(logits) : base, actor: base };
    },
  };

  /** The base law and everything random of a state; the knob changes none of it. */
  function drawn({ seed, vocab, base, shape, advantage }) {
    const law = BASES[base](shape, vocab, uniforms(seed, "base"));
    const normal = normals(uniforms(seed, "noise")), worth = uniforms(seed, "advantage");
    const mixture = uniforms(seed, "mixture"), gauss = normals(worth);
    let values = array(vocab, () => (advantage === "binary" ? +(worth() < 0.1) : gauss()));
    if (advantage === "binary") {
      const baseline = law.reduce((sum, x, i) => sum + Math.exp(x) * values[i], 0);
      values = values.map((reward) => reward - baseline);
    }
    return { law, normal: array(vocab, normal), mixed: dirichlet(mixture, 1, vocab), advantage: values };
  }

  return { FAMILIES, drawn };
})();
