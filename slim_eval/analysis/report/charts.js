// The two charts, drawn with Plotly from the data in the page.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byKey = new Map(data.metrics.map((metric) => [metric.key, metric]));
  const styleOf = new Map(data.precisions.map((entry) => [entry.name, entry]));
  const field = (id) => document.getElementById(id);
  // Buttons by name: Plotly's own choice has one that uploads the chart to a server.
  const config = { responsive: true, displaylogo: false, plotlyServerURL: "", showLink: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const narrow = () => innerWidth < 640;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const DOUBTFUL = ["confounded", "invalid", "emulated", "other setting"];

  // Plotly reads some markup in its texts: a name must not be taken for it.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const labelOf = (place) => `${data.points[place].name} ${data.points[place].precision}`;

  function number(value) {
    if (value === null || value === undefined) return "not measured";
    const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 1 ? 2 : null;
    return digits === null
      ? String(Number(value.toPrecision(3))) : value.toLocaleString("en", { maximumFractionDigits: digits });
  }
  const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(1);

  function numberOf(metric, place) {
    const value = metric.values[place];
    const low = metric.lows && metric.lows[place];
    const ends = typeof low === "number" ? ` (${number(low)} to ${number(metric.highs[place])})` : "";
    const marks = metric.marks[place] ? ` [${metric.marks[place].join(", ")}]` : "";
    return number(value) + ends + marks;
  }

  // Colours of the page, so that a chart is readable in light, dark and on paper.
  function look() {
    const dark = theme.dark();
    return dark ? { text: "#e6eaee", grid: "#2c343d", back: "#14181d", rim: "#e6eaee", band: "rgba(90,200,140,.13)" }
      : { text: "#1d2329", grid: "#e4e7eb", back: "#ffffff", rim: "#1d2329", band: "rgba(0,120,70,.09)" };
  }

  function layoutOf(colours) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: narrow() ? false : "zoom",
      font: { color: colours.text, size: narrow() ? 11 : 13, family: "system-ui, sans-serif" },
      hoverlabel: { align: "left", bgcolor: colours.back, bordercolor: colours.text, font: { color: colours.text, size: 12 } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    };
  }

  function axisOf(metric, colours, beside) {
    const better = metric.maximise === null ? "" : metric.maximise ? ", more is better" : ", less is better";
    return {
      title: { text: plain(metric.label + better), standoff: 8 }, gridcolor: colours.grid, zeroline: false, automargin: true,
      linecolor: colours.grid, ...beside,
    };
  }

  function errorOf(metric, places) {
    if (!metric.lows) return undefined;
    const wing = (ends, sign) => places.map((place) => {
      const end = ends[place];
      return typeof end === "number" ? Math.max(0, sign * (end - metric.values[place])) : 0;
    });
    return { type: "data", symmetric: false, array: wing(metric.highs, 1), arrayminus: wing(metric.lows, -1),
      thickness: 1.2, width: 3 };
  }

  function hoverOf(place, axes) {
    const first = axes.map((axis) => `${plain(axis.label)}: ${plain(numberOf(axis, place))}`);
    const rest = narrow() ? [] : data.metrics.filter((metric) => !axes.includes(metric) && metric.values[place] !== null)
      .map((metric) => `${plain(metric.label)}: ${plain(numberOf(metric, place))}`);
    return [`<b>${plain(labelOf(place))}</b>`, ...first, ...(rest.length ? ["", ...rest] : [])].join("<br>");
  }

  // A number that is marked is drawn as an outline and takes no part in a frontier where it does not count.
  const marksAt = (axes, place) => axes.flatMap((axis) => axis.marks[place] || []);
  const doubtful = (axes, place) => marksAt(axes, place).some((mark) => DOUBTFUL.includes(mark));

  // All points of a frontier, and of the others every n-th, where there are too many to draw.
  function thinned(places, kept) {
    if (places.length <= data.max_points) return places;
    const others = places.filter((place) => !kept.has(place));
    const step = Math.ceil(others.length / Math.max(1, data.max_points - kept.size));
    const taken = new Set(others.filter((_, index) => index % step === 0));
    return places.filter((place) => kept.has(place) || taken.has(place));
  }

  function pointTrace(precision, places, axes, on, colours) {
    const { colour, symbol } = styleOf.get(precision);
    const [x, y] = axes;
    const label = on.size <= 12 && !narrow();
    return {
      type: "scatter", mode: label ? "markers+text" : "markers", name: plain(precision), customdata: places,
      x: places.map((place) => x.values[place]), y: places.map((place) => y.values[place]),
      error_x: errorOf(x, places), error_y: errorOf(y, places),
      text: label ? places.map((place) => (on.has(place) ? plain(data.points[place].name) : "")) : undefined,
      textposition: "top center", textfont: { size: 11, color: colours.text }, cliponaxis: false,
      hovertext: places.map((place) => hoverOf(place, axes)), hoverinfo: "text",
      marker: {
        color: colour, size: 11, line: { color: places.map((p) => (doubtful(axes, p) ? colour : colours.rim)), width: 1 },
        symbol: places.map((place) => (doubtful(axes, place) ? `${symbol}-open` : symbol)),
      },
    };
  }

  function lineTrace(front, index, many, axes, colours) {
    const [x, y] = axes;
    return {
      type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: front.places.length > 1,
      name: many ? `frontier: ${plain(front.label.length > 60 ? `${front.label.slice(0, 60)}…` : front.label)}` : "frontier",
      x: front.places.map((place) => x.values[place]), y: front.places.map((place) => y.values[place]),
      line: { color: colours.text, width: 1.3, dash: DASHES[index % DASHES.length], shape: x.maximise ? "vh" : "hv" },
      opacity: 0.75,
    };
  }

  function frontiers(axes, places) {
    const [x, y] = axes;
    const { groups, differences, unknown } = settingsOf(data, places, axes);
    const directed = x.maximise !== null && y.maximise !== null && x !== y;
    const obstacle = directed ? null : "it needs two metrics of which the better direction is known";
    // A latency of another output length, or an energy that is not valid, beats nobody.
    const counts = (place) => !marksAt(axes, place).some((mark) => mark === "confounded" || mark === "invalid");
    const fronts = [];
    const obstacles = new Set(obstacle ? [obstacle] : []);
    for (const { members, label } of obstacle ? [] : groups) {
      const taking = members.filter(counts);
      const why = lengthObstacle(data, taking, axes);
      if (why) obstacles.add(why);
      else if (taking.length) fronts.push({ label, places: frontierOf(taking, x.values, y.values, x.maximise, y.maximise) });
    }
    return { fronts, settings: groups.length, differences, unknown, obstacles: [...obstacles] };
  }

  function noteOf(axes, places, drawn, found) {
    const absent = shown.size - places.length;
    const parts = [`${places.length} configuration${places.length === 1 ? "" : "s"} with both numbers.`];
    if (absent) parts.push(`${absent} without one of them are not drawn.`);
    if (drawn < places.length) {
      parts.push(`${drawn} points are drawn: all on a frontier, and evenly some of the others.`);
    }
    if (found.settings > 1) {
      parts.push(`They were measured in ${found.settings} settings that are not compared with each other, so no line joins `
        + `them${found.differences.length ? ` (${found.differences.join("; ")})` : ""}.`);
    }
    if (found.unknown.length && places.length > 1) {
      parts.push(`In which setting ${found.unknown.join(" and ")} was measured was not recorded: whether these points may be `
        + "compared is not known.");
    }
    const marks = [...new Set(places.flatMap((place) => marksAt(axes, place)))].filter((mark) => DOUBTFUL.includes(mark));
    if (marks.length) parts.push(`An outlined point is ${marks.join(" or ")}: see the legend of the table.`);
    for (const why of found.obstacles) parts.push(`No frontier: ${why}.`);
    if (found.fronts.length) parts.push("The frontier joins the best point values; where intervals overlap, which is better cannot be told.");
    if (!axes.some((axis) => axis.lows)) parts.push("Neither metric has an interval in these results.");
    return parts.join(" ");
  }

  function drawPareto() {
    const axes = ["axis-x", "axis-y"].map((id) => byKey.get(field(id).value));
    const [x, y] = axes;
    const colours = look();
    const places = [...shown].sort((a, b) => a - b).filter((p) => x.values[p] !== null && y.values[p] !== null);
    const found = frontiers(axes, places);
    const on = new Set(found.fronts.flatMap((front) => front.places));
    const drawn = thinned(places, on);
    const traces = data.precisions.map(({ name }) => [name, drawn.filter((p) => data.points[p].precision === name)])
      .filter(([, members]) => members.length).map(([name, members]) => pointTrace(name, members, axes, on, colours));
    const lines = found.fronts.slice(0, 20)
      .map((front, index) => lineTrace(front, index, found.settings > 1, axes, colours));
    const layout = {
      ...layoutOf(colours), height: narrow() ? 380 : 500, margin: { l: 50, r: 24, t: 30, b: 50 },
      xaxis: axisOf(x, colours, { type: field("log-x").checked ? "log" : "linear" }), yaxis: axisOf(y, colours, {}),
    };
    Plotly.react("pareto", [...lines, ...traces], layout, config);
    field("pareto-note").textContent = noteOf(axes, places, drawn.length, found);
  }

  // The numbers of a point, under the chart: a finger has no hover, and a card holds only so much.
  function showPoint(event) {
    const place = event.points[0] && event.points[0].customdata;
    if (typeof place !== "number") return;
    const entries = data.metrics.filter((metric) => metric.values[place] !== null).map((metric) => {
      const entry = document.createElement("div");
      entry.append(Object.assign(document.createElement("dt"), { textContent: metric.label }),
        Object.assign(document.createElement("dd"), { textContent: numberOf(metric, place) }));
      return entry;
    });
    const list = document.createElement("dl");
    list.append(...entries);
    field("point").replaceChildren(Object.assign(document.createElement("h3"), { textContent: labelOf(place) }), list);
  }

  function dropHover(drop) {
    const ends = drop.low === null ? "no interval" : `${signed(drop.low)} to ${signed(drop.high)}`;
    const needed = drop.needed === null ? "" : `<br>it would take about ${drop.needed.toLocaleString("en")} items`;
    const flips = drop.flips === null ? "" : `<br>${(100 * drop.flips).toFixed(1)} % of the answers flipped`;
    const p = drop.p === null ? "" : `<br>p = ${drop.p.toPrecision(2)}, corrected`;
    return `<b>${plain(labelOf(drop.point))}, ${plain(drop.task)}</b><br>drop ${signed(drop.drop)} pp (${ends})<br>`
      + `${plain(drop.verdict)}, margin ${drop.margin} pp, ${drop.items.toLocaleString("en")} items${needed}${flips}${p}`;
  }

  function dropName(drop, task) {
    const where = task ? "" : `, ${drop.task}`;
    const name = narrow() && data.points[drop.point].name.length > 14
      ? `${plain(data.points[drop.point].name)}<br>${plain(data.points[drop.point].precision)}` : plain(labelOf(drop.point));
    return `${name}${plain(where)}<br><b>${plain(drop.verdict)}</b>`;
  }

  function dropTrace({ name, colour, symbol }, drops, lines, colours) {
    const mine = lines.filter((index) => data.points[drops[index].point].precision === name);
    const wing = (end, sign) => mine.map((i) => (drops[i][end] === null ? 0 : sign * (drops[i][end] - drops[i].drop)));
    return {
      type: "scatter", mode: "markers", name: plain(name), x: mine.map((i) => drops[i].drop), y: mine,
      error_x: { type: "data", symmetric: false, array: wing("high", 1), arrayminus: wing("low", -1), thickness: 1.6, width: 4,
        color: colour },
      marker: { color: colour, symbol, size: 10, line: { color: colours.rim, width: 1 } },
      hovertext: mine.map((i) => dropHover(drops[i])), hoverinfo: "text",
    };
  }

  function drawForest() {
    const task = field("drop-task").value;
    const fitting = data.drops.filter((drop) => shown.has(drop.point) && (!task || drop.task === task));
    const drops = fitting.slice(0, data.max_drops);
    const chart = field("forest");
    chart.classList.toggle("empty", !drops.length);
    field("drop-controls").hidden = !data.drops.length;
    if (!drops.length) {
      Plotly.purge(chart);
      field("forest-note").textContent = data.drops.length
        ? "None of the configurations shown was paired with its fp16 items."
        : "Nothing could be paired: a pair needs the outcomes of single items of a precision and of fp16 of the same model.";
      return;
    }
    const colours = look();
    const lines = drops.map((_, index) => index);
    const ends = drops.flatMap((drop) => [drop.drop, drop.low, drop.high, drop.margin, -drop.margin])
      .filter((value) => value !== null);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const room = 0.08 * (high - low || 1);
    const margins = [...new Set(drops.map((drop) => drop.margin))];
    const margin = margins[0];
    const layout = {
      ...layoutOf(colours), height: 110 + (narrow() ? 52 : 40) * drops.length, margin: { l: 20, r: 20, t: 30, b: 50 },
      xaxis: {
        title: { text: narrow() ? "accuracy lost, pp" : "accuracy lost against fp16, percentage points (right is worse)",
          standoff: 8 },
        range: [low - room, high + room], gridcolor: colours.grid, zeroline: true, zerolinecolor: colours.text, automargin: true,
      },
      yaxis: { tickvals: lines, ticktext: drops.map((drop) => dropName(drop, task)), autorange: false,
        range: [drops.length - 0.4, -0.6], automargin: true, showgrid: false, zeroline: false },
      shapes: [{ type: "rect", xref: "x", yref: "paper", x0: low - room, x1: margin, y0: 0, y1: 1, fillcolor: colours.band,
        line: { width: 0 }, layer: "below" },
      { type: "line", xref: "x", yref: "paper", x0: margin, x1: margin, y0: 0, y1: 1, layer: "below",
        line: { color: colours.text, width: 1, dash: "dash" } }],
    };
    const traces = data.precisions.map((entry) => dropTrace(entry, drops, lines, colours)).filter((t) => t.x.length);
    Plotly.react(chart, traces, layout, { ...config, displayModeBar: false });
    const cut = fitting.length > drops.length
      ? ` The first ${drops.length} of ${fitting.length.toLocaleString("en")} are drawn: filter the table or choose a task.` : "";
    field("forest-note").textContent = `Dashed: the margin of ${margins.join(" or ")} pp. An interval wholly within the tinted `
      + "part is equivalent; one wholly right of 0 and not within it is degraded, if the corrected p-value agrees; any other "
      + `is underpowered: the items cannot tell.${cut}`;
  }

  function options(select, entries, chosen) {
    select.append(...entries.map(([value, text]) => new Option(text, value, false, value === chosen)));
  }

  function start() {
    const tasks = [...new Set(data.drops.map((drop) => drop.task))];
    options(field("drop-task"), tasks.map((task) => [task, task]), "");
    const draws = [drawForest];
    if (data.metrics.length > 1) {
      const entries = data.metrics.map((metric) => [metric.key, metric.label]);
      options(field("axis-x"), entries, data.x);
      options(field("axis-y"), entries, data.y);
      for (const id of ["axis-x", "axis-y", "log-x"]) field(id).addEventListener("change", drawPareto);
      draws.unshift(drawPareto);
    } else {
      for (const id of ["axis-x", "axis-y", "log-x"]) field(id).disabled = true;
      field("pareto").classList.add("empty");
      field("pareto-note").textContent = "A trade-off needs two metrics; these results have fewer.";
    }
    const redraw = () => draws.forEach((draw) => draw());
    redraw();
    if (data.metrics.length > 1) for (const event of ["plotly_click", "plotly_hover"]) field("pareto").on(event, showPoint);
    field("drop-task").addEventListener("change", drawForest);
    for (const event of ["filter", "themechange"]) document.addEventListener(event, redraw);
    let wasNarrow = narrow();
    addEventListener("resize", () => {
      if (narrow() !== wasNarrow) redraw();
      wasNarrow = narrow();
    });
    addEventListener("beforeprint", () => {
      redraw();
      for (const id of ["pareto", "forest"]) if (field(id).data) Plotly.relayout(id, { width: 980 });
    });
    addEventListener("afterprint", () => {
      for (const id of ["pareto", "forest"]) if (field(id).data) Plotly.relayout(id, { width: null, autosize: true });
      redraw();
    });
  }

  start();
})();
