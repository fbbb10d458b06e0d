// The page itself: its controls, the state that they set and the address holds, and what is drawn from it.

const { draw, legend, watch, short } = plots;
const root = document.querySelector(".obrs-explorer");
const find = (selector) => root.querySelector(selector);
const svgOf = (name) => find(`[data-plot="${name}"]`), outputOf = (name) => find(`[data-output="${name}"]`);

const log = (label, min, max, more) => ({ label, min, max, log: true, ...more });
const linear = (label, min, max, more) => ({ label, min, max, ...more });
const choice = (label, options) => ({ label, options });
const whole = { whole: true };

const KNOBS = {
  "logit-noise": { ...log("noise σ, nats", 0.01, 5), start: 0.7 },
  "dirichlet-mixture": { ...linear("share ε of noise", 0, 1), start: 0.2 },
  temperature: { ...log("temperature T", 0.25, 4), start: 1.4 },
  "quantized-logits": { ...linear("bits", 1, 16, whole), start: 3 },
  "top-k": { ...log("tokens kept, k", 1, 2000, whole), start: 50 },
  "top-p": { ...linear("mass kept, p", 0.05, 1), start: 0.9 },
  stale: { ...linear("updates since", 0, 300, whole), start: 60 },
};
const SHAPES = {
  zipf: { ...linear("exponent", 0, 2.5), start: 1.2 },
  dirichlet: { ...log("concentration", 0.05, 20), start: 2 },
  "near-certain": { ...linear("doubt 10^−d, d", 1, 5), start: 2 },
};
const CONTROLS = {
  by: choice("held fixed", { lam: "λ", rate: "the acceptance rate" }),
  lam: log("λ", 0.05, 50),
  rate: linear("acceptance rate (budget)", 0.01, 1),
  clip: log("clip C of TIS, c1 of Jackpot", 0.2, 20),
  low: linear("lowest ratio kept (MIS, mask)", 0, 1),
  high: log("largest ratio kept (MIS, mask)", 1, 20),
  family: choice("the actor is the policy with …", {
    "logit-noise": "Gaussian noise on its logits",
    "dirichlet-mixture": "a random law mixed in",
    temperature: "another temperature",
    "quantized-logits": "its log-probs in few bits",
    "top-k": "its k likeliest tokens alone",
    "top-p": "its nucleus alone",
    stale: "some updates missing",
  }),
  knob: KNOBS["logit-noise"],
  base: choice("the policy", { zipf: "Zipf", dirichlet: "Dirichlet", "near-certain": "near-certain" }),
  shape: SHAPES.zipf,
  vocab: log("vocabulary", 2, 2000, whole),
  advantage: choice("advantage A(x)", { normal: "normal", binary: "a reward of 1 for one token in ten, centred" }),
  nSamples: log("tokens n", 1, 1e6, whole),
  denominator: choice("divide by", {
    proposed: "all tokens",
    accepted: "accepted tokens",
    self_normalized: "the sum of the weights",
  }),
};
const DEFAULTS = {
  by: "lam", lam: 1, rate: 0.8, clip: 2, low: 0.5, high: 5, family: "logit-noise", knob: 0.7, base: "zipf", shape: 1.2,
  vocab: 200, advantage: "normal", nSamples: 256, denominator: "proposed", seed: 1,
};
const NAMES = {
  none: "none", is: "IS", tis: "TIS", mis: "MIS", mask: "ratio mask", obrs: "OBRS", jackpot: "Jackpot",
  "rao-blackwell": "RB-Jackpot",
};
const DASHES = { mis: "6 3", mask: "2 3", "rao-blackwell": "6 3", is: "9 4" };
const COLUMNS = {
  kept: ["kept", (m) => short(m.acceptanceRate)],
  bias: ["bias", (m) => short(m.bias)],
  variance: ["variance", (m) => short(m.variance)],
  mse: ["MSE", (m) => short(m.mse)],
  bar: ["bias² + noise", null],
  step: ["MSE, best step", (m) => short(m.mseRescaled)],
  direction: ["1 − cosine", (m) => short(m.directionBias)],
  ess: ["ESS / n", (m) => short(m.essFraction)],
  accepted: ["KL(p‖q̃), nats", (m) => short(m.klAccepted)],
  effective: ["KL(p‖q_w), nats", (m) => short(m.klEffective)],
};
const FIGURES = {
  lam: ["λ", "", (f) => f.lam],
  overlap: ["Z, acceptance rate", "", (f) => f.overlap],
  kl: ["KL(p‖q)", "nats", (f) => f.kl],
  klAccepted: ["KL(p‖q̃), accepted", "nats", (f) => f.klAccepted],
  klEffective: ["KL(p‖q_w), Jackpot", "nats", (f) => f.corrections.jackpot.klEffective],
  klReverse: ["KL(q‖p)", "nats", (f) => f.klReverse],
  klAcceptedReverse: ["KL(q̃‖p)", "nats", (f) => f.klAcceptedReverse],
  totalVariation: ["total variation", "", (f) => f.totalVariation],
  overlapAtOne: ["overlap, 1 − TV", "", (f) => f.overlapAtOne],
  chiSquare: ["χ²(p‖q)", "", (f) => f.chiSquare],
};

