for (const header of document.querySelectorAll("table.sortable th")) {
  const sort = () => {
    const body = header.closest("table").tBodies[0], column = header.cellIndex;
    const way = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const of = (row) => row.cells[column].dataset.by;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return way * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    };
    body.append(...[...body.rows].sort((a, b) => compare(of(a), of(b))));
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
  };
  header.tabIndex = 0;
  header.addEventListener("click", sort);
  header.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
