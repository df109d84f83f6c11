// Puts the chosen numbers into the figures that Python made, and draws them. Filters of the table choose the variants.
(() => {
  const data = JSON.parse(field("data").textContent);
  // Buttons by name: Plotly's own choice has one that uploads the chart to a server.
  const config = { responsive: true, displaylogo: false, plotlyServerURL: "", showLink: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const narrow = () => innerWidth < 640;
  // Plotly reads some markup in its texts.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const errors = (axis, places) => axis.lows && {
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: places.map((p) => (axis.highs[p] ?? axis.values[p]) - axis.values[p]),
    arrayminus: places.map((p) => axis.values[p] - (axis.lows[p] ?? axis.values[p])),
  };

  function drawTradeOff() {
    const { figure, points, axes, pairs, notes, max_points: most } = data.trade_off;
    const [keyX, keyY] = [field("axis-x").value, field("axis-y").value];
    const [x, y] = [axes[keyX], axes[keyY]];
    const pair = pairs[`${keyX}|${keyY}`] || pairs[`${keyY}|${keyX}`] || { fronts: [], notes: [] };
    const on = new Set(pair.fronts.flatMap(([, places]) => places));
    const both = (place) => shown.has(place) && x.values[place] !== null && y.values[place] !== null;
    const step = Math.ceil(points.length / most);
    const drawn = (place) => both(place) && (on.has(place) || place % step === 0);
    const named = on.size <= 12 && !narrow();
    const numbers = (places) => ({ x: places.map((p) => x.values[p]), y: places.map((p) => y.values[p]) });
    const outlined = new Set([...x.outlined, ...y.outlined]);
    const traces = figure.data.map((trace, index) => {
      if (trace.mode === "lines") {
        const [name, places] = pair.fronts[index] || ["", []];
        const ordered = [...places].sort((a, b) => x.values[a] - x.values[b]);
        const line = { ...trace.line, shape: x.maximise ? "vh" : "hv" };
        return { ...trace, name, ...numbers(ordered), line, showlegend: places.length > 1 };
      }
      const places = trace.customdata.filter(drawn);
      const symbol = places.map((p) => trace.marker.symbol + (outlined.has(p) ? "-open" : ""));
      return {
        ...trace, customdata: places, ...numbers(places), error_x: errors(x, places), error_y: errors(y, places),
        marker: { ...trace.marker, symbol }, showlegend: places.length > 0,
        text: places.map((p) => (named && on.has(p) ? plain(points[p].name) : "")),
        hovertext: places.map((p) => [`<b>${plain(`${points[p].name} ${points[p].precision}`)}</b>`,
          ...points[p].numbers.map(([label, text]) => plain(`${label}: ${text}`)).slice(0, narrow() ? 2 : 40)].join("<br>")),
      };
    });
    const layout = {
      ...figure.layout, height: narrow() ? 380 : figure.layout.height, dragmode: narrow() ? false : "zoom",
      xaxis: { ...figure.layout.xaxis, title: { text: x.title }, type: field("log-x").checked ? "log" : "linear" },
      yaxis: { ...figure.layout.yaxis, title: { text: y.title } },
    };
    Plotly.react("pareto", traces, layout, config);
    field("pareto-note").textContent = pair.notes.map((note) => notes[note]).join(" ");
  }

  // The numbers of a point, under the chart: a finger has no hover.
  function showPoint(event) {
    const point = data.trade_off.points[event.points[0].customdata];
    if (!point) return;
    const element = (name, ...content) => {
      const made = document.createElement(name);
      made.append(...content);
      return made;
    };
    const entries = point.numbers.map(([label, text]) => element("div", element("dt", label), element("dd", text)));
    field("point").replaceChildren(element("h3", `${point.name} ${point.precision}`), element("dl", ...entries));
  }

  function drawDrops() {
    const { figure, rows, note, max_rows: most } = data.drops;
    const task = field("drop-task").value;
    const fitting = [...rows.keys()].filter((row) => shown.has(rows[row].place) && (!task || rows[row].task === task));
    const drawn = new Set(fitting.slice(0, most));
    const pick = (trace, values) => values.filter((_, index) => drawn.has(trace.customdata[index]));
    const traces = figure.data.map((trace) => ({
      ...trace, x: pick(trace, trace.x), y: pick(trace, trace.y), hovertext: pick(trace, trace.hovertext),
      customdata: pick(trace, trace.customdata),
      error_x: { ...trace.error_x, array: pick(trace, trace.error_x.array), arrayminus: pick(trace, trace.error_x.arrayminus) },
    })).filter((trace) => trace.x.length);
    const labels = [...drawn].map((row) => rows[row].label);
    const layout = { ...figure.layout, height: 130 + 44 * drawn.size,
      yaxis: { ...figure.layout.yaxis, categoryorder: "array", categoryarray: labels, range: [labels.length - 0.4, -0.6] } };
    field("forest").hidden = !drawn.size;
    if (drawn.size) Plotly.react("forest", traces, layout, { ...config, displayModeBar: false });
    const cut = ` The first ${drawn.size} of ${fitting.length} are drawn: filter the table or choose a task.`;
    field("forest-note").textContent = drawn.size ? note + (fitting.length > drawn.size ? cut : "")
      : "None of the variants shown was paired with the items of its baseline.";
  }

  const draws = [];
  if (field("axis-x")) {
    draws.push(drawTradeOff);
    for (const id of ["axis-x", "axis-y", "log-x"]) field(id).addEventListener("change", drawTradeOff);
  }
  if (field("drop-task")) {
    draws.push(drawDrops);
    field("drop-task").addEventListener("change", drawDrops);
  }
  const redraw = () => draws.forEach((draw) => draw());
  redraw();
  if (field("axis-x")) for (const event of ["plotly_click", "plotly_hover"]) field("pareto").on(event, showPoint);
  for (const chart of document.querySelectorAll("[data-plugin]")) {
    const { data: traces, layout } = data.plugins[chart.dataset.plugin];
    Plotly.newPlot(chart, traces, layout, config);
  }
  // What a chart draws, as it is drawn: one row per point, with the ends of its intervals.
  function csvOf(chart) {
    const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);
    const end = (values, error, place, sign) => (error?.array ? Number(values[place]) + sign
      * Number((sign < 0 ? error.arrayminus ?? error.array : error.array)[place]) : "");
    const axis = (name) => chart.layout[`${name}axis`]?.title?.text || name;
    const rows = [["series", "name", axis("x"), "x low", "x high", axis("y"), "y low", "y high"]];
    for (const { name, x = [], y = [], customdata, error_x: wide, error_y: high } of chart.data) {
      for (const place of Array.from(x).keys()) {
        const point = chart.id === "pareto" ? data.trade_off.points[customdata?.[place]] : null;
        rows.push([name ?? "", point ? `${point.name} ${point.precision}` : "", x[place], end(x, wide, place, -1), end(x, wide, place, 1),
          y[place], end(y, high, place, -1), end(y, high, place, 1)]);
      }
    }
    return rows.map((row) => row.map((value) => quoted(String(value ?? ""))).join(",")).join("\r\n") + "\r\n";
  }
  for (const button of document.querySelectorAll("button.csv")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csvOf(field(button.dataset.chart))], { type: "text/csv" }));
      link.download = `${button.dataset.chart}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  document.addEventListener("filter", redraw);
  matchMedia("(max-width: 640px)").addEventListener("change", redraw);
  const resize = (change) => document.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.relayout(chart, change));
  addEventListener("beforeprint", () => resize({ width: 980 }));
  addEventListener("afterprint", () => resize({ width: null, autosize: true }));
})();
