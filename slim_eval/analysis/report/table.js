// Sorting of every table, filters and column groups of the comparison table. `shown` holds the places of the rows that
// pass the filters; charts follow it through the event "filter".
const shown = new Set();

(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function fieldOf(row, column) {
    const text = row.cells[column].dataset.v;
    if (text === undefined) return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return collator.compare(String(a), String(b));
  }

  // What was not measured stands last whichever way is sorted; equal rows keep their order.
  function sort(table, heading, column) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row) => [fieldOf(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return down ? compare(b, a) : compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
    Array.from(headings).forEach((heading, column) =>
      heading.querySelector("button").addEventListener("click", () => sort(table, heading, column)));
  }

  const overview = document.getElementById("overview");
  const rows = Array.from(overview.tBodies[0].rows);
  const texts = rows.map((row) => row.textContent.toLowerCase().replace(/\s+/g, " "));
  const field = (id) => document.getElementById(id);

  function filter() {
    const words = field("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const precision = field("only-precision").value;
    const model = field("only-model").value;
    shown.clear();
    rows.forEach((row, place) => {
      const fits = words.every((word) => texts[place].includes(word))
        && (!precision || row.cells[1].textContent === precision) && (!model || row.cells[0].textContent === model);
      row.hidden = !fits;
      if (fits) shown.add(place);
    });
    field("shown").textContent = `${shown.size} of ${rows.length} configurations`;
    document.dispatchEvent(new Event("filter"));
  }

  // One rule a hidden group: thousands of fields need no class of their own.
  const style = document.head.appendChild(document.createElement("style"));
  const boxes = Array.from(document.querySelectorAll("input[data-group]"));
  function group() {
    const hidden = boxes.filter((box) => !box.checked);
    style.textContent = hidden.map(({ dataset }) => {
      const range = `:nth-child(n+${dataset.first}):nth-child(-n+${dataset.last})`;
      return `#overview td${range}, #overview tr:not(.groups) th${range} { display: none; }`;
    }).join("\n");
    for (const box of boxes) {
      overview.querySelector(`.groups th[data-group="${box.dataset.group}"]`).hidden = !box.checked;
    }
  }

  field("filters").addEventListener("submit", (event) => event.preventDefault());
  field("find").addEventListener("input", filter);
  for (const id of ["only-precision", "only-model"]) field(id).addEventListener("change", filter);
  for (const box of boxes) box.addEventListener("change", group);
  group();
  filter();
})();
