"use strict";
// Sorts tables by the header that was clicked; empty cells stay at the end.
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
};
const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const now = header.getAttribute("aria-sort");
    const first = header.dataset.first ?? "ascending";
    const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", next);
    const rows = [...body.rows].map((row) => [value(row, header.cellIndex), row]);
    rows.sort(([a], [b]) => (a === "") - (b === "") || (next === "ascending" ? order(a, b) : order(b, a)));
    body.append(...rows.map(([, row]) => row));
  });
}
