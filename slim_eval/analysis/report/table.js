// DataTables on every table. `shown` has the places of the variants that pass the filters; the charts follow it.
const shown = new Set();
const field = (id) => document.getElementById(id);

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
  const groups = document.querySelectorAll("input[data-group]");
  function hide() {
    for (const { checked, dataset } of groups) {
      const places = Array.from({ length: dataset.last - dataset.first + 1 }, (_, n) => Number(dataset.first) + n);
      overview.columns(places).visible(checked, false);
    }
  }
  function filter() {
    for (const [column, id] of [[1, "only-precision"], [0, "only-model"]]) {
      const wanted = field(id).value;
      overview.column(column).search(wanted ? (text) => text === wanted : "");
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
  for (const box of groups) box.addEventListener("change", hide);
  hide();
  filter();

  // The other tables when they are first seen: there may be hundreds.
  const sortable = (table) => DataTable.isDataTable(table) || new DataTable(table, options);
  for (const table of document.querySelectorAll("table.sortable:not(#overview)")) {
    const folded = table.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => sortable(table), { once: true });
    else sortable(table);
  }
})();
