// The list of lesions: sorting, filtering, choosing.
(function (LW) {
  "use strict";
  const { element, format, scene } = LW;

  LW.LesionList = class {
    constructor(choose) {
      this.choose = choose;
      this.host = document.getElementById("lesion-rows");
      this.status = document.getElementById("lesion-status");
      this.sort = { column: "lesion", descending: false };
      this.filter = { outcomes: new Set(), least_mm3: 0, text: "" };
      this.columns = LW.listColumns();
      this.header();
      this.render();
    }

    header() {
      const row = document.getElementById("lesion-head");
      row.replaceChildren(...this.columns.map((column) => {
        const sorted = this.sort.column === column.key;
        const button = element("button", { type: "button", title: column.title, onclick: () => this.sortBy(column.key) },
          column.name, element("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (this.sort.descending ? "▼" : "▲") : ""));
        return element("th", { scope: "col", class: column.numeric ? "num" : "", "aria-sort": sorted ? (this.sort.descending ? "descending" : "ascending") : "none" }, button);
      }));
    }

    sortBy(column) {
      const fresh = this.sort.column !== column;
      this.sort = { column, descending: fresh ? column !== "lesion" && column !== "outcome" : !this.sort.descending };
      this.header();
      this.render();
    }

    visible() {
      const { outcomes, least_mm3, explained, kept: unsuspected } = this.filter;
      const kept = scene.lesions.filter((lesion) =>
        (!outcomes.size || outcomes.has(lesion.row.outcome || "n/a")) &&
        (lesion.row.volume_mm3 === null || lesion.row.volume_mm3 >= least_mm3) &&
        (!explained || Object.keys(lesion.maps).length) &&
        (!unsuspected || lesion.row.triage_verdict !== "probably false"));
      const { column, descending } = this.sort;
      const rank = (lesion) => lesion.row[column];
      return kept.sort((a, b) => {
        const [x, y] = [rank(a), rank(b)];
        if (x === y) return a.label - b.label;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
        return descending ? -order : order;
      });
    }

    render() {
      const rows = this.visible();
      this.host.replaceChildren(...rows.map((lesion) => this.row(lesion)));
      this.status.textContent = rows.length === scene.lesions.length ? `${rows.length} shown` : `${rows.length} of ${scene.lesions.length} shown`;
      this.mark(this.label);
    }

    row(lesion) {
      const style = LW.style(lesion.row.outcome);
      const cells = this.columns.map((column) => {
        if (column.key === "lesion") {
          return element("th", { scope: "row" }, element("button", { type: "button", class: "pick", "data-label": lesion.label, onclick: () => this.choose(lesion.label) }, String(lesion.label)));
        }
        if (column.key === "outcome") {
          return element("td", {}, LW.badge(lesion.row.outcome));
        }
        const text = column.fixed && typeof lesion.row[column.key] === "number" ? LW.certainty(lesion.row[column.key]) : column.signed ? LW.signed(lesion.row[column.key]) : format(lesion.row[column.key], column.digits || 3);
        const doubted = column.key === "triage_p_false" && lesion.row.triage_verdict === "probably false";
        return element("td", { class: "num" }, doubted ? element("span", { class: "doubted", title: "Triage: probably false" }, text) : text);
      });
      const node = element("tr", { "data-label": lesion.label, class: `${Object.keys(lesion.maps).length ? "" : "plain"}${LW.review.has(lesion) ? " reviewed" : ""}`, onclick: () => this.choose(lesion.label) }, ...cells);
      node.style.setProperty("--outcome", style.colour);
      return node;
    }

    // Nothing is chosen with null; the neighbours are then still those of the lesion chosen last.
    mark(label) {
      if (label !== null) this.label = label;
      for (const row of this.host.children) {
        const chosen = Number(row.dataset.label) === label;
        row.classList.toggle("chosen", chosen);
        const button = row.querySelector("button");
        if (chosen) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
        if (chosen) this.reveal(row);
      }
    }

    // Scrolls the list, never the page.
    reveal(row) {
      const box = row.closest(".scroll");
      const head = box.querySelector("thead").offsetHeight;
      if (row.offsetTop < box.scrollTop + head) box.scrollTop = row.offsetTop - head;
      else if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
    }

    // The neighbour of the chosen lesion in the list as it is sorted and filtered now.
    step(by) {
      const rows = this.visible();
      if (!rows.length) return;
      const at = rows.findIndex((lesion) => lesion.label === this.label);
      this.choose(rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1)].label);
    }
  };

  LW.badge = (outcome) => {
    const style = LW.style(outcome);
    const node = element("span", { class: "badge", title: style.meaning }, outcome || "–");
    node.style.background = style.colour;
    node.style.color = style.ink;
    return node;
  };

  LW.listColumns = () => {
    const has = (key) => scene.lesions.some((lesion) => typeof lesion.row[key] === "number");
    const columns = [
      { key: "lesion", name: "#", title: "Number of the lesion in the label image" },
      { key: "outcome", name: "Outcome", title: "Outcome against the reference" },
      { key: "volume_mm3", name: "mm³", title: "Volume", numeric: true },
      { key: "probability_mean", name: "p", title: "Mean probability in the lesion", numeric: true, fixed: 2 },
    ];
    for (const channel of scene.map_channels) {
      if (has(`effect_in_${channel}`)) columns.push({ key: `effect_in_${channel}`, name: `Effect ${channel}`, signed: true, title: `What one SD more ${channel} throughout the lesion does to its ${LW.target()}; compares between sizes`, numeric: true, digits: 2 });
      else if (has(`peak_${channel}`)) columns.push({ key: `peak_${channel}`, name: `Peak ${channel}`, title: `Largest value of the ${channel} map, ${LW.units()}; compares at equal size only`, numeric: true, digits: 2 });
    }
    if (has("triage_p_false")) columns.push({ key: "triage_p_false", name: "p false", title: "Triage: probability that this predicted lesion is false", numeric: true, fixed: 2 });
    return columns.filter((column) => !column.numeric || has(column.key));
  };
})((window.LW = window.LW || {}));
