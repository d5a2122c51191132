// The cohort's figures: drawn from JSON, in the page's own colours; a point opens its lesion.
(function () {
  "use strict";
  const { charts, pages } = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);

  // Outcome colours are made for dark images: as thin lines on white they are drawn darker.
  function lineColour(name, ink) {
    if (!/^#[0-9a-f]{6}$/i.test(name || "")) return name;
    if (name === "#000000") return ink;
    return isDark() ? name : `rgb(${[1, 3, 5].map((at) => Math.round(0.62 * parseInt(name.slice(at, at + 2), 16))).join(",")})`;
  }

  // A figure in the page's colours: texts and grids follow the theme, black lines are drawn in ink.
  function themed(figure) {
    const ink = colour("--ink"), layout = structuredClone(figure.layout);
    layout.font = { ...layout.font, color: ink, family: "system-ui, sans-serif" };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: colour("--card"), bordercolor: ink, font: { size: 13, color: ink } };
    for (const axis of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))]) {
      layout[axis] = { ...layout[axis], gridcolor: colour("--line"), zerolinecolor: colour("--soft"), automargin: true };
    }
    const data = figure.data.map((trace) => {
      const own = { ...trace };
      if (own.line) own.line = { ...own.line, color: lineColour(own.line.color, ink) };
      if (own.type === "violin") own.marker = { ...own.marker, color: own.line.color };
      if (own.marker && own.marker.color === "#000000") own.marker = { ...own.marker, color: ink };
      return own;
    });
    return { data, layout };
  }

  function paint() {
    for (const { id, figure } of charts) {
      const { data, layout } = themed(figure);
      Plotly.react(document.getElementById(id), data, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
    }
  }

  paint();
  for (const { id } of charts) {
    document.getElementById(id).on("plotly_click", (event) => {
      const found = event.points.find((point) => Array.isArray(point.customdata));
      if (!found) return;
      const [scan, lesion] = found.customdata;
      if (Object.hasOwn(pages, scan) && Number.isInteger(lesion)) window.location.href = `${pages[scan]}#lesion-${lesion}`;
    });
  }
  document.getElementById("theme").onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
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
  performance.mark("ready");
  root.dataset.ready = "true";
})();
