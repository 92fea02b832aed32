"use strict";
(() => {
  const { panels, methods, columns, rows } = juxtabit;
  const at = Object.fromEntries(columns.map((name, place) => [name, place]));
  const root = document.documentElement.dataset.root;
  const MOST = 400;
  const minus = (text) => text.replace("-", "\u2212");
  const fixed = (places) => (value) => minus(value.toFixed(places));
  const si = (value) => {
    for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= factor) return `${+(value / factor).toPrecision(4)}${prefix}`;
    return String(+value.toPrecision(4));
  };
  const seconds = (value) => value >= 7200 ? `${+(value / 3600).toPrecision(3)} h`
    : value >= 120 ? `${+(value / 60).toPrecision(3)} min` : `${+value.toPrecision(3)} s`;
  const difference = ([mean, half, told]) =>
    minus(`${mean > 0 ? "+" : ""}${mean.toFixed(2)}`) + (half === null ? "" : ` \u00b1 ${half.toFixed(2)}${told ? "*" : ""}`);

  // Each entry: heading, value to sort and filter by, text, and whether it is aligned to the left.
  const entry = (heading, value, text = String, left = false) => ({ heading, value, text, left });
  const of = (name) => (row) => row[at[name]];
  const panel = (key) => (row) => panels[row[at.panel]][key];
  const method = (place) => (row) => methods[row[at.framework]][place];
  const mean = (name) => (row) => row[at[name]] && row[at[name]][0];
  const shown = [
    entry("framework", (row) => row[at.label] + row[at.signs], String, true),
    entry("model", panel("model"), String, true),
    entry("dataset", panel("dataset"), String, true),
    entry("budget", of("budget"), String, true),
    entry("#", of("rank")),
    entry("accuracy", of("accuracy"), fixed(2)),
    entry("vs uniform", mean("gain")),
    entry("vs best", mean("behind")),
    entry("images", of("images"), si),
    entry("time", of("seconds"), seconds),
    entry("policies", of("policies"), si),
    entry("W bits", of("weight"), fixed(2)),
    entry("A bits", of("act"), fixed(2)),
    entry("of budget", of("share"), (v) => `${(100 * v).toFixed(1)}%`),
    entry("n", of("seeds")),
    entry("target", panel("target"), String, true),
    entry("protocol", panel("protocol"), String, true),
    entry("category", method(1), String, true),
    entry("needs data", method(2), String, true),
    entry("status", of("status"), String, true),
    entry("verified", of("verified"), String, true),
  ];
  const filters = {
    category: method(1), model: panel("model"), dataset: panel("dataset"), target: panel("target"),
    protocol: panel("protocol"), budget: of("budget"), data: method(2), level: of("level"),
  };

  const table = document.getElementById("rows");
  const form = document.querySelector(".filters");
  const inputs = Object.fromEntries([...form.querySelectorAll("[data-filter]")].map((i) => [i.dataset.filter, i]));
  const more = document.getElementById("more");
  let sorted = null, up = false, all = false;

  for (const [name, value] of Object.entries(filters)) {
    const values = [...new Set(rows.map(value).filter(Boolean))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    inputs[name].append(...values.map((text) => new Option(text, text)));
  }

  const head = table.tHead.insertRow();
  const heads = shown.map(({ heading, left }, column) => {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    cell.scope = "col";
    cell.className = left ? (column ? "left" : "left name") : "";
    button.type = "button";
    button.textContent = heading;
    button.addEventListener("click", () => {
      up = sorted === column ? !up : shown[column].left || heading === "#";
      sorted = column;
      draw();
    });
    cell.append(button);
    head.append(cell);
    return cell;
  });

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [name, input] of Object.entries(inputs)) {
      if (input.type === "checkbox") input.checked = given.get(name) === "1";
      else input.value = given.get(name) ?? "";
    }
    const key = given.get("sort") ?? "";
    const column = shown.findIndex(({ heading }) => heading === key.replace(/^-/, ""));
    [sorted, up] = column < 0 ? [null, false] : [column, !key.startsWith("-")];
  };
  const keep = () => {
    const chosen = new URLSearchParams();
    for (const [name, input] of Object.entries(inputs)) {
      const value = input.type === "checkbox" ? (input.checked ? "1" : "") : input.value;
      if (value) chosen.set(name, value);
    }
    if (sorted !== null) chosen.set("sort", (up ? "" : "-") + shown[sorted].heading);
    history.replaceState(null, "", `#${chosen}`);
  };
  const passes = (row) => {
    const name = inputs.name.value.trim().toLowerCase();
    if (name && !row[at.label].toLowerCase().includes(name)) return false;
    if (inputs.images.value && !(row[at.images] !== null && row[at.images] <= Number(inputs.images.value))) return false;
    if (inputs.tied.checked && !row[at.best]) return false;
    return Object.entries(filters).every(([key, value]) => !inputs[key].value || value(row) === inputs[key].value);
  };
  const order = (a, b) => {
    const [x, y] = [a, b].map(shown[sorted].value);
    const [no, nor] = [x, y].map((v) => v === null || v === undefined || v === "");
    if (no || nor) return no - nor;
    const found = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return up ? found : -found;
  };
  const fill = (cell, row, { heading, value, text }) => {
    const found = value(row);
    if (found === null || found === undefined || found === "") return;
    if (heading === "framework") {
      const link = document.createElement("a");
      link.href = `${root}frameworks/${methods[row[at.framework]][0]}.html`;
      link.textContent = found;
      cell.append(link);
    } else if (heading === "model") {
      const link = document.createElement("a");
      link.href = root + panels[row[at.panel]].path;
      link.textContent = found;
      cell.append(link);
    } else if (heading === "vs uniform" || heading === "vs best") {
      const pair = row[at[heading === "vs best" ? "behind" : "gain"]];
      cell.textContent = difference(pair);
      if (pair[2]) cell.className = pair[0] > 0 ? "better" : "worse";
    } else if (heading === "accuracy") {
      const ends = row[at.low] === null ? "" : ` [${fixed(2)(row[at.low])}, ${fixed(2)(row[at.high])}]`;
      cell.textContent = fixed(2)(found) + ends;
    } else {
      cell.textContent = text(found);
    }
    if (heading === "target" || heading === "protocol") {
      cell.classList.add("clip");
      cell.title = found;
    }
    if (heading === "status") cell.classList.add("alarm");
    if (heading === "accuracy" && row[at.best]) cell.classList.add("best");
  };
  function draw() {
    const kept = rows.filter(passes);
    if (sorted !== null) kept.sort(order);
    heads.forEach((cell, column) => {
      if (column === sorted) cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    const body = document.createElement("tbody");
    for (const row of all ? kept : kept.slice(0, MOST)) {
      const line = body.insertRow();
      line.className = methods[row[at.framework]][1] === "baseline" ? "baseline" : "";
      if (row[at.over]) line.classList.add("over");
      shown.forEach((column, place) => {
        const cell = line.insertCell();
        if (column.left) cell.className = place ? "left" : "left name";
        fill(cell, row, column);
      });
    }
    table.tBodies[0].replaceWith(body);
    more.hidden = all || kept.length <= MOST;
    const part = more.hidden ? "" : `, the first ${MOST} shown`;
    document.getElementById("count").textContent = `${kept.length} of ${rows.length} rows${part}`;
    keep();
  }
  more.addEventListener("click", () => { all = true; draw(); });
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(draw));
  addEventListener("hashchange", () => { read(); draw(); });
  read();
  draw();
})();
