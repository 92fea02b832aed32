"use strict";
// Loaded before anything is drawn, so that no page flashes in the other scheme.
(() => {
  const choices = ["auto", "light", "dark"];
  const read = () => { try { return localStorage.getItem("juxtabit-theme"); } catch { return null; } };
  let chosen = choices.includes(read()) ? read() : "auto";
  const apply = () => { document.documentElement.dataset.theme = chosen; };
  apply();
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = `Theme: ${chosen}`; };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      chosen = choices[(choices.indexOf(chosen) + 1) % choices.length];
      try { localStorage.setItem("juxtabit-theme", chosen); } catch { /* for this page alone */ }
      apply();
      label();
    });
  });
})();