const POSITIONS = 400;
const PREFIX = "#explorer?";
let state = { ...DEFAULTS }, unread = "", cache = {}, shown = null;

/** The control of a name, which for a knob and a shape depends on the state. */
const controlOf = (name) => (name === "knob" ? KNOBS[state.family] : name === "shape" ? SHAPES[state.base] : CONTROLS[name]);

const valueAt = ({ min, max, log, whole }, position) => {
  const share = position / POSITIONS, value = log ? min * (max / min) ** share : min + (max - min) * share;
  return whole ? Math.round(value) : +value.toPrecision(4);
};
const positionOf = ({ min, max, log }, value) =>
  Math.round(POSITIONS * (log ? Math.log(value / min) / Math.log(max / min) : (value - min) / (max - min)));

function build() {
  for (const [name, control] of Object.entries(CONTROLS)) {
    const box = find(`[data-control="${name}"]`), id = `obrs-${name}`;
    box.innerHTML = control.options
      ? `<label for="${id}"></label><select id="${id}"></select>`
      : `<div class="row"><label for="${id}"></label><output for="${id}"></output></div><input type="range" id="${id}" min="0" max="${POSITIONS}">`;
    box.querySelector("label").textContent = control.label;
    const field = box.querySelector("select, input");
    if (control.options) field.append(...Object.entries(control.options).map(([value, text]) => new Option(text, value)));
    field.addEventListener("input", () => moved(name, field));
  }
  find("form").addEventListener("submit", (event) => event.preventDefault());
  find('[data-action="draw"]').addEventListener("click", () => set({ seed: state.seed + 1 }));
  find('[data-action="reset"]').addEventListener("click", () => set({ ...DEFAULTS }));
  find(".figures").innerHTML = Object.entries(FIGURES).map(([name, [label, unit]]) =>
    `<div><dt>${label}</dt><dd><output data-figure="${name}"></output> <small>${unit}</small></dd></div>`).join("");
  const heads = Object.values(COLUMNS).map(([label]) => `<th scope="col">${label}</th>`).join("");
  const cells = Object.keys(COLUMNS).map((column) => `<td data-cell="${column}"></td>`).join("");
  find('[data-table="corrections"]').innerHTML = `<thead><tr><th scope="col">correction</th>${heads}</tr></thead><tbody>${
    Object.entries(NAMES).map(([name, text]) => `<tr data-row="${name}"><th scope="row">${text}</th>${cells}</tr>`).join("")}</tbody>`;
  legend(find('[data-legend="mse"]'), Object.entries(NAMES).map(([name, text]) => ({ name: text, ink: inkOf(name), dash: DASHES[name] })));
  legend(find('[data-legend="laws"]'), [
    { name: "policy p", ink: "var(--p)" }, { name: "actor q", ink: "var(--q)" },
    { name: "accepted q̃ (thin)", ink: "var(--accepted)" }]);
  legend(find('[data-legend="trade"]'), [
    { name: "OBRS at every λ (the dot: the λ set)", ink: "var(--accepted)" },
    { name: "KL(p‖q), no rejection", ink: "var(--soft)", dash: true }]);
}

