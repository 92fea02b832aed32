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
    select.disabled = false;
    select.value = here[select.dataset.axis];  // a browser may keep an earlier choice
    select.addEventListener("change", () => {
      const axis = select.dataset.axis;
      const near = (panel) => axes.filter((other) => panel[other] === here[other]).length;
      const fitting = panels.filter((panel) => panel[axis] === select.value);
      fitting.sort((a, b) => near(b) - near(a));
      location.href = document.documentElement.dataset.root + fitting[0].path;
    });
  }
})();
