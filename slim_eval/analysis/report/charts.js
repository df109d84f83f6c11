// Puts the chosen numbers into the figures that Python made, and draws them. Filters of the table choose the variants.
(() => {
  const data = JSON.parse(field("data").textContent);
  // Buttons by name: Plotly's own choice has one that uploads the chart to a server.
  const config = { responsive: true, displaylogo: false, plotlyServerURL: "", showLink: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const ROWS = 12; // of a chart on a page
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

  // The traces and the layout of some rows of the drops.
  function dropsOf(drawn) {
    const { figure, rows } = data.drops;
    const pick = (trace, values) => values.filter((_, index) => drawn.has(trace.customdata[index]));
    const traces = figure.data.map((trace) => ({
      ...trace, x: pick(trace, trace.x), y: pick(trace, trace.y), hovertext: pick(trace, trace.hovertext),
      customdata: pick(trace, trace.customdata),
      error_x: { ...trace.error_x, array: pick(trace, trace.error_x.array), arrayminus: pick(trace, trace.error_x.arrayminus) },
    })).filter((trace) => trace.x.length);
    const labels = [...drawn].map((row) => rows[row].label);
    const layout = { ...figure.layout, height: 130 + 44 * drawn.size,
      yaxis: { ...figure.layout.yaxis, categoryorder: "array", categoryarray: labels, range: [labels.length - 0.4, -0.6] } };
    return [traces, layout, { ...config, displayModeBar: false }];
  }

  const dropsShown = () => {
    const task = field("drop-task").value;
    const { rows } = data.drops;
    return [...rows.keys()].filter((row) => shown.has(rows[row].place) && (!task || rows[row].task === task));
  };

  function drawDrops() {
    const { note, max_rows: most } = data.drops;
    const fitting = dropsShown();
    const drawn = new Set(fitting.slice(0, most));
    field("forest").hidden = !drawn.size;
    if (drawn.size) Plotly.react("forest", ...dropsOf(drawn));
    const cut = ` The first ${drawn.size} of ${fitting.length} are drawn: filter the table or choose a task.`;
    field("forest-note").textContent = drawn.size ? note + (fitting.length > drawn.size ? cut : "")
      : "None of the variants shown was paired with the items of its baseline.";
  }

  // On paper a chart cannot be taller than a page: further rows are in further charts.
  function printDrops() {
    const fitting = dropsShown().slice(0, data.drops.max_rows);
    const pages = Array.from({ length: Math.ceil(fitting.length / ROWS) }, (_, n) => fitting.slice(n * ROWS, (n + 1) * ROWS));
    pages.forEach((rows, page) => {
      const [traces, layout, options] = dropsOf(new Set(rows));
      const chart = page ? document.createElement("div") : field("forest");
      if (page) {
        chart.className = "chart further";
        field("forest-note").before(chart);
      }
      Plotly.react(chart, traces, { ...layout, width: PAPER - 50 }, { ...options, responsive: false });
    });
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
    const { points, axes } = data.trade_off;
    const named = ({ name, precision }) => [name, precision];
    let rows = [];
    if (chart.id === "pareto") {
      const [x, y] = [axes[field("axis-x").value].label, axes[field("axis-y").value].label];
      rows.push(["model", "precision", "frontier", x, "x low", "x high", y, "y low", "y high"]);
      for (const { name, x: xs, y: ys, customdata, error_x: wide, error_y: high } of chart.data) {
        for (const place of Array.from(xs).keys()) {
          rows.push([...(customdata ? [...named(points[customdata[place]]), ""] : ["", "", text(name)]),
            xs[place], end(xs, wide, place, -1), end(xs, wide, place, 1), ys[place], end(ys, high, place, -1), end(ys, high, place, 1)]);
        }
      }
    } else if (chart.id === "forest") {
      rows.push(["model", "precision", "task", "drop, pp", "low", "high", "verdict"]);
      for (const { x, customdata, error_x: wide } of chart.data) {
        for (const place of x.keys()) {
          const row = data.drops.rows[customdata[place]];
          rows.push([...named(points[row.place]), row.task, x[place], end(x, wide, place, -1), end(x, wide, place, 1), row.verdict]);
        }
      }
    } else { // a chart of any kind: whatever its traces have one value of per point
      const columns = chart.data.map((trace) => Object.entries(trace).flatMap(([key, values]) => {
        const unpacked = values?.bdata ? numbersOf(values) : values;
        return Array.isArray(unpacked) || ArrayBuffer.isView(unpacked) ? [[key, Array.from(unpacked)]] : [];
      }));
      const keys = [...new Set(columns.flatMap((found) => found.map(([key]) => key)))];
      rows.push(["series", ...keys]);
      columns.forEach((found, index) => {
        const made = Object.fromEntries(found);
        const length = Math.max(0, ...found.map(([, values]) => values.length));
        for (let n = 0; n < length; n += 1) rows.push([text(chart.data[index].name ?? ""), ...keys.map((key) => made[key]?.[n])]);
      });
    }
    return rows.map((row) => row.map((value) => quoted(String(value ?? ""))).join(",")).join("\r\n") + "\r\n";
  }
  // Numbers that plotly for Python packed as bytes.
  function numbersOf({ dtype, bdata }) {
    const kinds = { f8: Float64Array, f4: Float32Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array,
      i4: Int32Array, u4: Uint32Array };
    return kinds[dtype] && new kinds[dtype](Uint8Array.from(atob(bdata), (sign) => sign.charCodeAt(0)).buffer);
  }
  // What a text that Plotly reads as markup says.
  function text(markup) {
    return new DOMParser().parseFromString(markup, "text/html").body.textContent;
  }
  for (const button of document.querySelectorAll("button.csv")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csvOf(field(button.dataset.chart))], { type: "text/csv" }));
      link.download = `${button.dataset.name ?? button.dataset.chart}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  document.addEventListener("filter", redraw);
  matchMedia("(max-width: 640px)").addEventListener("change", redraw);
  const resize = (charts, change) => document.querySelectorAll(charts).forEach((chart) => Plotly.relayout(chart, change));
  addEventListener("beforeprint", () => {
    resize(".js-plotly-plot", { width: PAPER - 50 });
    if (field("drop-task")) printDrops();
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll(".chart.further").forEach((chart) => chart.remove());
    redraw(); // in the width of the page
    resize("[data-plugin]", { width: null, autosize: true });
  });
})();
