// Makes a board's table answer to its reader: sorting, search, filters, columns, and an address for
// each view. Without this script the table stands as it is, in its groups.
"use strict";

(() => {
  const table = document.getElementById("board");
  const form = document.getElementById("controls");
  if (!table || !form || !globalThis.tables) return;

  const heads = [...table.tHead.rows[0].cells];
  const keys = heads.map((head) => head.dataset.key);
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const columns = document.getElementById("columns");
  const facets = [...form.querySelectorAll("[data-facet]")];

  // The library wants one row a row: headings of groups step aside, and return where rows stand in
  // the order of the board.
  const groups = new Map();
  const [first, ...others] = table.tBodies;
  for (const body of [first, ...others]) {
    const [heading, ...rows] = [...body.rows];
    heading.remove();
    for (const row of rows) {
      groups.set(row, heading);
      first.append(row);
    }
    if (body !== first) body.remove();
  }

  const boxes = (place) => [...place.querySelectorAll("input")];
  const chosen = (place) => boxes(place).filter((box) => box.checked).map((box) => box.value);

  const wanted = new Map();
  const matches = (row) =>
    [...wanted].every(([name, values]) => values.size === 0 || values.has(row.dataset[name]));

  const { jQuery } = globalThis.tables;
  const extension = jQuery.fn.dataTable.ext;
  extension.search.push((settings, data, index) => matches(settings.aoData[index].nTr));
  extension.errMode = "throw";
  const found = jQuery(table).DataTable({
    paging: false,
    info: false,
    autoWidth: false,
    order: [],
    orderMulti: false,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { zeroRecords: "No row matches.", emptyTable: "No rows." },
    columnDefs: heads.map((head, target) => ({
      targets: target,
      // Numbers are looked at from the largest down, ranks and words from the first.
      orderSequence: /number|interval|gain/.test(head.className)
        ? ["desc", "asc", ""] : ["asc", "desc", ""],
    })),
  });

  const headings = () => {
    table.querySelectorAll("tr.cell").forEach((row) => row.remove());
    if (found.order().some(([, way]) => way)) return;
    let last = null;
    for (const row of [...table.tBodies[0].rows]) {
      const heading = groups.get(row);
      if (heading && heading !== last) row.before(heading);
      last = heading ?? last;
    }
  };

  const counted = () => {
    const all = found.rows().count();
    const left = found.rows({ search: "applied" }).count();
    shown.textContent = left === all ? `${all} rows` : `${left} of ${all} rows`;
  };

  // The view as an address: what is usual is left out.
  const address = () => {
    const view = new URLSearchParams();
    if (found.search()) view.set("q", found.search());
    const [[column, way] = []] = found.order();
    if (way) view.set("sort", `${keys[column]}.${way}`);
    for (const [name, values] of wanted) {
      for (const value of values) view.append(name, value);
    }
    for (const value of chosen(columns)) view.append("show", value);
    return view.toString();
  };

  let quiet = false;
  const written = () => {
    if (quiet) return;
    const next = address();
    if (next !== location.hash.slice(1)) history.replaceState(null, "", next ? `#${next}` : "#");
  };

  const apply = () => {
    for (const facet of facets) {
      const values = chosen(facet);
      wanted.set(facet.dataset.facet, new Set(values));
      facet.querySelector(".chosen").textContent = values.length ? ` (${values.length})` : "";
    }
    const extra = chosen(columns);
    columns.querySelector(".chosen").textContent = extra.length ? ` (+${extra.length})` : "";
    for (const box of boxes(columns)) table.classList.toggle(`with-${box.value}`, box.checked);
    found.search(search.value).draw();
  };

  const restore = () => {
    quiet = true;
    const view = new URLSearchParams(location.hash.slice(1));
    search.value = view.get("q") ?? "";
    for (const facet of facets) {
      const values = new Set(view.getAll(facet.dataset.facet));
      for (const box of boxes(facet)) box.checked = values.has(box.value);
    }
    const extra = new Set(view.getAll("show"));
    for (const box of boxes(columns)) box.checked = extra.has(box.value);
    const [, key, way] = /^(.*)\.(asc|desc)$/.exec(view.get("sort") ?? "") ?? [];
    const column = keys.indexOf(key);
    found.order(column < 0 ? [] : [[column, way]]);
    apply();
    quiet = false;
  };

  found.on("draw", () => {
    headings();
    counted();
    written();
  });
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", apply);
  document.getElementById("reset").addEventListener("click", () => {
    history.replaceState(null, "", "#");
    restore();
    search.focus();
  });
  addEventListener("hashchange", restore);
  // One list of choices at a time, closed by Escape or by going on elsewhere.
  const lists = [...form.querySelectorAll("details")];
  const close = (except) => lists.forEach((list) => list !== except && (list.open = false));
  for (const list of lists) list.addEventListener("toggle", () => list.open && close(list));
  addEventListener("click", (event) => event.target.closest("details.facet") || close(null));
  addEventListener("keydown", (event) => {
    const open = lists.find((list) => list.open);
    if (event.key !== "Escape" || !open) return;
    close(null);
    open.querySelector("summary").focus();
  });

  form.hidden = false;
  restore();
})();
