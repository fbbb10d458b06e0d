"use strict";
(() => {
  const root = document.documentElement;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const toggle = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map(); // figure element -> {view, hidden}

  // --- light and dark -------------------------------------------------------------------------------------

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const inTheme = (color) => (color === "#000000" && isDark() ? "#ffffff" : color);

  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    toggle.setAttribute("aria-pressed", String(isDark()));
    for (const figure of drawn.keys()) draw(figure);
  }

  function remembered(theme) {
    try { // a file that is opened from disk may have no storage
      if (theme) localStorage.setItem("jackpot-sim-theme", theme);
      return localStorage.getItem("jackpot-sim-theme");
    } catch { return null; }
  }

  toggle.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    remembered(theme);
    setTheme(theme);
  });
  prefersDark.addEventListener("change", () => setTheme(root.dataset.theme));

  // --- plots ----------------------------------------------------------------------------------------------

  // Plain numbers at 1, 3, 10 … (1, 2, 4, 7 … over a short range) in place of plotly's digits of two sizes.
  function logTicks(values) {
    const known = values.filter((each) => typeof each === "number" && each > 0);
    if (!known.length) return {};
    const [low, high] = [Math.min(...known) / 1.5, Math.max(...known) * 1.5];
    const decades = Math.log10(high / low);
    if (decades < 0.9) { // evenly spaced numbers: hardly any round one lies in so short a range
      const [least, most] = [Math.min(...known), Math.max(...known)];
      const rough = Math.max(most - least, least / 10) / 3;
      const unit = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].find((each) => each * unit >= rough) * unit;
      const count = Math.ceil((most * 1.2 - least * 0.8) / step);
      const ticks = Array.from({ length: count + 1 }, (_, at) => (Math.floor((least * 0.8) / step) + at) * step);
      return ticksOf(ticks.filter((each) => each > 0));
    }
    const steps = decades > 3 ? [1] : decades > 1 ? [1, 3] : [1, 2, 4, 7];
    const every = Math.max(1, Math.ceil(decades / 7));
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      if (power % every === 0) for (const step of steps) ticks.push(Number(`${step}e${power}`));
    }
    return ticksOf(ticks);
  }

  function ticksOf(values) {
    const label = (value) => {
      const [digits, power] = Number(value.toPrecision(3)).toExponential().split("e").map(Number);
      if (power >= -3 && power <= 4) return String(Number(value.toPrecision(3)));
      return `${digits === 1 ? "" : `${digits}·`}10<sup>${String(power).replace("-", "−")}</sup>`;
    };
    return { tickmode: "array", tickvals: values, ticktext: values.map(label) };
  }

  function along(view, name) {
    const out = (view.layout.shapes || []).flatMap((shape) => [shape[`${name}0`], shape[`${name}1`]]);
    for (const trace of view.traces) {
      const bars = trace[`error_${name}`];
      trace[name].forEach((each, at) => {
        out.push(each);
        if (bars) out.push(each + bars.array[at], each - bars.arrayminus[at]);
      });
    }
    return out;
  }

  function axis(given, values) {
    return {
      ...given,
      ...(given.type === "log" ? logTicks(values) : {}),
      title: { ...given.title, standoff: 12 },
      automargin: true,
      gridcolor: variable("--grid"),
      linecolor: variable("--line"),
      zerolinecolor: variable("--line"),
      zerolinewidth: 1,
      fixedrange: window.matchMedia("(max-width: 40rem)").matches, // a finger scrolls the page
    };
  }

  function layoutOf(view) {
    const given = view.layout;
    const narrow = window.matchMedia("(max-width: 40rem)").matches;
    const ink = variable("--ink");
    return {
      ...given,
      xaxis: { ...axis(given.xaxis, along(view, "x")), ...(narrow ? { nticks: 5 } : {}) },
      yaxis: axis(given.yaxis, along(view, "y")),
      shapes: (given.shapes || []).map((shape) => ({
        ...shape,
        line: { ...shape.line, color: variable("--soft") },
        ...(shape.label ? { label: { ...shape.label, font: { ...shape.label.font, color: variable("--soft") } } } : {}),
      })),
      height: given.height || (narrow ? 360 : 440),
      margin: { l: 56, r: 12, t: 12, b: 48 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 12 : 13, color: ink },
      hoverlabel: { bgcolor: variable("--panel"), bordercolor: variable("--line"), font: { color: ink }, align: "left" },
      hovermode: "closest",
      showlegend: false,
    };
  }

  function tracesOf(view, hidden) {
    return view.traces.map((trace) => {
      const out = { ...trace, visible: !hidden.has(trace.meta) };
      out.line = { ...trace.line, color: inTheme(trace.line.color) };
      out.marker = { ...trace.marker, color: inTheme(trace.marker.color), line: { width: 0.8, color: variable("--paper") } };
      for (const name of ["error_x", "error_y"]) {
        if (trace[name]) out[name] = { ...trace[name], color: inTheme(trace[name].color) };
      }
      return out;
    });
  }

  function draw(figure) {
    const state = drawn.get(figure) || { view: 0, hidden: new Set() };
    drawn.set(figure, state);
    const view = plots[Number(figure.dataset.plot)].views[state.view];
    const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false, plotlyServerURL: "" };
    Plotly.react(figure.querySelector(".canvas"), tracesOf(view, state.hidden), layoutOf(view), config);
    legend(figure, view, state);
  }

  const SHAPES = {
    circle: "M10 0a4.5 4.5 0 1 0 .01 0z", square: "M6 .5h8v8h-8z", diamond: "M10 -1l5.5 5.5-5.5 5.5-5.5-5.5z",
    "diamond-tall": "M10 -1.5l4 6-4 6-4-6z", "triangle-up": "M10 0l5 9h-10z", "triangle-down": "M10 9l5-9h-10z",
    "triangle-left": "M5 4.5l9-5v10z", "triangle-right": "M15 4.5l-9-5v10z", cross: "M8.3 0h3.4v2.8h2.8v3.4h-2.8v2.8h-3.4v-2.8h-2.8v-3.4h2.8z",
    x: "M6 1.6L7.6 0 10 2.6 12.4 0 14 1.6 11.6 4.5 14 7.4 12.4 9 10 6.4 7.6 9 6 7.4 8.4 4.5z",
    star: "M10 -1l1.5 3.8 4 .2-3.100 2.600 1.100 4-3.500-2.300-3.500 2.300 1.100-4-3.100-2.600 4-.2z",
    hexagon: "M7.500 .2h5l2.500 4.300-2.500 4.300h-5l-2.500-4.300z",
  };

  function swatch(trace) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "20");
    svg.setAttribute("height", "12");
    svg.setAttribute("viewBox", "0 -1.5 20 12");
    svg.setAttribute("aria-hidden", "true");
    const part = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      svg.append(element);
    };
    const color = inTheme(trace.line.color);
    if (trace.mode.includes("lines")) part("path", { d: "M0 4.5h20", stroke: color, "stroke-width": 2.2 });
    if (trace.mode.includes("markers")) part("path", { d: SHAPES[trace.marker.symbol], fill: color });
    return svg;
  }

  function legend(figure, view, state) {
    const box = figure.querySelector(".legend");
    const focused = document.activeElement && box.contains(document.activeElement)
      ? document.activeElement.dataset.name : null;
    const shown = new Map(); // the series that stands for a name is the last: means come after single seeds
    for (const trace of view.traces) if (trace.mode !== "markers" || !shown.has(trace.meta)) shown.set(trace.meta, trace);
    box.replaceChildren();
    if (shown.size < 2) return;
    for (const [name, trace] of shown) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = name;
      button.setAttribute("aria-pressed", String(!state.hidden.has(name)));
      button.append(swatch(trace), document.createTextNode(name));
      button.addEventListener("click", () => {
        if (!state.hidden.delete(name)) state.hidden.add(name);
        draw(figure);
      });
      box.append(button);
      if (name === focused) button.focus();
    }
  }

  const figures = [...document.querySelectorAll("figure.plot")];
  for (const figure of figures) {
    const select = figure.querySelector("select");
    if (select) select.addEventListener("change", () => {
      const state = drawn.get(figure) || { view: 0, hidden: new Set() };
      state.view = Number(select.value);
      drawn.set(figure, state);
      draw(figure);
    });
  }

  // --- in the order in which a reader meets things ----------------------------------------------------------

  setTheme(remembered() || undefined);
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
      if (isIntersecting) near.unobserve(target);
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) near.observe(figure);

  let before = null;
  window.addEventListener("beforeprint", () => { // paper is light, and holds every plot
    before = root.dataset.theme || "";
    setTheme("light");
    for (const figure of figures) draw(figure);
  });
  window.addEventListener("afterprint", () => setTheme(before || undefined));
})();
