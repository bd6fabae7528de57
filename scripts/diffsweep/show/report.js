// Sort a table by a click on a column's head; what was not measured stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const original = [...table.tBodies[0].rows];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const next = { none: head.dataset.first, [head.dataset.first]: head.dataset.first === "ascending" ? "descending" : "ascending" };
    const direction = next[head.getAttribute("aria-sort")] ?? "none";
    heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "descending" ? -1 : 1;
    const key = (row) => row.cells[column]?.dataset.sort ?? "";
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [p, q] = [Number(x), Number(y)];
      return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
    };
    const rows = direction === "none" ? original : [...original].sort(compare);
    table.tBodies[0].append(...rows);
  }));
}
