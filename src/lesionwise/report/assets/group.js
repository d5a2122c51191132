// The cohort's figures: drawn from JSON, in the page's own colours; a point opens its lesion.
(function () {
  "use strict";
  const { charts, pages } = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);

  const lineColour = (name, ink) => (name === "#000000" ? ink : name);

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

  const open = ([scan, lesion]) => { if (Object.hasOwn(pages, scan) && Number.isInteger(lesion)) window.location.href = `${pages[scan]}#lesion-${lesion}`; };

  // Points that are lesions, by the keyboard: arrows go from one to the next, Enter opens it.
  function reachable(node, figure) {
    const stops = figure.data.flatMap((trace, curveNumber) => (Array.isArray(trace.customdata) ? trace.customdata.map((lesion, pointNumber) => ({ curveNumber, pointNumber, lesion, y: trace.y[pointNumber] })) : []));
    if (!stops.length) return;
    let at = -1;
    node.tabIndex = 0;
    node.setAttribute("aria-description", "Arrow keys go from lesion to lesion, Enter opens one.");
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) {
        event.preventDefault();
        at = (at + step + stops.length) % stops.length;
        const { curveNumber, pointNumber, lesion, y } = stops[at];
        Plotly.Fx.hover(node, [{ curveNumber, pointNumber }]);
        document.getElementById("spoken").textContent = `${lesion[0]}, lesion ${lesion[1]}: ${Number(y).toPrecision(3)}`;
      } else if (event.key === "Enter" && at >= 0) open(stops[at].lesion);
    });
  }

  for (const { id, figure } of charts) {
    const node = document.getElementById(id);
    node.on("plotly_click", (event) => {
      const found = event.points.find((point) => Array.isArray(point.customdata));
      if (found) open(found.customdata);
    });
    reachable(node, figure);
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
