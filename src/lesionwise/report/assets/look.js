// Where a lesion may have been missed: the list of places, and the words for the one that is looked at.
(function (LW) {
  "use strict";
  const { element, scene } = LW;

  const minus = (text) => text.replace(/^-(?=[0.]*$)/, "").replace(/-/g, "−");  // no minus before a zero
  // Where the header does not say which side is right there are no world coordinates: the scan's own voxel.
  const place = (miss, digits) => !scene.sided
    ? miss.voxel ? `voxel ${LW.toSource(miss.voxel).join(", ")}` : "place not known"
    : `${miss.side ? `${miss.side}, ` : ""}x y z ${miss.mm.map((value) => minus(value.toFixed(digits))).join(", ")} mm`;

  // Only with a reference: whether a lesion was missed there.
  const truth = (miss) => ({ miss: "on a missed lesion", other: "not on a missed lesion" })[miss.outcome] || "";
  const badge = (miss) => (miss.outcome === "miss" ? LW.badge("FN") : null);

  LW.LookList = class {
    constructor(visit) {
      this.visit = visit;
      this.host = document.getElementById("look-rows");
      if (!this.host) return;
      this.host.replaceChildren(...scene.likely_misses.map((miss) => element("li", {}, this.row(miss))));
    }

    row(miss) {
      const told = [
        element("span", { class: "rank" }, String(miss.rank)),
        element("span", { class: "where" }, place(miss, 0), badge(miss) && " ", badge(miss)),
        element("span", { class: "words" }, [miss.words, truth(miss)].filter(Boolean).join("; ")),
      ];
      if (!miss.voxel) return element("div", { class: "look-row" }, ...told, element("span", { class: "words" }, "Outside this scan: it cannot be shown."));
      return element("button", { type: "button", class: "look-row", "data-rank": miss.rank, onclick: () => this.visit(miss) }, ...told);
    }

    mark(rank) {
      for (const button of this.host ? this.host.querySelectorAll("button") : []) {
        const chosen = rank !== null && Number(button.dataset.rank) === rank;
        button.classList.toggle("chosen", chosen);
        if (chosen) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
        if (chosen) this.reveal(button.parentElement);
      }
    }

    // Scrolls the list, never the page.
    reveal(row) {
      const box = this.host;
      if (row.offsetTop < box.scrollTop) box.scrollTop = row.offsetTop;
      else if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
    }

    // The place after the one that is looked at; after the last the first.
    next(rank) {
      const shown = scene.likely_misses.filter((miss) => miss.voxel);
      if (shown.length) this.visit(shown[(shown.findIndex((miss) => miss.rank === rank) + 1) % shown.length]);
    }
  };

  LW.likelyMiss = {
    at: (rank) => scene.likely_misses.find((miss) => miss.rank === rank && miss.voxel),
    title: (miss) => [badge(miss), `${badge(miss) ? " " : ""}Likely miss ${miss.rank}`].filter(Boolean),
    headline: (miss) => `${place(miss, 1)}. The network called no lesion here, so there is no map.`,
    sentence: (miss) => {
      const lesion = LW.byLabel.get(miss.lesion);
      const name = lesion && lesion.row.outcome === "FN" ? ` (lesion ${lesion.label})` : "";
      const known = { miss: ` The reference marks a lesion here${name}.`, other: " The reference marks no missed lesion here." }[miss.outcome] || "";
      return `${miss.words.charAt(0).toUpperCase()}${miss.words.slice(1)}.${known}`;
    },
  };
})((window.LW = window.LW || {}));
