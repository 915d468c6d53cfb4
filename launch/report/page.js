// Draws the figures of the page, puts steps, tokens or hours on their axis, and lights the run that is pointed at.
"use strict";
(() => {
  const NARROW = 760, PAPER = 680;
  const BELOW = { orientation: "h", xref: "container", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom" };
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

  // Long names of runs beside bars take two lines on a narrow screen.
  const halved = (name) => {
    const places = [...name.matchAll(/ /g)].map((found) => found.index);
    const middle = places.sort((a, b) => Math.abs(a - name.length / 2) - Math.abs(b - name.length / 2))[0];
    return name.length <= 16 || !middle ? name : `${name.slice(0, middle)}<br>${name.slice(middle + 1)}`;
  };
  const shapeNames = (chart, narrow) => {
    const names = chart.layout.yaxis && chart.layout.yaxis.categoryarray;
    const shown = names && chart.layout.yaxis.showticklabels !== false;
    const labelalias = shown && narrow ? Object.fromEntries(names.map((name) => [name, halved(name)])) : null;
    chart.taller = labelalias && Object.values(labelalias).some((name) => name.includes("<br>")) ? 6 * names.length : 0;
    return names ? { "yaxis.labelalias": labelalias, "yaxis.tickfont.size": narrow ? 10 : null,
      "xaxis.nticks": narrow ? 4 : 0, "xaxis.tickangle": narrow ? 0 : "auto" } : {};
  };
  // On a narrow screen, or where it would take too much of the width, a legend stands below its chart. It takes as much
  // room as it then turns out to need: nobody should have to scroll in it.
  const WHOLE = 100000;  // plotly gives a legend half of a chart's height at most unless it is told how much
  const shape = (chart) => {
    const narrow = window.innerWidth < NARROW;
    if (!chart.layout.showlegend) return;
    if (!chart.wide) chart.wide = { legend: chart.layout.legend, ...chart.layout.margin, height: chart.clientHeight };
    const names = chart.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name);
    const longest = 60 + 7 * Math.max(...names.map((name) => name.length));
    const flat = chart.wide.legend.orientation === "h";
    const below = narrow || (!flat && longest > 0.4 * chart.clientWidth);
    const now = `${narrow} ${below} ${below || flat ? chart.clientWidth : ""}`;
    if (chart.shaped === now) return;
    chart.shaped = now;
    const legend = { ...(below ? { ...chart.wide.legend, ...BELOW } : { ...SIDE, ...chart.wide.legend }), maxheight: WHOLE };
    const place = (room) => {
      const height = chart.wide.height + chart.taller + room;
      chart.style.height = `${height}px`;
      return { height, "margin.b": chart.wide.b + (below && room), "margin.t": below ? 30 : chart.wide.t + room };
    };
    const guess = below ? 24 * names.length : 0;
    const texts = shapeNames(chart, narrow);
    return Plotly.relayout(chart, { legend, ...texts, ...place(guess) }).then(() => {
      const box = chart.querySelector(".legend .bg");
      const needs = box ? Math.ceil(box.getBoundingClientRect().height) : guess;
      return Plotly.relayout(chart, place(below ? needs + 20 : flat ? Math.max(0, needs - 28) : 0));
    });
  };
  const draw = (chart) => {
    const figure = JSON.parse(document.getElementById(`data-${chart.id}`).textContent);
    if (figure.layout.height) chart.style.height = `${figure.layout.height}px`;
    charts.push(chart);
    return Plotly.newPlot(chart, figure.data, figure.layout, config()).then(() => shape(chart)).then(() => {
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
  let resized = 0;
  window.addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => charts.forEach(shape), 150);
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