const inkOf = (name) => `var(--c-${name})`;

function moved(name, field) {
  const value = controlOf(name).options ? field.value : valueAt(controlOf(name), +field.value);
  const more = { [name]: value };
  if (name === "family") more.knob = KNOBS[value].start;
  if (name === "base") more.shape = SHAPES[value].start;
  if (name === "lam" || name === "rate") more.by = name;
  // What is held from here on is what is shown.
  if (name === "by" && shown) value === "lam" ? (more.lam = shown.lam) : (more.rate = shown.overlap);
  set(more);
}

let pending = 0;
function set(more) {
  Object.assign(state, more);
  unread = "";
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; update(); remember(); });
}

/** Reads the address; a setting in it that is none is named, and left at its default. */
function recall() {
  if (!location.hash.startsWith(PREFIX)) return;
  const wrong = [], given = new URLSearchParams(location.hash.slice(PREFIX.length));
  state = { ...DEFAULTS };
  for (const name of ["family", "base"]) if (given.get(name) in (CONTROLS[name].options ?? {})) state[name] = given.get(name);
  state.knob = KNOBS[state.family].start;
  state.shape = SHAPES[state.base].start;
  for (const [name, text] of given) {
    const control = name === "seed" ? { min: 0, max: 2 ** 31, whole: true } : controlOf(name), value = Number(text);
    if (control?.options && Object.hasOwn(control.options, text)) state[name] = text;
    else if (control && !control.options && text.trim() && fits(name, control, value)) state[name] = value;
    else wrong.push(`${name}=${text}`);
  }
  unread = wrong.length ? `The address holds settings that are none, and are left at their defaults: ${wrong.join(", ")}. ` : "";
}

// A λ or a rate that was solved for may lie beyond the end of its slider.
const fits = (name, { min, max, whole }, value) =>
  Number.isFinite(value) && (!whole || Number.isInteger(value)) &&
  (name === "lam" ? value > 0 : name === "rate" ? value > 0 && value <= 1 : value >= min && value <= max);

let rememberLater = 0, announceLater = 0;
function remember() {
  clearTimeout(rememberLater);
  rememberLater = setTimeout(() => history.replaceState(null, "", PREFIX + new URLSearchParams(state)), 200);
  clearTimeout(announceLater);
  announceLater = setTimeout(() => { outputOf("announce").textContent = summary(); }, 1200);
}

const summary = () => `Acceptance rate ${short(shown.overlap)}. KL ${short(shown.kl)} nats before, ${
  short(shown.klAccepted)} after rejection.${shown.best ? ` Least MSE: ${NAMES[shown.best]}.` : ""}`;

/** The value that `compute` gives for a key, kept until the key changes. */
function kept(name, key, compute) {
  if (cache[name]?.key !== key) cache[name] = { key, value: compute() };
  return cache[name].value;
}

function lawsNow() {
  const { seed, vocab, base, shape, advantage, family, knob } = state;
  const key = JSON.stringify([seed, vocab, base, shape, advantage]);
  const drawn = kept("drawn", key, () => laws.drawn(state));
  return kept("laws", `${key} ${family} ${knob}`, () => {
    const { policy, actor } = laws.FAMILIES[family](drawn.law, knob, drawn);
    const order = Uint32Array.from(policy, (_, i) => i).sort((i, j) => policy[j] - policy[i] || i - j);
    const sorted = (values) => Float64Array.from(order, (i) => values[i]);
    const pair = { p: sorted(policy), q: sorted(actor), advantage: sorted(drawn.advantage) };
    return { ...pair, trade: tradeOf(pair), ranks: Float64Array.from(order, (_, i) => i + 1) };
  });
}

