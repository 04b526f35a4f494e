// Draws the comparison of methods and of any two checkpoints from the data in the page. The tables
// and figures of the page say the same without it.
"use strict";

(() => {
  const holder = document.getElementById("data");
  if (!holder || !globalThis.Bokeh) return;
  const data = JSON.parse(holder.textContent);
  const $ = (id) => document.getElementById(id);
  const { Plotting, ColumnDataSource, Range1d, FixedTicker, Span } = Bokeh;

  // --- words and colours ------------------------------------------------------------------------

  const minus = (words) => words.replace("-", "−");
  const percent = (share) => (100 * share).toFixed(1);
  const points = (share) => {
    const words = (share < 0 ? "" : "+") + (100 * share).toFixed(1);
    return /^[+-]0\.0$/.test(words) ? "0.0" : minus(words);
  };
  const sparsity = (share) => `${Number((100 * share).toFixed(2))} %`;
  const style = () => {
    const read = getComputedStyle(document.documentElement);
    return (name) => read.getPropertyValue(`--${name}`).trim();
  };
  const MARKERS = ["circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "hex"];
  const colour = (place, css) => (place < 0 ? css("ink") : css(`series-${place % 8}`));
  const marker = (place) => (place < 0 ? "star" : MARKERS[place % MARKERS.length]);

  // --- statistics: the same as on the board, for any pair ---------------------------------------

  const bits = (packed, count) => {
    const bytes = atob(packed);
    return Array.from({ length: count }, (_, at) => (bytes.charCodeAt(at >> 3) >> (7 - (at & 7))) & 1);
  };

  // Twice the smaller tail of a binomial of 1/2 over the examples on which the two disagree.
  const mcnemar = (first, second) => {
    const total = first + second;
    let term = -total * Math.LN2;
    let tail = 0;
    for (let wins = 0; wins <= Math.min(first, second); wins += 1) {
      tail += Math.exp(term);
      term += Math.log((total - wins) / (wins + 1));
    }
    return Math.min(1, 2 * tail);
  };

  // Tango's score interval for a difference of paired shares, with a continuity correction.
  const QUANTILE = 1.959963984540054;
  const lowest = (first, second, total) => {
    const excess = (difference) => {
      const linear = (2 * total - first + second) * difference - first - second;
      const constant = -second * difference * (1 - difference);
      const root = Math.sqrt(Math.max(0, linear ** 2 - 8 * total * constant));
      const share = (root - linear) / (4 * total);
      const variance = Math.max(0, total * (2 * share + difference * (1 - difference)));
      return first - second - 1 - total * difference - QUANTILE * Math.sqrt(variance);
    };
    let [low, high] = [-1, (first - second) / total];
    if (excess(low) <= 0) return -1;
    for (let turn = 0; turn < 60; turn += 1) {
      const middle = (low + high) / 2;
      if (excess(middle) > 0) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  };

  const whole = (row) => `${row.name}, ${row.detail}`;

  // --- charts -----------------------------------------------------------------------------------

  const TOOLS = "pan,box_zoom,wheel_zoom,reset,save";
  const place = (share) => -Math.log10(Math.max(1 - share, 1e-4));
  const figure = (x, y, css, more = {}) => {
    const plot = Plotting.figure({
      height: 400, sizing_mode: "stretch_width", tools: TOOLS, title: null, x_range: x, y_range: y, ...more,
      toolbar_location: "above", background_fill_color: null, border_fill_color: null,
      outline_line_color: css("frame"), active_scroll: null,
    });
    plot.toolbar.logo = null;
    const { xaxis, yaxis, xgrid, ygrid } = plot;
    for (const axis of [xaxis, yaxis]) {
      Object.assign(axis, {
        axis_line_color: css("frame"), major_tick_line_color: css("frame"), minor_tick_line_color: null,
        major_label_text_color: css("ink"), axis_label_text_color: css("ink"),
        axis_label_text_font_style: "normal",
      });
    }
    for (const grid of [xgrid, ygrid]) grid.grid_line_color = css("grid");
    return plot;
  };
  const legend = (plot, css) => {
    const all = plot.legend;
    Object.assign(all, {
      click_policy: "hide", background_fill_color: css("page"), background_fill_alpha: 0.85,
      label_text_color: css("ink"), border_line_color: css("rule"), label_text_font_size: "11px",
    });
    // On a phone there is no room beside the axes.
    if (innerWidth < 700) Object.assign(all, { ncols: 2, label_text_font_size: "10px" });
    plot.add_layout(all, innerWidth < 700 ? "below" : "right");
  };
  const show = async (plot, target) => {
    target.replaceChildren();
    await Plotting.show(plot, target);
    target.dataset.drawn = String(Number(target.dataset.drawn ?? 0) + 1);
  };
  const network = () => data.networks.find((one) => one.key === $("network").value);
  const boxes = () => [...$("methods").querySelectorAll("input")];
  const MEASURES = { robust: "robust accuracy", certified: "certified accuracy", clean: "clean accuracy", gain: "gain over magnitude" };

  // The dense network that a method started from leads its line, without a marker of its own.
  const rungs = (line, measure) =>
    [...(line.origin ? [{ ...line.origin, parent: true }] : []), ...line.rungs].flatMap((rung) => {
      const value = measure === "clean" ? (rung.clean === null ? null : [rung.clean, rung.clean, rung.clean]) : rung[measure];
      return value === null ? [] : [{ at: rung.at, value, seeds: rung.seeds, parent: rung.parent ?? false }];
    });

  const drawCurves = () => {
    const css = style();
    const measure = $("measure").value;
    const keys = new Set(boxes().filter((box) => box.checked).map((box) => box.value));
    const lines = network().lines.filter((line) => keys.has(line.key))
      .map((line) => ({ ...line, found: rungs(line, measure) })).filter((line) => line.found.length);
    const all = lines.flatMap((line) => line.found);
    const highest = Math.max(0.05, ...all.map((one) => one.value[2]));
    const low = measure === "gain" ? Math.min(-0.05, ...all.map((one) => one.value[1])) : 0;
    const last = Math.max(1, ...all.map((one) => place(one.at)));
    const plot = figure(
      new Range1d({ start: -0.06, end: last + 0.1 }),
      new Range1d({ start: 108 * low, end: Math.min(100, 108 * highest) }),
      css,
    );
    const levels = [0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999].filter((one) => place(one) <= last + 0.05);
    plot.xaxis.ticker = new FixedTicker({ ticks: levels.map(place) });
    plot.xaxis.major_label_overrides = new Map(levels.map((one) => [place(one), String(100 * one)]));
    plot.xaxis.axis_label = "sparsity (%), logarithmic in density";
    plot.yaxis.axis_label = `${MEASURES[measure]} (${measure === "gain" ? "points" : "%"})`;
    const hovered = [];
    for (const line of lines) {
      const paint = colour(line.style, css);
      const source = new ColumnDataSource({ data: {
        x: line.found.map((one) => place(one.at)),
        y: line.found.map((one) => 100 * one.value[0]),
        low: line.found.map((one) => 100 * one.value[1]),
        high: line.found.map((one) => 100 * one.value[2]),
        at: line.found.map((one) => sparsity(one.at)),
        value: line.found.map((one) => (measure === "gain" ? points : percent)(one.value[0])),
        ends: line.found.map((one) => `[${one.value.slice(1).map(measure === "gain" ? points : percent).join(", ")}]`),
        seeds: line.found.map((one) => one.seeds),
        name: line.found.map(() => line.label),
        size: line.found.map((one) => (one.parent ? 0 : 9)),
      } });
      const common = { source, legend_label: line.label };
      if (line.style < 0 && measure !== "gain") {
        plot.add_layout(new Span({ location: 100 * line.found[0].value[0], dimension: "width", line_color: paint, line_dash: "dotted" }));
      }
      // Bands of many lines hide each other.
      if (measure !== "clean" && line.found.length > 1 && lines.length <= 6) {
        plot.varea({ x: { field: "x" }, y1: { field: "low" }, y2: { field: "high" }, fill_color: paint, fill_alpha: 0.12, ...common });
      }
      plot.line({ x: { field: "x" }, y: { field: "y" }, line_color: paint, line_width: 2, ...common });
      hovered.push(plot.scatter({ x: { field: "x" }, y: { field: "y" }, marker: marker(line.style), size: { field: "size" }, fill_color: paint, line_color: paint, ...common }));
    }
    plot.add_tools(new Bokeh.HoverTool({ renderers: hovered, tooltips: [["", "@name"], ["sparsity", "@at"], [MEASURES[measure], "@value @ends"], ["seeds", "@seeds"]] }));
    if (lines.length) legend(plot, css);
    plot.height = innerWidth < 700 ? 400 + 14 * lines.length : Math.max(400, 70 + 23 * lines.length);
    return show(plot, $("curves-chart"));
  };

  const listMethods = (wanted) => {
    $("methods").replaceChildren($("methods").querySelector("legend"));
    for (const line of network().lines) {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), {
        type: "checkbox", value: line.key, checked: wanted ? wanted.has(line.key) : true,
      });
      label.append(box, ` ${line.label}`);
      $("methods").append(label);
    }
  };

  const drawFront = () => {
    const css = style();
    const cost = $("cost").value;
    const title = $("cost").selectedOptions[0].textContent;
    let rows = data.rows.filter((row) => row.ranked && row.cost[cost] > 0);
    if (cost === "latency_compact") {
      const groups = new Map();
      for (const row of rows) groups.set(row.processor, [...(groups.get(row.processor) ?? []), row]);
      rows = [...groups.values()].reduce((most, one) => (one.length > most.length ? one : most), []);
    }
    const beaten = (row) => rows.some((other) =>
      other.robust >= row.robust && other.cost[cost] <= row.cost[cost]
      && (other.robust > row.robust || other.cost[cost] < row.cost[cost]));
    const front = rows.filter((row) => !beaten(row)).sort((a, b) => a.cost[cost] - b.cost[cost]);
    const spread = rows.map((row) => Math.log10(row.cost[cost]));
    const [low, high] = [Math.min(...spread), Math.max(...spread)];
    const margin = Math.max(0.06 * (high - low), 0.02);
    const plot = figure(
      new Range1d({ start: 10 ** (low - margin), end: 10 ** (high + margin) }),
      new Range1d({ start: 0, end: Math.min(100, 108 * Math.max(0.05, ...rows.map((row) => row.robust))) }),
      css, { x_axis_type: "log" },
    );
    plot.xaxis.axis_label = title;
    plot.yaxis.axis_label = "robust accuracy (%)";
    const source = (some) => new ColumnDataSource({ data: {
      x: some.map((row) => row.cost[cost]), y: some.map((row) => 100 * row.robust),
      name: some.map(whole), ends: some.map((row) => row.ends),
    } });
    const others = plot.scatter({ x: { field: "x" }, y: { field: "y" }, source: source(rows.filter(beaten)), size: 7, fill_color: css("frame"), line_color: null, legend_label: "beaten by another" });
    plot.line({ x: { field: "x" }, y: { field: "y" }, source: source(front), line_color: css("proven"), line_width: 1.5, legend_label: "beaten by none" });
    const best = plot.scatter({ x: { field: "x" }, y: { field: "y" }, source: source(front), size: 10, fill_color: css("proven"), line_color: null, legend_label: "beaten by none" });
    plot.add_tools(new Bokeh.HoverTool({ renderers: [others, best], tooltips: [["", "@name"], ["[certified, attacked]", "@ends"], [title, "@x{0.[00]a}"]] }));
    legend(plot, css);
    return show(plot, $("front-chart"));
  };

  // --- two checkpoints --------------------------------------------------------------------------

  const pick = (select, index) => { select.value = String(index); };
  const drawSecurity = (first, second) => {
    const css = style();
    const curves = [first, second].flatMap((row, at) => [
      { row, at, found: row.curve, dash: "solid", what: "robust" },
      { row, at, found: row.proofs, dash: "dashed", what: "certified" },
    ]).filter((one) => one.found.length > 1);
    const target = $("security-chart");
    if (!curves.length) {
      target.replaceChildren("No accuracy was measured at several epsilons.");
      return null;
    }
    const ticks = new Map(curves.flatMap((one) => one.found.map(([printed, epsilon]) => [epsilon, printed])));
    const last = Math.max(...ticks.keys());
    const highest = Math.max(...curves.flatMap((one) => one.found.map((point) => point[4])));
    const plot = figure(new Range1d({ start: -0.02 * last, end: 1.04 * last }),
      new Range1d({ start: 0, end: Math.min(100, 108 * highest) }), css);
    plot.xaxis.ticker = new FixedTicker({ ticks: [...ticks.keys()] });
    plot.xaxis.major_label_overrides = ticks;
    plot.xaxis.major_label_orientation = 0.8;
    plot.xaxis.axis_label = `epsilon (${data.threat.split(" ")[0]})`;
    plot.yaxis.axis_label = "accuracy (%)";
    const hovered = curves.map(({ row, at, found, dash, what }) => {
      const paint = css(`series-${at}`);
      const source = new ColumnDataSource({ data: {
        x: found.map((point) => point[1]), y: found.map((point) => 100 * point[2]),
        low: found.map((point) => 100 * point[3]), high: found.map((point) => 100 * point[4]),
        epsilon: found.map((point) => point[0]), name: found.map(() => whole(row)), what: found.map(() => what),
        value: found.map((point) => `${percent(point[2])} [${percent(point[3])}, ${percent(point[4])}]`),
      } });
      const common = { source, legend_label: `${at ? "second" : "first"}, ${what}` };
      plot.varea({ x: { field: "x" }, y1: { field: "low" }, y2: { field: "high" }, fill_color: paint, fill_alpha: 0.1, ...common });
      plot.line({ x: { field: "x" }, y: { field: "y" }, line_color: paint, line_width: 2, line_dash: dash, ...common });
      return plot.scatter({ x: { field: "x" }, y: { field: "y" }, marker: at ? "square" : "circle", size: 7, fill_color: paint, line_color: paint, ...common });
    });
    plot.add_tools(new Bokeh.HoverTool({ renderers: hovered, tooltips: [["", "@name"], ["epsilon", "@epsilon"], ["@what", "@value"]] }));
    legend(plot, css);
    return show(plot, target);
  };

  const link = (row) =>
    Object.assign(document.createElement("a"), { href: `../${row.href}`, textContent: row.name });

  const fight = () => {
    const [first, second] = [$("first"), $("second")].map((select) => data.rows[Number(select.value)]);
    const count = data.examples;
    const [ours, theirs] = [first, second].map((row) => bits(row.bits.robust, count));
    const wins = (a, b) => data.index.filter((_, at) => a[at] && !b[at]);
    const [mine, yours] = [wins(ours, theirs), wins(theirs, ours)];
    const both = ours.filter((right, at) => right && theirs[at]).length;
    const [b, c] = [mine.length, yours.length];
    const p = mcnemar(b, c);
    const [low, high] = [lowest(b, c, count), -lowest(c, b, count)];
    const cells = { both, "only-first": b, "only-second": c, neither: count - both - b - c };
    for (const [id, value] of Object.entries(cells)) $(id).textContent = value.toLocaleString("en");
    $("difference").textContent = `${points((b - c) / count)} points, 95 % interval [${points(low)}, ${points(high)}]`;
    $("p").textContent = `p = ${p < 0.001 ? p.toExponential(1) : p.toFixed(3)}`;
    $("p").dataset.value = String(p);
    $("difference").dataset.low = String(low);
    $("difference").dataset.high = String(high);
    const better = b > c ? "first" : "second";
    $("verdict").textContent = first === second ? "One checkpoint, twice."
      : p <= 0.05 ? `The ${better} is more robust: the paired test tells them apart.`
        : "Not separable: the paired test cannot tell them apart on these examples.";
    $("links").replaceChildren(link(first), ` ${first.detail}; `, link(second), ` ${second.detail}`);
    $("first-wins").textContent = mine.join(", ") || "none";
    $("second-wins").textContent = yours.join(", ") || "none";
    return drawSecurity(first, second);
  };

  // --- the page ---------------------------------------------------------------------------------

  const address = () => {
    const view = new URLSearchParams();
    if ($("network").selectedIndex > 0) view.set("network", $("network").value);
    if ($("measure").value !== "robust") view.set("measure", $("measure").value);
    const [on, all] = [boxes().filter((box) => box.checked), boxes()];
    if (on.length < all.length) view.set("methods", on.map((box) => box.value).join(" "));
    if ($("cost") && $("cost").selectedIndex > 0) view.set("cost", $("cost").value);
    view.set("first", data.rows[Number($("first").value)].id);
    view.set("second", data.rows[Number($("second").value)].id);
    history.replaceState(null, "", `#${view}`);
  };

  const options = (select) => {
    const groups = new Map();
    data.rows.forEach((row, index) => {
      const title = row.dense ? "dense" : row.group;
      if (!groups.has(title)) groups.set(title, Object.assign(document.createElement("optgroup"), { label: title }));
      groups.get(title).append(Object.assign(document.createElement("option"), { value: String(index), textContent: `${row.ends}  ${whole(row)}` }));
    });
    select.replaceChildren(...groups.values());
  };

  const restore = () => {
    const view = new URLSearchParams(location.hash.slice(1));
    if (view.get("network")) $("network").value = view.get("network");
    if ($("network").selectedIndex < 0) $("network").selectedIndex = 0;
    $("measure").value = view.get("measure") ?? "robust";
    if ($("measure").selectedIndex < 0) $("measure").value = "robust";
    if ($("cost")) $("cost").selectedIndex = Math.max(0, [...$("cost").options].findIndex((one) => one.value === view.get("cost")));
    listMethods(view.has("methods") ? new Set(view.get("methods").split(" ")) : null);
    const pruned = data.rows.map((row, index) => [row, index]).filter(([row]) => !row.dense && row.ranked);
    // The first two of the sparsest group, unless the address names others.
    const usual = pruned.slice(0, 2).map(([, index]) => index);
    const at = (id, otherwise) => {
      const found = data.rows.findIndex((row) => row.id === id);
      return found < 0 ? otherwise : found;
    };
    pick($("first"), at(view.get("first"), usual[0] ?? 0));
    pick($("second"), at(view.get("second"), usual[1] ?? data.rows.length - 1));
  };

  const draw = () => Promise.all([drawCurves(), $("front-chart") && drawFront(), fight()]);
  const on = (id, event, act) => $(id) && $(id).addEventListener(event, act);
  const then = (act) => () => { act(); address(); };

  for (const id of ["first", "second"]) options($(id));
  for (const id of ["explorer", "front-explorer", "duel"]) if ($(id)) $(id).hidden = false;
  restore();
  on("network", "change", then(() => { listMethods(null); drawCurves(); }));
  on("measure", "change", then(drawCurves));
  on("methods", "change", then(drawCurves));
  on("all", "click", then(() => { boxes().forEach((box) => { box.checked = true; }); drawCurves(); }));
  on("none", "click", then(() => { boxes().forEach((box) => { box.checked = false; }); drawCurves(); }));
  on("cost", "change", then(drawFront));
  on("first", "change", then(fight));
  on("second", "change", then(fight));
  on("swap", "click", then(() => { const [a, b] = [$("first").value, $("second").value]; pick($("first"), b); pick($("second"), a); fight(); }));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { restore(); draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
