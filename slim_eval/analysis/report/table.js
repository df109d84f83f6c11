// DataTables on every table. `shown` has the places of the variants that pass the filters; the charts follow it.
const shown = new Set();
const field = (id) => document.getElementById(id);
const PAPER = 1030; // width of a printed page in pixels: A4 on its side, see page.css

(() => {
  // What was not measured is last in either direction.
  const missing = (a, b) => (a === "" || b === "" ? (a === "") - (b === "") : null);
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? collator.compare(a, b) : a - b);
  // A tag in a cell must not be found. Entities stay: DataTables decodes them by innerHTML, where text would become tags.
  const withoutTags = (html) => html.replace(/<[^>]*>/g, "");
  DataTable.type("measured", {
    order: { asc: (a, b) => missing(a, b) ?? compare(a, b), desc: (a, b) => missing(a, b) ?? compare(b, a) },
    search: (html) => withoutTags(String(html)),
  });
  const options = {
    paging: false, info: false, autoWidth: false, order: [], orderCellsTop: false, layout: { topStart: null, topEnd: null,
      bottomStart: null, bottomEnd: null }, language: { zeroRecords: "No variant matches the filters." },
    columnDefs: [{ targets: "_all", type: "measured", orderSequence: ["asc", "desc"] }],
  };

  const overview = new DataTable("#overview", options);
  const boxes = [...document.querySelectorAll("input[data-group]")];
  const columnsOf = ({ dataset: { first, last } }) =>
    Array.from({ length: last - first + 1 }, (_, n) => Number(first) + n);
  const named = overview.columns().count() - boxes.reduce((sum, box) => sum + columnsOf(box).length, 0); // always shown
  // Groups of columns that are wanted, the most wanted first: with "fit to width", the last ones are left out.
  let wanted = ["accuracy", "speed", "energy", "memory", "Pareto", "other"].flatMap((name) =>
    boxes.filter(({ dataset }) => dataset.group === name));
  const widths = new Map(); // of all columns as narrow as their texts allow, by the size of the font
  function widthsNow() {
    const table = overview.table().node();
    const size = getComputedStyle(table).fontSize + getComputedStyle(table.tHead.rows[1].cells[0]).minWidth;
    if (!widths.has(size)) {
      overview.columns().visible(true, false);
      Object.assign(table.style, { width: 0, minWidth: 0 });
      widths.set(size, overview.columns().header().toArray().map((cell) => cell.offsetWidth));
      Object.assign(table.style, { width: "", minWidth: "" });
    }
    return widths.get(size);
  }
  // Whole groups where they fit, otherwise their first columns. `space` is the width that columns may take.
  function arrange(space) {
    const chosen = [];
    if (field("fit").checked) {
      const all = widthsNow();
      let left = space - all.slice(0, named).reduce((sum, width) => sum + width, 0);
      for (const column of wanted.flatMap(columnsOf)) {
        if (all[column] > left && chosen.length) break;
        left -= all[column];
        chosen.push(column);
      }
    } else chosen.push(...wanted.flatMap(columnsOf));
    const every = boxes.flatMap(columnsOf);
    const show = () => every.forEach((column) => overview.column(column).visible(chosen.includes(column), false));
    show();
    const box = field("overview").closest(".box");
    while (field("fit").checked && space === box.clientWidth && box.scrollWidth > space && chosen.length > 1) {
      chosen.pop(); // the name of a group is wider than its columns
      show();
    }
    for (const each of boxes) {
      const count = columnsOf(each).filter((column) => chosen.includes(column)).length;
      each.checked = count > 0;
      each.indeterminate = count > 0 && count < columnsOf(each).length;
      each.dataset.partly = each.indeterminate ? "yes" : "";
    }
    field("columns").textContent = `${chosen.length} of ${every.length} columns`;
  }
  const fit = () => arrange(field("overview").closest(".box").clientWidth);
  function filter() {
    for (const [column, id] of [[1, "only-precision"], [0, "only-model"]]) {
      const only = field(id).value;
      overview.column(column).search(only ? (text) => text === only : "");
    }
    overview.search(field("find").value).draw();
  }
  overview.on("draw", () => {
    shown.clear();
    for (const place of overview.rows({ search: "applied" }).indexes().toArray()) shown.add(place);
    field("shown").textContent = `${shown.size} of ${overview.rows().count()} variants`;
    document.dispatchEvent(new Event("filter"));
  });
  field("filters").addEventListener("submit", (event) => event.preventDefault());
  field("find").addEventListener("input", filter);
  for (const id of ["only-precision", "only-model"]) field(id).addEventListener("change", filter);
  for (const box of boxes) {
    box.addEventListener("change", () => {
      const others = wanted.filter((each) => each !== box);
      wanted = box.checked || box.dataset.partly ? [box, ...others] : others; // of a part, the whole is wanted
      fit();
    });
  }
  field("fit").addEventListener("change", fit);
  addEventListener("resize", fit);
  // Paper has small letters, which are two thirds as wide, and lines that break.
  addEventListener("beforeprint", () => arrange(PAPER / 0.66));
  addEventListener("afterprint", fit);
  fit();
  filter();

  // The other tables when they are first seen: there may be hundreds.
  const sortable = (table) => DataTable.isDataTable(table) || new DataTable(table, options);
  for (const table of document.querySelectorAll("table.sortable:not(#overview)")) {
    const folded = table.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => sortable(table), { once: true });
    else sortable(table);
  }
})();
