"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const number = (text) => Number(/^[+-]?\d+(\.\d+)?(?=$|[ %*/[])/.exec(text)?.[0] ?? text);
        const [m, n] = [number(x), number(y)];
        const order = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
for (const box of document.querySelectorAll(".linked")) {
  const items = [...box.querySelectorAll("[data-f]")];
  const fade = (name) => items.forEach((i) => i.classList.toggle("faded", name !== null && i.dataset.f !== name));
  items.forEach((item) => {
    item.addEventListener("pointerenter", () => fade(item.dataset.f));
    item.addEventListener("pointerleave", () => fade(null));
  });
}
