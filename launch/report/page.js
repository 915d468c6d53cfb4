// Draws the figures of the page, puts steps, tokens or hours on their axis, and lights the run that is pointed at.
"use strict";
(() => {
  const NARROW = 760, PAPER = 680;
  const SIDE = { orientation: "v", x: 1.01, xanchor: "left", yref: "paper", y: 1, yanchor: "top" };
  const config = () => ({ responsive: true, displaylogo: false, displayModeBar: window.innerWidth < NARROW ? false : "hover",
    showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
  const charts = [];
  const titles = JSON.parse(document.getElementById("axes").textContent);
  const chosen = (name) => (document.querySelector(`input[name=${name}]:checked`) || {}).value;

  const decoded = (spec) => {
    const bytes = Uint8Array.from(atob(spec.bdata), (c) => c.charCodeAt(0));
    return spec.dtype === "f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
  };
  const along = (trace, steps, name) => {
    const own = trace.meta && trace.meta[name];
    if (name === "steps" || own === undefined) return steps;
    if (typeof own === "number") return Array.from(steps, (step) => step * own);
    return own.bdata ? decoded(own) : own;
  };
  const putOnAxis = (name) => charts.filter((chart) => chart.dataset.kind === "curve").forEach((chart) => {
    if (!chart.steps) chart.steps = chart._fullData.map((trace) => trace.x);
    const x = chart.data.map((trace, n) => along(trace, chart.steps[n], name));
    Plotly.update(chart, { x }, { "xaxis.title.text": titles[name], "xaxis.autorange": true });
  });
  // Without the first tenth, where all curves fall steeply, the rest fills the chart.
  const zoom = (late) => charts.filter((chart) => chart.dataset.kind === "curve").forEach((chart) => {
    if (!late) { Plotly.relayout(chart, { "xaxis.autorange": true, "yaxis.autorange": true }); return; }
    const shown = chart._fullData.filter((trace) => trace.visible === true && trace.x);
    const last = Math.max(...shown.map((trace) => trace.x[trace.x.length - 1] || 0));
    let low = Infinity, high = -Infinity;
    shown.forEach((trace) => trace.x.forEach((x, n) => {
      const y = trace.y[n];
      if (x >= last / 10 && Number.isFinite(y)) { low = Math.min(low, y); high = Math.max(high, y); }
    }));
    if (!(low <= high)) return;
    if (chart.layout.yaxis.rangemode === "tozero") low = Math.min(low, 0);
    const log = chart.layout.yaxis.type === "log" && low > 0;
    const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
    const room = 0.04 * (b - a) || 0.04 * Math.abs(b) || 1;
    Plotly.relayout(chart, { "xaxis.range": [last / 10, last * 1.005], "yaxis.range": [a && a - room, b + room] });
  });
  const setScale = (kind) => charts.filter((chart) => "log" in chart.dataset).forEach((chart) =>
    Plotly.relayout(chart, { "yaxis.type": kind, "yaxis.autorange": true }));

  // One run in all charts: the legend of the first hides it, pointing at a curve lights it.
  const ofRun = (chart, group) => chart.data.flatMap((trace, n) => trace.legendgroup === group ? [n] : []);
  const setVisible = (shown) => charts.filter((chart) => chart.dataset.kind === "curve").forEach((chart) => {
    const visible = chart.data.map((trace) => shown(trace.legendgroup) ? true : "legendonly");
    Plotly.restyle(chart, { visible });
  });
  const hidden = new Set();
  const toggle = (group) => {
    if (!hidden.delete(group)) hidden.add(group);
    setVisible((one) => !hidden.has(one));
  };
  const isolate = (chart, group) => {
    const groups = new Set(chart.data.map((trace) => trace.legendgroup));
    const alone = hidden.size === groups.size - 1 && !hidden.has(group);
    hidden.clear();
    if (!alone) groups.forEach((one) => one === group || hidden.add(one));
    setVisible((one) => !hidden.has(one));
  };
  const light = (group) => charts.filter((chart) => chart.dataset.kind === "curve").forEach((chart) => {
    chart.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit"));
    chart.classList.toggle("dimmed", group !== null);
    if (group !== null) ofRun(chart, group).forEach((n) =>
      chart.querySelectorAll(`.trace${chart._fullData[n].uid}`).forEach((node) => node.classList.add("lit")));
  });

  // On a narrow screen a legend stands below its chart, in as much room as it takes there.
  const shape = (chart) => {
    if (!chart.layout.showlegend) return;
    if (!chart.wide) chart.wide = { legend: chart.layout.legend, bottom: chart.layout.margin.b, height: chart.clientHeight };
    const names = new Set(chart.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name));
    const longest = Math.max(...[...names].map((name) => name.length));
    const rows = Math.ceil(names.size / Math.max(1, Math.floor(chart.clientWidth / (60 + 7.5 * longest))));
    const below = window.innerWidth < NARROW ? 24 * rows : 0;
    const legend = below ? { ...chart.wide.legend, orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom" }
      : { ...SIDE, ...chart.wide.legend };
    chart.style.height = `${chart.wide.height + below}px`;
    Plotly.relayout(chart, { legend, "margin.b": chart.wide.bottom + (below && below + 20), "margin.t": below ? 30 : chart.top,
      height: chart.wide.height + below });
  };
  const draw = (chart) => {
    const figure = JSON.parse(document.getElementById(`data-${chart.id}`).textContent);
    if (figure.layout.height) chart.style.height = `${figure.layout.height}px`;
    charts.push(chart);
    chart.top = figure.layout.margin.t;
    return Plotly.newPlot(chart, figure.data, figure.layout, config()).then(() => {
      shape(chart);
      if (chart.dataset.kind !== "curve") return;
      chart.on("plotly_hover", (event) => light(event.points[0].data.legendgroup));
      chart.on("plotly_unhover", () => light(null));
      chart.on("plotly_legendclick", (event) => { toggle(event.data[event.curveNumber].legendgroup); return false; });
      chart.on("plotly_legenddoubleclick", (event) => {
        isolate(chart, event.data[event.curveNumber].legendgroup);
        return false;
      });
    });
  };

  document.querySelectorAll("input[name=axis]").forEach((input) =>
    input.addEventListener("change", () => putOnAxis(chosen("axis"))));
  document.querySelectorAll("input[name=log]").forEach((input) =>
    input.addEventListener("change", () => setScale(input.checked ? "log" : "linear")));
  const late = document.querySelector("input[name=late]");
  if (late) document.querySelector(".choices").addEventListener("change", () => { if (late.checked) zoom(true); });
  if (late) late.addEventListener("change", () => zoom(late.checked));
  document.querySelectorAll("a[href^='#run-']").forEach((link) => link.addEventListener("click", () => {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (target) target.open = true;
  }));
  let narrow = null;
  window.addEventListener("resize", () => {
    const now = window.innerWidth < NARROW;
    if (now !== narrow) charts.forEach(shape);
    narrow = now;
  });

  // On paper everything has the paper's width, and short lists of runs are open.
  const closed = [];
  window.addEventListener("beforeprint", () => {
    const all = [...document.querySelectorAll("details[id]:not([open])")];
    if (all.length <= 20) all.forEach((one) => { one.open = true; closed.push(one); });
    charts.forEach((chart) => { Plotly.relayout(chart, { width: PAPER }); });
  });
  window.addEventListener("afterprint", () => {
    closed.splice(0).forEach((one) => { one.open = false; });
    charts.forEach((chart) => { Plotly.relayout(chart, { autosize: true, width: null }); });
  });

  const pending = [...document.querySelectorAll(".chart")];
  const next = () => {
    const chart = pending.shift();
    if (!chart) { document.documentElement.dataset.drawn = charts.length; return; }
    draw(chart).catch((problem) => { chart.textContent = `This chart could not be drawn: ${problem.message || problem}`; })
      .then(() => setTimeout(next));
  };
  next();
})();
