// Small charts as SVG: weight per channel with error bars, the map against distance, a lesion's place among the others.
(function (LW) {
  "use strict";
  const { svg, element, format, scene } = LW;
  const text = (x, y, content, attributes = {}) => {
    const node = svg("text", { x, y, ...attributes });
    node.textContent = content;
    return node;
  };
  const frame = (width, height, label) => svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" });
  const colour = (channel) => scene.palette.channels[channel] || "#888";
  // Channels differ by line style too: red and blue mean for and against, so their hues are muted.
  const dash = (channel) => ["none", "6 3", "2 2", "8 2 2 2"][Math.max(scene.channels.indexOf(channel), 0) % 4];

  // Round numbers that cover [low, high].
  function ticks(low, high, count = 4) {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) found.push(Math.abs(t) < step * 1e-6 ? 0 : t);
    return found;
  }

  const isNumber = (value) => typeof value === "number";

  // What the bars show: the effects, which compare between lesions of any size; peaks where a map has no effects.
  function measured(lesion) {
    const channels = scene.map_channels.filter((c) => isNumber(lesion.row[`effect_in_${c}`]));
    if (channels.length) return channels.flatMap((channel) => ["in", "rim"].map((where) => ({
      channel, what: where === "in" ? "lesion" : "3 mm rim", value: lesion.row[`effect_${where}_${channel}`], se: lesion.row[`effect_${where}_se_${channel}`], faint: where === "rim", column: `effect_${where}_${channel}`,
    })));
    return scene.map_channels.flatMap((channel) => ["peak", "trough"].map((what) => ({ channel, what, value: lesion.row[`${what}_${channel}`], se: lesion.row[`${what}_se_${channel}`], column: `${what}_${channel}` })));
  }

  // Bars with 95 % Monte-Carlo intervals where there are any, on one scale for all lesions of the scan.
  LW.channelBars = (host, lesion) => {
    host.replaceChildren();
    const kept = measured(lesion).filter((row) => isNumber(row.value));
    if (!kept.length) { host.append(element("p", { class: "muted" }, "No map for this lesion.")); return; }
    const effects = kept[0].column.startsWith("effect_");
    const all = scene.lesions.flatMap((each) => kept.map((row) => each.row[row.column])).filter(isNumber);
    const low = Math.min(0, ...all), high = Math.max(0, ...all);
    const width = 360, left = 104, right = 70, line = 21, top = 4;
    const height = top + kept.length * line + 34;
    const x = (v) => left + ((v - low) / (high - low || 1)) * (width - left - right);
    const chart = frame(width, height, kept.map((r) => `${r.channel} ${r.what} ${format(r.value)}${r.se ? " plus or minus " + format(1.96 * r.se, 2) : ""}`).join("; "));
    for (const t of ticks(low, high, 4)) {
      chart.append(svg("line", { x1: x(t), x2: x(t), y1: top, y2: height - 32, class: t === 0 ? "axis" : "grid" }));
      chart.append(text(x(t), height - 20, format(t, 2), { class: "tick", "text-anchor": "middle" }));
    }
    kept.forEach((row, n) => {
      const y = top + n * line + 3, x0 = x(0), x1 = x(row.value), middle = y + (line - 7) / 2;
      chart.append(text(left - 8, y + 11, `${row.channel} ${row.what}`, { class: "label", "text-anchor": "end" }));
      chart.append(svg("rect", { x: Math.min(x0, x1), y, width: Math.max(Math.abs(x1 - x0), 1), height: line - 7, rx: 2, fill: colour(row.channel), opacity: row.faint ? 0.55 : 1 }));
      const other = (lesion.beside || {})[row.column];
      if (other) chart.append(svg("rect", { x: x(other.low) - 2, y: y + line - 7, width: Math.max(x(other.high) - x(other.low), 0) + 4, height: 3, rx: 1, class: "controls" }));
      if (row.se) {
        const a = x(row.value - 1.96 * row.se), b = x(row.value + 1.96 * row.se);
        chart.append(svg("path", { d: `M${a} ${middle}H${b}M${a} ${middle - 3}v6M${b} ${middle - 3}v6`, class: "error" }));
      }
      const edge = Math.max(x0, x1, row.se ? x(row.value + 1.96 * row.se) : 0);
      chart.append(text(edge + 6, y + 11, LW.signed(row.value), { class: "value" }));
    });
    chart.append(text((left + width - right) / 2, height - 4, effects ? `${LW.target()} per SD brighter throughout` : LW.units(), { class: "tick", "text-anchor": "middle" }));
    host.append(chart);
    if (effects) host.append(element("p", { class: "legend" }, ...controlsKey(lesion, kept)));
    if (!effects) host.append(element("p", { class: "muted" }, LW.quantitative() ? "Values of single voxels: compare at equal lesion size only." : "This method locates but does not measure: its values do not compare."));
  };

  // What the strips below the bars are; without controls nothing says how strongly healthy tissue answers.
  function controlsKey(lesion, rows) {
    const other = rows.map((row) => (lesion.beside || {})[row.column]).find(Boolean);
    if (!other) return lesion.row.outcome === "TN" ? ["This is a control region."] : ["No control region beside it (--controls): how strongly healthy tissue answers is not known."];
    const key = svg("svg", { width: 26, height: 8, "aria-hidden": "true" });
    key.append(svg("rect", { x: 1, y: 2, width: 24, height: 3, class: "controls" }));
    return [element("span", {}, key, `${other.count} control region${other.count === 1 ? "" : "s"} of ${other.alike ? "this size" : "other sizes"}`)];
  }

  // Mean of the map against distance to the lesion's border, with quartiles; inside is shaded.
  LW.profileChart = (host, lesion, desc) => {
    host.replaceChildren();
    const meta = lesion.maps[desc];
    if (!meta) { host.append(element("p", { class: "muted" }, "No map for this lesion.")); return; }
    const width = 360, height = 206, left = 50, right = 10, top = 22, bottom = 34;
    const series = Object.entries(meta.profile);
    const points = series.flatMap(([, rows]) => rows);
    const low = Math.min(0, ...points.map((p) => p.low), ...points.map((p) => p.mean)), high = Math.max(0, ...points.map((p) => p.high), ...points.map((p) => p.mean));
    const near = Math.min(...points.map((p) => p.from)), far = Math.max(...points.map((p) => p.to));
    const x = (v) => left + ((v - near) / (far - near)) * (width - left - right);
    const y = (v) => height - bottom - ((v - low) / (high - low || 1)) * (height - top - bottom);
    const chart = frame(width, height, "Mean of the map against distance to the lesion's border: " + series.map(([channel, rows]) =>
      `${channel} ${rows.filter((p) => p.to <= 0).length ? format(mean(rows.filter((p) => p.to <= 0))) : "n/a"} inside, ${format(mean(rows.filter((p) => p.from >= 0 && p.to <= 3)))} within 3 mm outside`).join("; "));
    chart.append(svg("rect", { x: left, y: top, width: Math.max(x(0) - left, 0), height: height - top - bottom, class: "inside" }));
    for (const t of ticks(low, high, 4)) {
      chart.append(svg("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), class: t === 0 ? "axis" : "grid" }));
      chart.append(text(left - 5, y(t) + 4, format(t, 2), { class: "tick", "text-anchor": "end" }));
    }
    for (const t of ticks(near, far, 6)) chart.append(text(x(t), height - bottom + 14, format(t, 2), { class: "tick", "text-anchor": "middle" }));
    if (x(0) - left > 34) chart.append(text((left + x(0)) / 2, top - 8, "inside", { class: "tick", "text-anchor": "middle" }));
    chart.append(text((x(0) + width - right) / 2, top - 8, "around the lesion", { class: "tick", "text-anchor": "middle" }));
    chart.append(text((left + width - right) / 2, height - 4, "distance to the border, mm", { class: "tick", "text-anchor": "middle" }));
    chart.append(svg("line", { x1: x(0), x2: x(0), y1: top, y2: height - bottom, class: "axis", "stroke-dasharray": "3 2" }));
    host.append(element("p", { class: "caption" }, `Mean of the map, ${LW.units() || "no unit"}`));
    series.forEach(([channel, rows]) => {
      const mid = (p) => (p.from + p.to) / 2;
      const band = rows.map((p) => `${x(mid(p))} ${y(p.high)}`).concat(rows.slice().reverse().map((p) => `${x(mid(p))} ${y(p.low)}`));
      chart.append(svg("path", { d: `M${band.join("L")}Z`, fill: colour(channel), opacity: 0.18 }));
      chart.append(svg("path", { d: `M${rows.map((p) => `${x(mid(p))} ${y(p.mean)}`).join("L")}`, fill: "none", stroke: colour(channel), "stroke-width": 2.2, "stroke-dasharray": dash(channel) }));
      for (const [from, to, column] of [[0, 3, "mean_shell_0_3mm_"], [3, 7, "mean_shell_3_7mm_"]]) {
        const value = lesion.row[column + channel];
        if (desc === scene.descs[0] && typeof value === "number") chart.append(svg("path", { d: `M${x(from)} ${y(value)}H${x(to)}`, stroke: colour(channel), "stroke-width": 2, "stroke-dasharray": "2 3", fill: "none" }));
      }
    });
    host.append(chart, legend(series.map(([channel]) => channel), "line: mean, band: quartiles, dots: shells of the table"));
  };
  const mean = (rows) => rows.reduce((sum, p) => sum + p.mean * p.voxels, 0) / (rows.reduce((sum, p) => sum + p.voxels, 0) || 1);

  function legend(channels, note) {
    return element("p", { class: "legend" }, ...channels.map((channel) => {
      const key = svg("svg", { width: 26, height: 8, "aria-hidden": "true" });
      key.append(svg("path", { d: "M1 4H25", stroke: colour(channel), "stroke-width": 3, "stroke-dasharray": dash(channel) }));
      return element("span", {}, key, channel);
    }), element("span", { class: "muted" }, note));
  }

  // Where this lesion stands: a strip of points per metric and set, coloured by outcome.
  LW.distribution = (host, lesion, choose) => {
    host.replaceChildren();
    const metrics = [["volume_mm3", "Volume, mm³", true], ["probability_mean", "Mean probability", false],
      ...scene.map_channels.map((channel) => [`effect_in_${channel}`, `Effect of ${channel}, ${LW.target()}`, false])];
    for (const [metric, title, logarithmic] of metrics) {
      const values = scene.lesions.map((each) => [each.row[metric], each]).filter(([v]) => typeof v === "number" && (!logarithmic || v > 0));
      const mine = lesion.row[metric];
      if (values.length < 2 || typeof mine !== "number") continue;
      const others = scene.cohort && scene.cohort[metric] ? Object.entries(scene.cohort[metric]).flatMap(([outcome, list]) => list.map((v) => [v, outcome])).filter(([v]) => !logarithmic || v > 0) : [];
      const scale = logarithmic ? Math.log10 : (v) => v;
      const everything = values.map(([v]) => scale(v)).concat(others.map(([v]) => scale(v)));
      const low = Math.min(...everything), high = Math.max(...everything);
      const width = 360, left = 8, right = 8, height = others.length ? 66 : 44;
      const x = (v) => left + ((scale(v) - low) / (high - low || 1)) * (width - left - right);
      const rank = values.filter(([v]) => v > mine).length + 1;
      const place = `${rank} of ${values.length} in this scan, largest first`;
      const percentile = others.length ? `, above ${Math.round((100 * others.filter(([v]) => v < mine).length) / others.length)} % of the cohort` : "";
      const told = metric === "probability_mean" ? LW.certainty : logarithmic ? format : LW.signed;
      const chart = frame(width, height, `${title}: ${told(mine)}, ${place}${percentile}`);
      chart.append(svg("line", { x1: left, x2: width - right, y1: 14, y2: 14, class: "grid" }));
      values.forEach(([v, each]) => {
        const dot = svg("circle", { cx: x(v), cy: 14, r: 4, fill: LW.style(each.row.outcome).colour, class: "dot" });
        dot.addEventListener("click", () => choose(each.label));
        dot.append(svg("title"));
        dot.firstChild.textContent = `${LW.named(each)}: ${told(v)}`;
        chart.append(dot);
      });
      if (others.length) {
        chart.append(svg("line", { x1: left, x2: width - right, y1: 36, y2: 36, class: "grid" }));
        others.forEach(([v, outcome]) => chart.append(svg("circle", { cx: x(v), cy: 36, r: 2, fill: LW.style(outcome).colour, opacity: 0.5 })));
      }
      chart.append(svg("path", { d: `M${x(mine)} 2V${height - 18}`, class: "here" }));
      chart.append(svg("circle", { cx: x(mine), cy: 14, r: 6.5, fill: LW.style(lesion.row.outcome).colour, class: "mine" }));
      const lowest = logarithmic ? 10 ** low : low, highest = logarithmic ? 10 ** high : high;
      const inner = Math.min(Math.max(x(mine), 22), width - 22);
      if (inner > 84) chart.append(text(left, height - 4, logarithmic ? format(lowest, 2) : told(lowest), { class: "tick" }));
      if (inner < width - 84) chart.append(text(width - right, height - 4, logarithmic ? format(highest, 2) : told(highest), { class: "tick", "text-anchor": "end" }));
      chart.append(text(inner, height - 4, told(mine), { class: "value", "text-anchor": "middle" }));
      host.append(element("div", {}, element("p", { class: "caption" }, element("strong", {}, title), ` · ${place}${percentile}`), chart));
    }
  };
})((window.LW = window.LW || {}));
