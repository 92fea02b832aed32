"use strict";
(() => {
  const { panels, methods, columns, rows } = juxtabit;
  const element = (id) => document.getElementById(id);
  const every = rows.map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place]])));
  for (const row of every) [row.slug, row.category] = methods[row.framework];
  const SYMBOLS = { gradient: "circle", reinforcement: "triangle", heuristic: "square", metaheuristic: "diamond", baseline: "star", other: "wye" };
  const colour = (category) => `var(--c-${category})`;
  const picked = new Set();
  const si = (value) => {
    for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= factor) return `${+(value / factor).toPrecision(4)}${prefix}`;
    return String(+value.toPrecision(4));
  };

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const most = panels.find((panel) => panel.path === "index.html");
    const slug = given.get("panel");
    element("panel").value = panels.some((panel) => panel.slug === slug) ? slug : most?.slug ?? "";
    picked.clear();
    for (const name of given.getAll("pick")) picked.add(name);
  };
  const keep = () => {
    const chosen = new URLSearchParams({ panel: element("panel").value });
    for (const name of picked) chosen.append("pick", name);
    history.replaceState(null, "", `#${chosen}`);
  };
  const across = (row) => row[element("across").value];
  const up = (row) => element("up").value === "gain"
    ? (row.framework === "uniform" ? 0 : row.gain?.[0] ?? null) : row.accuracy;
  const low = (row) => element("up").value === "gain" ? (row.gain?.[1] != null ? row.gain[0] - row.gain[1] : null) : row.low;
  const high = (row) => element("up").value === "gain" ? (row.gain?.[1] != null ? row.gain[0] + row.gain[1] : null) : row.high;
  const front = (found) => {
    const best = [];
    for (const row of [...found].sort((a, b) => across(a) - across(b) || up(b) - up(a)))
      if (!row.over && (!best.length || up(row) > up(best.at(-1)))) best.push(row);
    return best;
  };
  const tip = (row) => [
    `${row.label} (${row.category}), ${row.budget}`,
    `${row.accuracy.toFixed(2)} %${row.low === null ? "" : ` [${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`}`,
    row.gain ? `${row.gain[0] >= 0 ? "+" : ""}${row.gain[0].toFixed(2)} over uniform${row.gain[2] ? ", told apart" : ""}` : "",
    row.cost === null ? "" : `costs ${si(row.cost)}`,
    row.images === null ? "" : `searched with ${si(row.images)} images`,
    row.over ? "OVER BUDGET" : "",
  ].filter(Boolean).join("\n");

  function here() {
    const place = panels.findIndex((panel) => panel.slug === element("panel").value);
    const kinds = new Set([...element("categories").querySelectorAll("input:checked")].map((box) => box.value));
    const mine = every.filter((row) => row.panel === place);
    const log = element("across").value === "images";
    const drawn = mine.filter((row) => kinds.has(row.category) && up(row) != null && across(row) != null && (!log || across(row) > 0));
    return { panel: panels[place], mine, drawn };
  }
  // One hopeless framework must not flatten all others.
  function floor(found) {
    const values = found.map(up).sort((a, b) => a - b);
    const top = values.at(-1), middle = values[values.length >> 1];
    return Math.max(values[0], top - Math.max(4 * (top - middle), 1));
  }
  function draw() {
    const { panel, mine, drawn } = here();
    keep();
    buttons(mine);
    fill(mine);
    const plot = element("plot");
    const says = element("says");
    if (!drawn.length) {
      plot.replaceChildren();
      says.textContent = "There is nothing to draw here.";
      return;
    }
    const least = floor(drawn);
    const inside = drawn.filter((row) => up(row) >= least);
    const lit = (row) => !picked.size || picked.has(row.label);
    const best = front(inside);
    const fronts = [...new Set(inside.map((row) => row.category))].map((kind) =>
      front(inside.filter((row) => row.category === kind)));
    const log = element("across").value === "images";
    const titles = { cost: `${panel.metric}${panel.unit && panel.unit !== panel.metric ? ` (${panel.unit})` : ""}`, images: "search cost (images)", weight: "mean weight bits" };
    const width = Math.max(320, Math.min(plot.clientWidth || 640, 1100));
    const height = Math.max(340, Math.min(560, width * 0.62));
    const spread = (value) => { const all = inside.map(value); return (Math.max(...all) - Math.min(...all)) || 1; };
    const lowest = Math.min(...inside.map(across));
    const names = [];
    for (const row of [...(picked.size ? inside.filter((one) => picked.has(one.label)) : best)].sort((a, b) => up(b) - up(a))) {
      const near = (other) => Math.abs(across(row) - across(other)) / spread(across) * width < 85 && Math.abs(up(row) - up(other)) / spread(up) * height < 18;
      if (!names.some((other) => other.label === row.label || near(other))) names.push(row);
    }
    const made = Plot.plot({
      width, height, marginLeft: 52, marginRight: 24, marginBottom: 44,
      style: { background: "none", color: "inherit", fontSize: "12px", overflow: "visible" },
      ariaLabel: `${panel.shows} against ${titles[element("across").value]}`,
      x: { label: titles[element("across").value], type: log ? "log" : "linear", tickFormat: si, ticks: width < 500 ? 4 : 8, nice: true, labelAnchor: "center", labelArrow: "none" },
      y: { label: element("up").value === "gain" ? "gain over uniform (points)" : `${panel.shows} (%)`, nice: true, labelArrow: "none" },
      symbol: { domain: Object.keys(SYMBOLS), range: Object.values(SYMBOLS) },
      marks: [
        Plot.gridX({ strokeOpacity: 0.08 }), Plot.gridY({ strokeOpacity: 0.12 }),
        element("up").value === "accuracy" && panel.float !== null ? Plot.ruleY([panel.float], { strokeDasharray: "6 4", strokeOpacity: 0.7 }) : null,
        element("up").value === "gain" ? Plot.ruleY([0], { strokeOpacity: 0.5 }) : null,
        ...fronts.filter((one) => one.length).map((one) => Plot.line(one, {
          x: across, y: up, curve: "step-after", stroke: colour(one[0].category), strokeOpacity: picked.size ? 0.15 : 0.55, strokeWidth: 1.6 })),
        element("whiskers").checked ? Plot.ruleX(inside.filter((row) => low(row) !== null && lit(row)), {
          x: across, y1: (row) => Math.max(low(row), least), y2: high, stroke: (row) => colour(row.category), strokeOpacity: 0.45 }) : null,
        Plot.dot(inside, {
          x: across, y: up, symbol: "category", r: (row) => (picked.has(row.label) ? 7 : 4.5), stroke: (row) => colour(row.category),
          fill: (row) => (row.over ? "var(--panel)" : colour(row.category)), fillOpacity: (row) => (lit(row) ? 0.85 : 0.12), strokeOpacity: (row) => (lit(row) ? 1 : 0.2), strokeWidth: 1.4 }),
        ...["start", "end"].map((side) => Plot.text(names.filter((row) => (side === "start") === (across(row) < lowest + 0.12 * spread(across))), {
          x: across, y: up, text: "label", dy: -11, dx: side === "start" ? -4 : 4, textAnchor: side, fill: (row) => colour(row.category), stroke: "var(--panel)", strokeWidth: 3, fontWeight: 600 })),
        Plot.tip(inside, Plot.pointer({ x: across, y: up, title: tip, fill: "var(--panel)", stroke: "var(--line)" })),
      ],
    });
    for (const text of made.querySelectorAll("text[fill], [fill] > text"))  // which page.css would colour
      text.style.fill = text.getAttribute("fill") ?? text.parentNode.getAttribute("fill");
    made.setAttribute("role", "img");  // what is in it is said below it, and in the table
    for (const part of made.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    made.addEventListener("click", () => { if (made.value) toggle(made.value.label); });
    plot.replaceChildren(made);
    const makers = best.map((row) => `${row.label} (${row.budget})`);
    const left = drawn.length - inside.length;
    says.textContent = `${drawn.length} results of ${new Set(drawn.map((row) => row.label)).size} frameworks. On the front: ${makers.slice(0, 6).join(", ")}${makers.length > 6 ? ` and ${makers.length - 6} more` : ""}.${left ? ` Far below, and left out of the plot: ${left}.` : ""}`;
  }
  function toggle(name) {
    if (!picked.delete(name)) picked.add(name);
    draw();
  }
  function buttons(mine) {
    const wanted = element("find").value.trim().toLowerCase();
    const found = new Map(mine.map((row) => [row.label, row]));
    const box = element("picks");
    const focused = document.activeElement?.dataset?.name;
    box.replaceChildren(...[...found.keys()].sort().filter((name) => name.toLowerCase().includes(wanted)).map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.dataset.name = name;
      button.className = `pick c-${found.get(name).category}`;
      button.setAttribute("aria-pressed", picked.has(name));
      button.addEventListener("click", () => toggle(name));
      return button;
    }));
    if (focused !== undefined) [...box.children].find((button) => button.dataset.name === focused)?.focus();
  }
  function fill(mine) {
    const table = element("picked");
    const chosen = mine.filter((row) => picked.has(row.label));
    const heads = ["framework", "budget", "accuracy", "interval", "vs uniform", "cost", "images", "status"];
    const line = (kind, texts) => {
      const row = document.createElement("tr");
      texts.forEach((text, place) => {
        const cell = document.createElement(kind);
        if (kind === "th") cell.scope = "col";
        if (place < 2) cell.className = "left";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    };
    table.tHead.replaceChildren(line("th", heads));
    table.tBodies[0].replaceChildren(...(chosen.length ? chosen.map((row) => line("td", [
      row.label, row.budget, row.accuracy?.toFixed(2) ?? "", row.low === null ? "" : `[${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`,
      row.gain ? `${row.gain[0] >= 0 ? "+" : ""}${row.gain[0].toFixed(2)}${row.gain[2] ? "*" : ""}` : "",
      row.cost === null ? "" : si(row.cost), row.images === null ? "" : si(row.images), row.status,
    ])) : [line("td", ["none yet", "", "", "", "", "", "", ""])]));
  }
  for (const form of document.querySelectorAll(".filters")) {
    form.addEventListener("input", draw);
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  element("find").addEventListener("input", () => buttons(here().mine));
  addEventListener("hashchange", () => { read(); draw(); });
  let wait;
  addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(draw, 150); });
  read();
  if (panels.length) draw();
})();
