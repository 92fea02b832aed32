"use strict";
// From one group to the nearest other that has what was just chosen.
(() => {
  const form = document.querySelector(".chooser");
  if (!form) return;
  const panels = juxtabit.panels;
  const here = panels.find((panel) => panel.slug === form.dataset.panel);
  const selects = [...form.querySelectorAll("select")];
  const axes = selects.map((select) => select.dataset.axis);
  for (const select of selects) {
    const axis = select.dataset.axis;
    const values = [...new Set(panels.map((panel) => panel[axis]))];
    select.replaceChildren(...values.map((value) => new Option(value, value)));
    select.value = here[axis];
    select.disabled = false;
    select.addEventListener("change", () => {
      const near = (panel) => axes.filter((other) => panel[other] === here[other]).length;
      const fitting = panels.filter((panel) => panel[axis] === select.value);
      fitting.sort((a, b) => near(b) - near(a));
      location.href = document.documentElement.dataset.root + fitting[0].path;
    });
  }
})();
