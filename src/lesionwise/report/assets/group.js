// The cohort's figures: drawn from JSON, in the page's own colours; a point opens its lesion.
(function () {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const ink = () => getComputedStyle(root).getPropertyValue("--ink").trim();
  const line = () => getComputedStyle(root).getPropertyValue("--line").trim();
  const soft = () => getComputedStyle(root).getPropertyValue("--soft").trim();

  function paint() {
    for (const { id, figure } of charts) {
      const host = document.getElementById(id);
      const layout = structuredClone(figure.layout);
      layout.font.color = ink();
      layout.font.family = "system-ui, sans-serif";
      for (const axis of ["xaxis", "yaxis"]) Object.assign(layout[axis] || (layout[axis] = {}), { gridcolor: line(), zerolinecolor: soft(), automargin: true });
      Plotly.react(host, figure.data, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
    }
  }

  paint();
  for (const { id } of charts) {
    document.getElementById(id).on("plotly_click", (event) => {
      const found = event.points.find((point) => Array.isArray(point.customdata));
      // Only addresses below this page: the links are made by us, and stay so.
      if (found && /^sub-/.test(found.customdata[0])) window.location.href = found.customdata[0].split("/").map((part) => encodeURIComponent(part).replace("%23", "#")).join("/");
    });
  }
  document.getElementById("theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    paint();
  };
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const body = document.getElementById("scan-rows"), column = Number(button.dataset.sort);
      const head = button.closest("th"), descending = head.getAttribute("aria-sort") !== "descending";
      for (const each of head.parentNode.children) each.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => { const text = row.children[column].textContent.trim(); return column ? Number(text) : text; };
      const rows = [...body.children].sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0));
      if (descending) rows.reverse();
      body.replaceChildren(...rows);
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  root.dataset.ready = "true";
})();
