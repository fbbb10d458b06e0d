// Small SVG charts: axes with titles, curves, marks, and a cursor that reads values off, by pointer and by arrow keys.

const plots = (() => {
  "use strict";

  const SPACE = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 62, right: 22, top: 8, bottom: 40 };
  const sizes = new WeakMap();

  function make(parent, name, attributes, text) {
    const node = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  /** A number in few signs, as 0.0123, 1.2e-5, inf or nan. */
  function short(value, digits = 3) {
    if (Number.isNaN(value)) return "nan";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "−inf";
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-3 || size >= 1e5 ? value.toExponential(digits - 1).replace(/\.?0+e/, "e") : String(+value.toPrecision(digits));
    return text.replace("e+", "e").replaceAll("-", "−");
  }

  function linearTicks([low, high]) {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((x) => x * power >= rough * 0.999);
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k++) ticks.push(k * step);
    return ticks;
  }

  function logTicks([low, high]) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / 6)), ticks = [];
    for (let k = first; k <= last; k += every) ticks.push(10 ** k);
    if (ticks.length > 1) return ticks;
    return [1, 2, 3, 5, 7].flatMap((x) => [x * 10 ** (first - 1), x * 10 ** first]).filter((x) => x >= low && x <= high).sort((a, b) => a - b);
  }

  /** value → pixel along an axis {domain, log}. */
  function scale({ domain: [low, high], log }, from, to) {
    const of = log ? Math.log : (x) => x, start = of(low), length = of(high) - start || 1;
    return (x) => from + ((of(x) - start) / length) * (to - from);
  }

  const tenth = (pixels) => Math.round(10 * pixels) / 10;

  /** A path through the points that lie on the plot; it breaks where one does not. */
  function pathOf(xs, ys, x, y, bottom) {
    let path = "", pen = "M";
    for (let i = 0; i < xs.length; i++) {
      const at = y(ys[i]);
      if (Number.isFinite(at) && at <= bottom + 0.5) {
        path += pen + tenth(x(xs[i])) + " " + tenth(at);
        pen = "L";
      } else pen = "M";
    }
    return path;
  }

  /** Draws a chart.
   *
   * chart: {x, y: {label, domain, log}, curves: [{xs, ys, ink, dash, bars, fine}], marks: [{x}, {y} or {x, y, ink}],
   * stops: the places of the cursor, read: stop's index → text, note: a text in place of the curves}.
   */
  function draw(svg, output, chart) {
    const { width, height } = sizes.get(svg) ?? measured(svg);
    const bottom = height - (chart.x.label ? MARGIN.bottom : 6), right = width - MARGIN.right;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const x = scale(chart.x, MARGIN.left, right), y = scale(chart.y, bottom, MARGIN.top);
    for (const tick of chart.y.log ? logTicks(chart.y.domain) : chart.y.ticks ?? linearTicks(chart.y.domain)) {
      make(svg, "path", { class: "axis", d: `M${MARGIN.left} ${y(tick)}H${right}` });
      make(svg, "text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick));
    }
    if (chart.x.label) {
      for (const tick of chart.x.log ? logTicks(chart.x.domain) : linearTicks(chart.x.domain)) {
        make(svg, "path", { class: "axis", d: `M${x(tick)} ${bottom}v5` });
        make(svg, "text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, short(tick));
      }
      make(svg, "text", { x: (MARGIN.left + right) / 2, y: height - 4, "text-anchor": "middle" }, chart.x.label);
    }
    const middle = (MARGIN.top + bottom) / 2;
    make(svg, "text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, chart.y.label);
    for (const { xs, ys, ink, dash, bars, fine } of chart.curves) {
      const d = bars
        ? Array.from(xs, (at, i) => `M${tenth(x(at))} ${tenth(y(0))}V${tenth(y(ys[i]))}`).join("")
        : pathOf(xs, ys, x, y, bottom);
      make(svg, "path", { class: fine || bars ? "curve fine" : "curve", d, style: `stroke: ${ink}; stroke-dasharray: ${dash ?? "none"}` });
    }
    for (const mark of chart.marks ?? []) {
      if (mark.ink) make(svg, "circle", { cx: x(mark.x), cy: y(mark.y), r: 6, style: `fill: ${mark.ink}` });
      else if ("x" in mark) make(svg, "path", { class: "mark", d: `M${x(mark.x)} ${MARGIN.top}V${bottom}` });
      else make(svg, "path", { class: "mark", d: `M${MARGIN.left} ${y(mark.y)}H${right}` });
      if (mark.label) make(svg, "text", { x: right, y: y(mark.y) - 5, "text-anchor": "end" }, mark.label);
    }
    if (chart.note) make(svg, "text", { x: (MARGIN.left + right) / 2, y: middle, "text-anchor": "middle" }, chart.note);
    if (output) follow(svg, output, chart, x, bottom);
  }

  /** Lets the cursor follow the pointer and the arrow keys. */
  function follow(svg, output, chart, x, bottom) {
    const places = Array.from(chart.stops ?? [], x);
    const cursor = make(svg, "path", { class: "cursor" });
    let at = svg.cursorAt ?? null;
    const show = (stop) => {
      at = svg.cursorAt = stop === null ? null : Math.max(0, Math.min(places.length - 1, stop));
      if (at === null || !places.length) cursor.removeAttribute("d"), (output.textContent = "");
      else cursor.setAttribute("d", `M${places[at]} ${MARGIN.top}V${bottom}`), (output.textContent = chart.read(at));
    };
    svg.onpointermove = (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      let nearest = 0;
      places.forEach((each, i) => { if (Math.abs(each - place) < Math.abs(places[nearest] - place)) nearest = i; });
      show(nearest);
    };
    svg.onpointerleave = () => show(null);
    svg.onblur = () => show(null);
    svg.onkeydown = (event) => {
      const far = Math.max(1, Math.round(places.length / 20)), now = at ?? -1;
      const to = { ArrowRight: now + 1, ArrowLeft: now - 1, PageDown: now + far, PageUp: now - far, Home: 0,
        End: places.length - 1, Escape: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    };
    show(at);
  }

  function measured(svg) {
    const size = { width: svg.clientWidth || 640, height: svg.clientHeight || 320 };
    sizes.set(svg, size);
    return size;
  }

  /** Names each curve beside a stroke of its ink. */
  function legend(node, entries) {
    node.replaceChildren(...entries.map(({ name, ink, dash }) => {
      const entry = document.createElement("span");
      entry.textContent = name;
      entry.style.setProperty("--ink-of", ink);
      if (dash) entry.style.setProperty("--dash", "dashed");
      return entry;
    }));
  }

  /** Calls `redraw` when a chart gets another size. */
  function watch(svgs, redraw) {
    const observer = new ResizeObserver((entries) => {
      let changed = false;
      for (const { target } of entries) {
        const old = sizes.get(target);
        if (old && old.width === target.clientWidth && old.height === target.clientHeight) continue;
        measured(target);
        changed = true;
      }
      if (changed) redraw();
    });
    svgs.forEach((svg) => observer.observe(svg));
  }

  return { draw, legend, watch, short };
})();