/** OBRS at λ from all tokens accepted to the accepted law being p, or nearly. */
function tradeOf({ p, q }) {
  let low = Infinity, high = 0;
  p.forEach((x, i) => {
    const ratio = Math.exp(x - q[i]);
    if (ratio > 0 && ratio < Infinity) (low = Math.min(low, ratio)), (high = Math.max(high, ratio));
  });
  if (!(high > 0)) return [];
  low = Math.max(low, high / 1e4);
  return formulas.tradeOff(p, q, Array.from({ length: 17 }, (_, i) => low * (high / low) ** (i / 16)));
}

/** The λ to use: as set, or solved for the budget; a budget that cannot be met is named. */
function lamOf({ p, q }) {
  if (state.by === "lam") return { lam: state.lam, problem: "" };
  try {
    return { lam: formulas.solveLam(p, q, state.rate), problem: "" };
  } catch (error) {
    const most = formulas.largestRate(p, q);
    const instead = most.mass > 0 ? `The largest rate, ${short(most.mass)}, is shown.` : "λ = 1 is shown.";
    return { lam: most.mass > 0 ? most.lam : 1, problem: `OBRS cannot do this: ${error.message}. ${instead}` };
  }
}

function update() {
  const pair = lawsNow(), { lam, problem } = lamOf(pair);
  shown = formulas.measure(pair.p, pair.q, pair.advantage, { ...state, lam });
  if (state.by === "rate") state.lam = lam;
  else state.rate = Math.min(1, shown.overlap) || DEFAULTS.rate;
  const mses = Object.entries(shown.corrections).filter(([, m]) => Number.isFinite(m.mse));
  shown.best = mses.reduce((best, each) => (!best || each[1].mse < best[1].mse ? each : best), null)?.[0];
  const constant = shown.best ? "" : "The true gradient is 0, as where all tokens have the same advantage: bias and MSE, which are relative to it, are nan. ";
  write(outputOf("problem"), unread + problem + constant);
  showControls();
  for (const [name, [, , figure]] of Object.entries(FIGURES)) write(find(`[data-figure="${name}"]`), short(figure(shown), 4));
  showTable();
  drawAll(pair);
  root.dataset.drawn = String(performance.now());
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showControls() {
  for (const name of Object.keys(CONTROLS)) {
    const control = controlOf(name), box = find(`[data-control="${name}"]`), field = box.querySelector("select, input");
    write(box.querySelector("label"), control.label);
    if (control.options) { field.value = state[name]; continue; }
    const text = short(name === "lam" ? shown.lam : name === "rate" ? shown.overlap : state[name]);
    const position = positionOf(control, name === "lam" ? shown.lam : state[name]);
    if (+field.value !== position) field.value = position;
    field.setAttribute("aria-valuetext", text);
    write(box.querySelector("output"), text);
  }
  write(outputOf("seed"), String(state.seed));
}

function showTable() {
  const longest = Math.min(1.5, Math.max(...Object.values(shown.corrections).map((m) => m.mse).filter(Number.isFinite)));
  for (const [name, m] of Object.entries(shown.corrections)) {
    const row = find(`[data-row="${name}"]`);
    row.classList.toggle("least", name === shown.best);
    for (const [column, [, text]] of Object.entries(COLUMNS)) if (text) write(row.querySelector(`[data-cell="${column}"]`), text(m));
    const widths = [m.biasSq, m.noise].map((x) => (Number.isFinite(x) ? Math.max(0, (100 * x) / longest) : 0));
    const bias = Math.min(widths[0], 100), noise = Math.min(widths[1], 100 - bias);
    row.querySelector('[data-cell="bar"]').innerHTML =
      `<span class="bar"><i class="bias" style="width: ${bias}%"></i><i class="noise" style="width: ${noise}%"></i></span>`;
  }
}

function drawAll({ p, q, advantage, trade, ranks }) {
  const vocab = p.length, x = { domain: [1, Math.max(vocab, 2)], log: vocab > 30 };
  const [ps, qs, accepted] = [p, q, shown.accepted].map((law) => law.map(Math.exp));
  const all = [...ps, ...qs, ...accepted].filter((v) => v > 0), high = Math.min(1, 1.3 * Math.max(...all));
  const low = Math.max(Math.min(...all), high * 1e-9);
  const labels = { x: "token, by rank under the policy", y: "probability" };
  draw(svgOf("laws"), outputOf("laws"), {
    x: { ...x, label: `${labels.x}${x.log ? " (log scale)" : ""}` },
    y: { domain: [low / 1.3, high], log: true, label: labels.y },
    curves: [
      { xs: ranks, ys: qs, ink: "var(--q)" },
      { xs: ranks, ys: ps, ink: "var(--p)" },
      // Dashes of so ragged a line would take longer to draw than everything else to compute.
      { xs: ranks, ys: accepted, ink: "var(--accepted)", fine: true }],
    stops: ranks,
    read: (i) => `token ${i + 1}: p ${short(ps[i])}, q ${short(qs[i])}, q̃ ${short(accepted[i])}, r = p/q ${
      short(Math.exp(shown.logRatio[i]))}, A ${short(advantage[i])}`,
  });
  const most = Math.max(...advantage.map(Math.abs)) || 1;
  draw(svgOf("advantage"), null, {
    x: { ...x, label: "" },
    y: { domain: [-most, most], label: "advantage A", ticks: [-most, 0, most] },
    curves: [{ xs: ranks, ys: advantage, ink: "var(--soft)", bars: true }],
  });
  drawTrade(trade);
  drawMse();
}

function drawTrade(trade) {
  const finite = Number.isFinite(shown.kl), kls = trade.map((t) => t.kl), drawn = kls.some(Number.isFinite);
  const highest = Math.max(...[...kls, shown.kl, shown.klAccepted].filter(Number.isFinite), 0);
  const top = 1.15 * highest || 1;
  const marks = finite ? [{ y: shown.kl }] : [];
  if (Number.isFinite(shown.klAccepted)) marks.push({ x: shown.overlap, y: shown.klAccepted, ink: "var(--accepted)" });
  draw(svgOf("trade"), outputOf("trade"), {
    x: { domain: [0, 1], label: "acceptance rate Z(λ)" },
    y: { domain: [0, top], label: "KL(p‖q̃), nats" },
    curves: drawn ? [{ xs: trade.map((t) => t.rate), ys: kls, ink: "var(--accepted)" }] : [],
    marks,
    note: drawn ? "" : "KL(p‖q̃) is inf at every λ: the actor lacks tokens of the policy",
    stops: trade.map((t) => t.rate),
    read: (i) => `λ ${short(trade[i].lam)}: acceptance rate ${short(trade[i].rate)}, KL(p‖q̃) ${short(trade[i].kl)} nats`,
  });
}

function drawMse() {
  const counts = Array.from({ length: 49 }, (_, i) => 10 ** (i / 8));
  const curves = Object.entries(shown.corrections).map(([name, m]) => ({
    name, xs: counts, ys: counts.map((n) => formulas.errorsAt(m, n).mse), ink: inkOf(name), dash: DASHES[name],
  }));
  const all = curves.flatMap(({ ys }) => ys).filter((v) => Number.isFinite(v) && v > 0);
  const low = all.length ? Math.max(Math.min(...all), 1e-8) : 0.1, high = all.length ? Math.max(...all) : 1;
  draw(svgOf("mse"), outputOf("mse"), {
    x: { domain: [1, 1e6], log: true, label: "tokens n" },
    y: { domain: [low / 1.5, 1.5 * high], log: true, label: "MSE, in units of ‖g‖²" },
    curves,
    marks: [{ x: state.nSamples }],
    note: all.length ? "" : "the MSE is nan or inf for every correction",
    stops: counts,
    read: (i) => `n ${short(counts[i])}: ${curves.map(({ name, ys }) => `${NAMES[name]} ${short(ys[i])}`).join(", ")}`,
  });
}

build();
recall();
update();
watch(["laws", "advantage", "trade", "mse"].map(svgOf), () => drawAll(lawsNow()));
addEventListener("hashchange", () => { recall(); update(); });
