// Which lesions a reader has looked at, kept in this browser alone; and findings as text to copy.
(function (LW) {
  "use strict";
  const { scene } = LW;
  const byId = (id) => document.getElementById(id);
  const name = `lesionwise-reviewed-${scene.title}-${scene.run}`;
  let listed = null, seen = new Set();

  // A browser may keep nothing (private windows): marks then last as long as the page.
  function read() {
    try { seen = new Set(JSON.parse(localStorage.getItem(name) || "[]")); } catch { seen = new Set(); }
  }
  function keep() {
    try { localStorage.setItem(name, JSON.stringify([...seen].sort((a, b) => a - b))); } catch { /* nothing is kept */ }
  }

  const say = (words) => { byId("review-status").textContent = words; };
  const finding = (lesion) => [`${scene.title}, ${LW.named(lesion)} (${lesion.row.outcome || "no reference"})`, lesion.headline, lesion.facts, ...lesion.sentences, lesion.why, ...lesion.warnings, "lesionwise, research use only"].filter(Boolean).join("\n");

  function save(text, file) {
    const link = LW.element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  LW.review = {
    has: (lesion) => seen.has(lesion.label),
    finding,

    start(list_fn) {
      read();
      listed = list_fn;
      byId("reviewed").addEventListener("click", () => LW.state.lesion && this.toggle(LW.state.lesion));
      byId("copy-finding").addEventListener("click", async () => {
        if (!LW.state.lesion) return;
        try { await navigator.clipboard.writeText(finding(LW.state.lesion)); say("Copied."); } catch { save(finding(LW.state.lesion), `${scene.title}_lesion-${LW.state.label}.txt`); say("Saved as a file: this browser does not let a page copy."); }
      });
      byId("export-reviewed").addEventListener("click", () => {
        const rows = scene.lesions.map((lesion) => [scene.title, lesion.label, seen.has(lesion.label) ? "yes" : "no"].join("\t"));
        save(["scan\tlesion\treviewed", ...rows].join("\n") + "\n", `${scene.title}_reviewed.tsv`);
      });
    },

    toggle(lesion) {
      if (!seen.delete(lesion.label)) seen.add(lesion.label);
      keep();
      this.show(lesion);
      listed().render();
    },

    show(lesion) {
      byId("reviewed").setAttribute("aria-pressed", String(seen.has(lesion.label)));
      say(`${seen.size} of ${scene.lesions.length} reviewed`);
    },
  };
})((window.LW = window.LW || {}));
