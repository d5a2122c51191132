// The page's state and what changes it: one function draws everything from the state.
(async function (LW) {
  "use strict";
  const { scene, element, format } = LW;
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  LW.byLabel = new Map(scene.lesions.map((lesion) => [lesion.label, lesion]));
  LW.units = () => (scene.limits[state.desc] ? scene.limits[state.desc].units : "");

  LW.target = () => { const shared = scene.limits[scene.descs[0]]; return shared ? shared.units.split(" per ")[0] : "output"; };
  LW.quantitative = () => { const shared = scene.limits[state.desc]; return !shared || shared.quantitative; };

  const shortUnits = () => (scene.limits[state.desc] ? scene.limits[state.desc].short : "");

  const state = LW.state = {
    label: null, lesion: null, miss: null, map: null, desc: scene.descs[0] || null, voxel: scene.shape.map((n) => Math.floor(n / 2)),
    centre: scene.shape.map((n) => Math.floor(n / 2)),
    mapChannel: "own", mapBefore: "own", fov_mm: 80, windows: {}, blur: false, opacity: 0.9, threshold: 0.05, snr: 0, limit: 1, reach: 1, smooth: true, contours: true,
    reference: false, probability: false, crosshair: true, convention: "radiological",
  };
  const FAINT = 0.2;
  const panels = LW.panels = [];
  const data = { images: {}, labels: null, probability: null, reference: null };
  let list = null, look = null, pending = 0;

  const redraw = () => {
    if (pending) return;
    pending = requestAnimationFrame(() => {
      pending = 0;
      follow();
      for (const panel of panels) panel.draw(state);
      readout();
      if (state.label !== null) root.dataset.shown = String(state.label);
      if (state.miss) root.dataset.look = String(state.miss.rank);
      else delete root.dataset.look;
    });
  };

  // A zoomed view stays where it is until the crosshair would leave it.
  function follow() {
    if (!state.fov_mm) return;
    const far = state.voxel.some((v, axis) => Math.abs(v - state.centre[axis]) * scene.voxel_mm[axis] > 0.46 * state.fov_mm);
    if (far) state.centre = state.voxel.slice();
  }

  function setLimit() {
    const shared = scene.limits[state.desc];
    state.limit = shared ? (shared.limit * state.reach) / perVoxel(state.lesion) : 1;
    colourBar();
    hint();
  }

  // A map by mean shrinks as its lesion grows: its colours are those of the map times the lesion's voxels.
  const perVoxel = (lesion) => (lesion && scene.limits[state.desc] && scene.limits[state.desc].summed ? lesion.voxels : 1);

  // Largest magnitude of a lesion's map as a share of the limit that all lesions share.
  const strength = (lesion) => {
    const meta = lesion && lesion.maps[state.desc], shared = scene.limits[state.desc];
    return meta && meta.scales && shared ? (Math.max(...meta.scales) * perVoxel(lesion)) / shared.limit : null;
  };

  // Colours are shared by all lesions, so a weak map is hardly seen: says so, and offers to move the limit for all.
  function hint() {
    const share = strength(state.lesion), node = byId("faint"), shared = scene.limits[state.desc];
    const weak = share !== null && share < FAINT * state.reach, moved = state.reach < 1 && !weak;
    node.hidden = !(weak || moved);
    if (node.hidden) return;
    const reach = (value, words) => element("button", { type: "button", onclick: () => { setReach(value); redraw(); } }, words);
    node.replaceChildren(...(weak
      ? [`Faint on the colours that all lesions share: this map's strongest value is ${format(100 * share / state.reach, 2)} % of the limit. `, reach(share, `Lower the limit to ±${format(share * shared.limit, 2)}`)]
      : ["The limit was lowered for all lesions; stronger maps are saturated. ", reach(1, `Back to ±${format(shared.limit, 2)}`)]));
  }

  function setReach(value) {
    state.reach = value;
    byId("reach").value = Math.log2(value);
    byId("reach-value").textContent = `×${format(value, 2)}`;
    setLimit();
  }

  function colourBar() {
    const bar = byId("colour-bar");
    const context = bar.getContext("2d");
    const table = scene.palette.signed;
    bar.width = table.length;
    bar.height = 1;
    for (let n = 0; n < table.length; n++) {
      const [r, g, b, a] = table[n];
      const share = Math.abs((2 * n) / (table.length - 1) - 1);
      const alpha = share < state.threshold ? 0 : (a / 255) * state.opacity;
      const mix = (value) => Math.round(value * alpha + 92 * (1 - alpha));
      context.fillStyle = `rgb(${mix(r)},${mix(g)},${mix(b)})`;
      context.fillRect(n, 0, 1, 1);
    }
    const shared = scene.limits[state.desc], limit = shared ? shared.limit * state.reach : 1;
    const summed = shared && shared.summed, measured = !shared || shared.quantitative;
    byId("limit-low").textContent = measured ? "≤ −" + format(limit, 2) : "";
    byId("limit-high").textContent = measured ? "≥ +" + format(limit, 2) : "";
    byId("against").textContent = measured ? "against" : "none";
    byId("for").textContent = measured ? "for the lesion" : "strongest; locates, does not measure";
    byId("limit-unit").textContent = measured ? shortUnits() + (summed ? " × its voxels" : "") : "";
    byId("limit-unit").title = LW.units() + (summed ? ", times the voxels of the lesion: equal colours are equal changes of its whole output, whatever its size" : "");
    bar.setAttribute("aria-label", measured
      ? `Colour bar: blue against the lesion at minus ${format(limit, 2)}, transparent at zero, red for the lesion at plus ${format(limit, 2)} ${LW.units()}${summed ? " times its voxels" : ""}; the same for all lesions`
      : "Colour bar: transparent at zero, red where the network's features are strongest; this method has no unit");
  }

  function readout() {
    const [i, j, k] = state.voxel;
    const n = i + scene.shape[0] * (j + scene.shape[1] * k);
    const mm = LW.toMm(state.voxel);
    byId("mm").textContent = scene.sided ? mm.map((value) => value.toFixed(1).replace("-", "−")).join(", ") : "not known,";
    byId("mm").dataset.mm = mm.map((value) => value.toFixed(3)).join(" ");
    byId("voxel").textContent = LW.toSource(state.voxel).join(", ");
    const parts = [];
    for (const channel of scene.channels) {
      const image = data.images[channel], scale = scene.volumes.images[channel];
      if (image) parts.push(`${channel} ${format(image[n] * scale.scale + scale.offset)}`);
    }
    if (data.probability) parts.push(`p ${LW.certainty(data.probability[n] / 255)}`);
    if (state.map) for (const channel of state.map.names) parts.push(`map ${channel} ${format(state.map.at(channel, i, j, k, 0), 2)}`);
    const label = data.labels ? data.labels[n] : 0;
    parts.push(LW.byLabel.has(label) ? LW.named(LW.byLabel.get(label)) : label ? `lesion ${label}` : "no lesion");
    byId("values").textContent = parts.join(" · ");
    for (const [name, plane] of Object.entries(LW.PLANES)) {
      const slider = byId(`slice-${name}`);
      slider.value = state.voxel[plane.through];
      slider.setAttribute("aria-valuetext", `${mm[plane.through].toFixed(1)} mm`);
    }
  }

  async function choose(label, { move = true } = {}) {
    const lesion = LW.byLabel.get(label);
    if (!lesion) return;
    Object.assign(state, { label, lesion, miss: null });
    look.mark(null);
    if (move && lesion.place) { state.voxel = lesion.place.slice(); state.centre = lesion.place.slice(); }
    list.mark(label);
    if (!state.wholeHead) state.fov_mm = fitting(lesion);
    describe(lesion);
    history.replaceState(null, "", `#lesion-${label}`);
    const map = await LW.loadMap(lesion, state.desc);
    if (state.label !== label) return;
    state.map = map;
    setLimit();
    redraw();
    if (LW.render3d.open) LW.render3d.show(state);
  }
  LW.choose = choose;

  // A place where a lesion may have been missed: planes and story are its own, as there is no lesion and no map.
  function visit(miss) {
    const before = list.label;
    Object.assign(state, { label: null, lesion: null, map: null, miss, voxel: miss.voxel.slice(), centre: miss.voxel.slice() });
    list.mark(null);
    look.mark(miss.rank);
    if (!state.wholeHead) state.fov_mm = fitting({});
    byId("lesion-title").replaceChildren(...LW.likelyMiss.title(miss));
    byId("headline").textContent = LW.likelyMiss.headline(miss);
    tell([LW.likelyMiss.sentence(miss)]);
    byId("facts").textContent = "";
    byId("why").textContent = "";
    byId("triage").hidden = true;
    byId("warnings").replaceChildren();
    byId("outside").textContent = "";
    byId("places").replaceChildren(...(LW.byLabel.has(before) ? [element("button", { type: "button", onclick: () => choose(before) }, `Back to ${LW.named(LW.byLabel.get(before))}`)] : []));
    for (const panel of panels) panel.canvas.setAttribute("aria-label", `${panel.planeName} ${panel.channel}, at likely miss ${miss.rank}, ${state.convention} convention`);
    history.replaceState(null, "", `#look-${miss.rank}`);
    setLimit();
    redraw();
    if (LW.render3d.open) LW.render3d.show(state);
    byId("planes").scrollIntoView({ block: "nearest" });
  }
  LW.visit = (rank) => { const miss = LW.likelyMiss.at(rank); if (miss) visit(miss); };

  const tell = (sentences) => byId("sentences").replaceChildren(...sentences.map((each) => element("p", {}, each)));

  function tellVerdict(verdict) {
    const node = byId("triage");
    node.hidden = !verdict;
    if (!verdict) return;
    const why = verdict.reasons.length ? ` ${verdict.lead ? `${verdict.lead}: ` : "because "}${verdict.reasons.join(" · ")}.` : "";
    const said = `Triage: ${verdict.said}${verdict.certainty ? ` (${verdict.certainty})` : ""}`;
    node.replaceChildren(
      element("p", {}, element("strong", { class: verdict.false ? "said doubted" : "said" }, said), why),
      verdict.seen.length ? element("p", { class: "muted" }, `Also seen, no part of the verdict: ${verdict.seen.join("; ")}.`) : "");
  }

  // Wide enough for the lesion and what surrounds it.
  const fitting = (lesion) => Math.min(Math.max(70, 40 + Math.max(...(lesion.extent_mm || [0]))), 220);

  function describe(lesion) {
    byId("lesion-title").replaceChildren(LW.badge(lesion.row.outcome), ` ${LW.named(lesion).replace(/^./, (letter) => letter.toUpperCase())}`);
    byId("headline").textContent = lesion.headline;
    byId("facts").textContent = lesion.facts;
    tell(lesion.sentences);
    LW.review.show(lesion);
    byId("why").textContent = lesion.why || "";
    tellVerdict(lesion.triage);
    byId("warnings").replaceChildren(...lesion.warnings.map((warning) => element("li", {}, warning)));
    LW.channelBars(byId("bars"), lesion);
    legend();
    LW.profileChart(byId("profile"), lesion, state.desc);
    LW.distribution(byId("distribution"), lesion, choose);
    const meta = lesion.maps[state.desc];
    const places = byId("places");
    places.replaceChildren();
    if (meta) for (const [channel, ends] of Object.entries(meta.extremes)) {
      for (const [what, end] of Object.entries(ends)) {
        const where = end.distance_mm === null ? "far away" : end.distance_mm === 0 ? "inside" : `${format(end.distance_mm, 2)} mm outside`;
        places.append(element("button", { type: "button", onclick: () => { state.voxel = end.voxel.slice(); redraw(); } }, `${channel} ${what} (${where})`));
      }
    }
    byId("viewer-lesion").textContent = String(lesion.label);
    byId("viewers").replaceChildren(...Object.entries(lesion.viewers || {}).flatMap(([name, command]) => [element("dt", {}, name), element("dd", {}, element("code", {}, command))]));
    const outside = byId("outside");
    outside.textContent = meta && meta.outside
      ? `The page keeps the map within ${format(scene.margin_mm)} mm of the lesion; ${meta.channels.map((channel, c) => `${format(100 * meta.outside[c], 2)} % of the ${channel} map's weight`).join(" and ")} lies farther away (all of it is in the NIfTI file).`
      : "";
    for (const panel of panels) {
      panel.canvas.setAttribute("aria-label", `${panel.planeName} ${panel.channel}, at ${LW.named(lesion)} (${LW.style(lesion.row.outcome).meaning}), ${state.convention} convention`);
    }
  }

  // Which outline is which, beside the images; and the lines of probability where they are drawn.
  function legend() {
    const outcomes = [...new Set(scene.lesions.map((each) => each.row.outcome || "n/a"))];
    const key = (colour, dash, words, width = 2) => {
      const line = LW.svg("svg", { width: 26, height: 8, "aria-hidden": "true" });
      line.append(LW.svg("path", { d: "M1 4H25", stroke: colour, "stroke-width": width, "stroke-dasharray": dash ? dash.join(" ") : "none" }));
      return element("span", {}, line, words);
    };
    byId("outlines").replaceChildren(
      ...(state.contours ? Object.keys(scene.palette.outcomes).filter((each) => outcomes.includes(each)).map((each) => key(LW.style(each).colour, LW.style(each).dash, LW.style(each).short)) : []),
      ...(state.reference ? [key("var(--ink)", [1.5, 2.5], "reference")] : []),
      ...(state.probability ? LW.isolines().map((each) => key("var(--ink)", each.dash, `p ${format(each.level, 2)}`, each.width)) : []));
  }

  function buildPanels() {
    const grid = byId("planes");
    const shown = Object.keys(data.images).length ? Object.keys(data.images) : [scene.channels[0] || "image"];
    grid.style.setProperty("--rows", shown.length);
    grid.style.setProperty("--side", `${LW.printSide(shown.length)}mm`);
    for (const channel of shown) {
      for (const name of Object.keys(LW.PLANES)) {
        const canvas = element("canvas", { role: "img", tabindex: "0", "data-plane": name, "data-channel": channel });
        grid.append(element("figure", {}, canvas, element("figcaption", {}, `${channel} · ${name}`)));
        const panel = new LW.SlicePanel(canvas, name, channel, data);
        panels.push(panel);
        listen(panel);
      }
    }
    for (const [name, plane] of Object.entries(LW.PLANES)) {
      const slider = byId(`slice-${name}`);
      slider.max = scene.shape[plane.through] - 1;
      slider.addEventListener("input", () => { state.voxel[plane.through] = Number(slider.value); redraw(); });
    }
    new ResizeObserver(redraw).observe(grid);
  }

  function listen(panel) {
    const { canvas } = panel;
    let grabbed = null;
    const level = (event) => {
      const [black, white] = grabbed.window, range = 255 / canvas.clientWidth;
      const width = Math.max(white - black + (event.clientX - grabbed.x) * range, 4), middle = (black + white) / 2 + (event.clientY - grabbed.y) * range;
      state.windows[panel.channel] = [middle - width / 2, middle + width / 2];
      byId("window-reset").hidden = false;
      redraw();
    };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => enlarge(panel));
    const move = (event) => {
      const ratio = canvas.width / canvas.clientWidth;
      state.voxel = panel.pick(state, event.offsetX * ratio, event.offsetY * ratio);
      redraw();
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 2 || event.shiftKey) {
        grabbed = { x: event.clientX, y: event.clientY, window: LW.window(state, panel.channel) };
        canvas.setPointerCapture(event.pointerId);
        return;
      }
      if (event.button !== 0) return;
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
      move(event);
      const label = data.labels[state.voxel[0] + scene.shape[0] * (state.voxel[1] + scene.shape[1] * state.voxel[2])];
      if (label && label !== state.label && event.detail !== 0) choose(label, { move: false });
    });
    canvas.addEventListener("pointerup", () => { grabbed = null; });
    canvas.addEventListener("pointermove", (event) => { if (grabbed) level(event); else if (event.buttons === 1 && event.pointerType === "mouse") move(event); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) zoom(event.deltaY > 0 ? 1.12 : 1 / 1.12);
      else slide(panel.plane.through, event.deltaY > 0 ? -1 : 1);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const flip = panel.view(state).flip ? -1 : 1;
      const steps = { ArrowLeft: [panel.plane.across, -flip], ArrowRight: [panel.plane.across, flip], ArrowUp: [panel.plane.up, 1], ArrowDown: [panel.plane.up, -1], PageUp: [panel.plane.through, 1], PageDown: [panel.plane.through, -1] };
      if (!steps[event.key]) return;
      event.preventDefault();
      slide(...steps[event.key]);
    });
  }

  // One plane of one image as large as the page allows, and back.
  function enlarge(panel) {
    const grid = byId("planes"), large = grid.classList.toggle("single");
    for (const figure of grid.children) figure.hidden = large && !figure.contains(panel.canvas);
    panel.canvas.focus();
    redraw();
  }

  function slide(axis, by) {
    state.voxel[axis] = Math.min(Math.max(state.voxel[axis] + by, 0), scene.shape[axis] - 1);
    redraw();
  }

  function zoom(factor) {
    const whole = Math.max(...scene.shape.map((n, axis) => n * scene.voxel_mm[axis]));
    const fov = (state.fov_mm || whole) * factor;
    state.fov_mm = fov >= whole ? null : Math.max(fov, 12);
    state.wholeHead = state.fov_mm === null;
    byId("zoom-whole").setAttribute("aria-pressed", String(Boolean(state.wholeHead)));
    redraw();
  }

  function toggleMap() {
    const select = byId("map-channel");
    if (state.mapChannel === "none") state.mapChannel = state.mapBefore;
    else { state.mapBefore = state.mapChannel; state.mapChannel = "none"; }
    select.value = state.mapChannel;
    redraw();
  }

  function controls() {
    const bind = (id, event, apply) => { const node = byId(id); if (node) node.addEventListener(event, () => { apply(node); redraw(); }); };
    const say = (id, words) => { byId(id).textContent = words; };
    const select = byId("map-channel");
    select.append(element("option", { value: "own" }, "own channel"), ...scene.channels.map((channel) => element("option", { value: channel }, channel)), element("option", { value: "none" }, "off"));
    bind("map-channel", "change", (node) => { state.mapChannel = node.value; });
    const method = byId("method");
    method.append(...scene.descs.map((desc) => element("option", { value: desc }, scene.names[desc] || desc)));
    method.closest("label").hidden = scene.descs.length < 2;
    bind("method", "change", (node) => { state.desc = node.value; if (state.miss) setLimit(); else choose(state.label, { move: false }); });
    bind("opacity", "input", (node) => { state.opacity = Number(node.value); say("opacity-value", `${Math.round(100 * state.opacity)} %`); colourBar(); });
    bind("threshold", "input", (node) => { state.threshold = Number(node.value); say("threshold-value", `${Math.round(100 * state.threshold)} %`); colourBar(); });
    bind("snr", "input", (node) => { state.snr = Number(node.value); say("snr-value", state.snr ? `≥ ${state.snr}` : "off"); });
    bind("reach", "input", (node) => { setReach(2 ** Number(node.value)); });
    for (const key of ["smooth", "contours", "reference", "probability", "crosshair", "blur"]) bind(key, "change", (node) => { state[key] = node.checked; legend(); });
    byId("reference").closest("label").hidden = !scene.volumes.reference;
    byId("snr").closest("label").hidden = !scene.lesions.some((lesion) => Object.values(lesion.maps).some((meta) => meta.snr));
    bind("convention", "change", (node) => { state.convention = node.value; say("convention-words", conventionWords()); });
    say("convention-words", conventionWords());
    byId("zoom-in").onclick = () => zoom(1 / 1.25);
    byId("zoom-out").onclick = () => zoom(1.25);
    byId("zoom-lesion").onclick = () => {
      state.wholeHead = false;
      byId("zoom-whole").setAttribute("aria-pressed", "false");
      state.fov_mm = Math.max(30, 12 + Math.max(...((state.lesion || {}).extent_mm || [0])));
      if (state.lesion) { state.centre = state.lesion.place.slice(); state.voxel = state.lesion.place.slice(); }
      redraw();
    };
    byId("window-reset").onclick = () => { state.windows = {}; byId("window-reset").hidden = true; redraw(); };
    byId("zoom-whole").onclick = () => {
      state.wholeHead = !state.wholeHead;
      state.fov_mm = state.wholeHead ? null : fitting(state.lesion || {});
      byId("zoom-whole").setAttribute("aria-pressed", String(state.wholeHead));
      redraw();
    };
    byId("theme").onclick = () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    };
    byId("print").onclick = () => window.print();
    for (const chip of document.querySelectorAll("[data-outcome]")) {
      chip.addEventListener("click", () => {
        const { outcomes } = list.filter, key = chip.dataset.outcome;
        if (!outcomes.delete(key)) outcomes.add(key);
        chip.setAttribute("aria-pressed", String(outcomes.has(key)));
        list.render();
      });
    }
    byId("least").addEventListener("input", (event) => { list.filter.least_mm3 = Number(event.target.value) || 0; list.render(); });
    byId("explained").addEventListener("change", (event) => { list.filter.explained = event.target.checked; list.render(); });
    const verdicts = scene.lesions.some((lesion) => lesion.row.triage_verdict);
    byId("kept").closest("label").hidden = !verdicts;
    byId("kept").addEventListener("change", (event) => { list.filter.kept = event.target.checked; list.render(); });
    byId("open-3d").addEventListener("click", open3d);
    for (const button of document.querySelectorAll("[data-turn]")) button.addEventListener("click", () => LW.render3d.turn(...button.dataset.turn.split(",").map(Number)));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number], input[type=text], select, textarea")) return;
      if (event.key === "j") list.step(1);
      else if (event.key === "k") list.step(-1);
      else if (event.key === "m") look.next(state.miss && state.miss.rank);
      else if (event.key === " " && !event.target.matches("button, input, summary, a")) { event.preventDefault(); toggleMap(); }
      else if (event.key === "z") byId("zoom-whole").click();
      else if (event.key === "l") byId("zoom-lesion").click();
      else if (event.key === "r" && state.lesion) LW.review.toggle(state.lesion);
      else if (event.key === "Escape" && byId("planes").classList.contains("single")) enlarge(panels.find((panel) => !panel.canvas.parentElement.hidden));
    });
  }

  const conventionWords = () => !scene.sided ? "The header does not say which side is right: no side is named." : (state.convention === "radiological"
    ? "Radiological convention: the patient's right is on the left of the picture."
    : "Neurological convention: the patient's left is on the left of the picture.")
    + (scene.tilt_deg > 1 ? ` The planes follow the scan's own grid, tilted by ${format(scene.tilt_deg, 2)}° against the letters.` : "");

  async function open3d() {
    const button = byId("open-3d");
    button.disabled = true;
    button.textContent = "Opening …";
    try {
      byId("render").hidden = false;
      await LW.render3d.start(state, data);
      byId("render-controls").hidden = false;
      button.hidden = true;
    } catch (error) {
      console.warn(String(error));
      byId("render").hidden = true;
      button.textContent = "No 3-D view: this browser offers no WebGL2.";
    }
  }

  async function load() {
    const { images, labels, probability, reference } = scene.volumes;
    const jobs = Object.entries(images).map(async ([channel, each]) => [channel, LW.widened(await LW.array(each), each)]);
    const [loaded, mask, p, marked] = await Promise.all([Promise.all(jobs), LW.array(labels), LW.array(probability), reference ? LW.array(reference) : null]);
    data.images = Object.fromEntries(loaded);
    Object.assign(data, { labels: mask, probability: p, reference: marked });
  }

  LW.review.start(() => list);
  list = LW.list = new LW.LesionList(choose);
  look = LW.look = new LW.LookList(visit);
  controls();
  setLimit();
  await load();
  buildPanels();
  const wanted = /^#lesion-(\d+)$/.exec(location.hash);
  const mapped = scene.lesions.filter((lesion) => Object.keys(lesion.maps).length);
  // Opens on the found lesion whose brightness matters most, so that there is something to see.
  const effect = (lesion) => Math.max(0, ...scene.map_channels.map((channel) => Math.abs(lesion.row[`effect_in_${channel}`] || 0)));
  const ours = mapped.filter((lesion) => ["TP", null, undefined].includes(lesion.row.outcome) && effect(lesion) > 0 && strength(lesion) >= FAINT);
  const best = ours.sort((a, b) => effect(b) - effect(a))[0] || mapped.find((lesion) => strength(lesion) >= 0.5) || mapped.find((lesion) => strength(lesion) >= FAINT) || mapped[0] || scene.lesions[0];
  const wantedMiss = () => { const found = /^#look-(\d+)$/.exec(location.hash); return found && LW.likelyMiss.at(Number(found[1])); };
  if (wantedMiss()) visit(wantedMiss());
  else if (wanted && LW.byLabel.has(Number(wanted[1]))) await choose(Number(wanted[1]));
  else if (best) await choose(best.label);
  else { byId("headline").textContent = "No lesion was found in this scan."; redraw(); }
  window.addEventListener("hashchange", () => { const found = /^#lesion-(\d+)$/.exec(location.hash); if (found) choose(Number(found[1])); else if (wantedMiss()) visit(wantedMiss()); });
  window.addEventListener("beforeprint", () => {
    state.print_mm = LW.printSide(Object.keys(data.images).length || 1, byId("planes").classList.contains("single"));
    for (const panel of panels) panel.draw(state);
    readout();
  });
  window.addEventListener("afterprint", () => { state.print_mm = null; redraw(); });
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  performance.mark("ready");
  root.dataset.ready = "true";
})((window.LW = window.LW || {}));
