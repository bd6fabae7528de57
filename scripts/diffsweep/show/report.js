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

// A table of thousands of variants: all rows are data, a page of them is laid out at a time.
for (const table of document.querySelectorAll("table.large")) {
  const PAGE = 100;
  const rows = JSON.parse(table.parentElement.nextElementSibling.textContent);
  const heads = [...table.tHead.rows[0].cells];
  const numeric = heads.map((head) => head.classList.contains("n"));
  const state = { words: [], front: false, column: -1, sign: 0, page: 0 };
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const small = (text) => (text ? [make("small", { textContent: text })] : []);
  const filled = ([text, below, why, short, kind]) => {
    if (why) return [make("span", { className: "na", title: why, textContent: text }), ...small(short)];
    if (kind) return [make("span", { className: `verdict ${kind}`, textContent: text }), ...small(below)];
    return [text, ...small(below)];
  };
  const line = ([name, change, baseline, colour, status, reason, , , cells]) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colour;
    const row = make("tr", { className: baseline ? "baseline" : "" }, make("th", { scope: "row" }, swatch, name, ...small(change)));
    if (reason) {
      row.append(make("td", {}, make("span", { className: `verdict ${status}`, textContent: status })));
      row.append(make("td", { className: "reason", colSpan: heads.length - 2, textContent: reason }));
    } else {
      cells.forEach((cell, i) => row.append(make("td", { className: numeric[i + 1] ? "n" : "" }, ...filled(cell))));
    }
    return row;
  };
  const key = (row, column) => (column === 0 ? row[0] : row[8][column - 1]?.[5] ?? "");
  const compare = (a, b) => {
    const [x, y] = [key(a, state.column), key(b, state.column)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const [p, q] = [Number(x), Number(y)];
    return state.sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
  };
  const search = make("input", { type: "search", placeholder: "filter by words" });
  search.setAttribute("aria-label", "Filter the variants by words");
  const front = make("input", { type: "checkbox" });
  const said = make("span", { className: "muted" });
  said.setAttribute("aria-live", "polite");
  const [back, on] = ["‹ previous", "next ›"].map((text) => make("button", { type: "button", textContent: text }));
  table.parentElement.before(make("div", { className: "filter" }, search, make("label", {}, front, " only the fronts"), back, on, said));
  const show = () => {
    const found = rows.filter((row) => {
      const text = `${row[0]} ${row[1]} ${row[7]}`.toLowerCase();
      return (!state.front || row[6]) && state.words.every((word) => text.includes(word));
    });
    if (state.sign) found.sort(compare);
    const last = Math.max(Math.ceil(found.length / PAGE) - 1, 0);
    state.page = Math.min(Math.max(state.page, 0), last);
    const start = state.page * PAGE;
    table.tBodies[0].replaceChildren(...found.slice(start, start + PAGE).map(line));
    const range = found.length ? `${start + 1} to ${Math.min(start + PAGE, found.length)} of ` : "";
    said.textContent = `${range}${found.length.toLocaleString("en")} variants`;
    [back.disabled, on.disabled] = [state.page === 0, state.page === last];
  };
  const change = (changes) => { Object.assign(state, { page: 0 }, changes); show(); };
  search.addEventListener("input", () => change({ words: search.value.toLowerCase().split(/\s+/).filter(Boolean) }));
  front.addEventListener("change", () => change({ front: front.checked }));
  back.addEventListener("click", () => change({ page: state.page - 1 }));
  on.addEventListener("click", () => change({ page: state.page + 1 }));
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const [first, second] = head.dataset.first === "ascending" ? [1, -1] : [-1, 1];
    const sign = state.column !== column || state.sign === 0 ? first : state.sign === first ? second : 0;
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    if (sign) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    change({ column, sign });
  }));
  show();
}
