// Sort a table by a column: numbers from the best side of a first click up, again for the other way round.
// Rows of the models that methods start from stay on top, cells without a number at the end.
function sortBy(table, place, heading) {
  const falling = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const turn = falling ? -1 : 1;
  const keyOf = (row) => (place ? row.cells[place].dataset.value : row.cells[0].textContent.trim());
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const fixed = b.classList.contains("fixed") - a.classList.contains("fixed");
    const [x, y] = [keyOf(a), keyOf(b)];
    if (fixed || x === undefined || y === undefined) return fixed || (x === undefined) - (y === undefined);
    return turn * (place ? Number(x) - Number(y) : x.localeCompare(y));
  });
  table.tBodies[0].append(...rows);
}

const told = document.querySelector("output.told");
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = table.tHead.rows[1].cells;
  [...headings].forEach((heading, place) => heading.addEventListener("click", () => sortBy(table, place, heading)));
}
// Where nothing can be pointed at, a tap tells the same at the foot of the page; another tap elsewhere hides it.
document.addEventListener("click", (event) => {
  const cell = event.target.closest(".sortable td[title]");
  told.hidden = !cell;
  told.textContent = cell ? cell.title : "";
});
