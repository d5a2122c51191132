// The page's data: JSON that stands in it, and arrays that are unpacked (or fetched from our own server) when needed.
(function (LW) {
  "use strict";
  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, int8: Int8Array, int16: Int16Array };
  const promises = new Map();

  LW.scene = JSON.parse(document.getElementById("scene").textContent);

  function fromBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let n = 0; n < binary.length; n++) bytes[n] = binary.charCodeAt(n);
    return bytes;
  }

  async function gunzip(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  LW.unpackText = async (id) => {
    const bytes = fromBase64(document.getElementById(id).textContent.trim());
    return new TextDecoder().decode(await gunzip(bytes));
  };

  // A typed array for a description {key | url, dtype, shape}; each is unpacked once.
  LW.array = (description) => {
    const name = description.key || description.url;
    if (!promises.has(name)) {
      promises.set(name, (async () => {
        const bytes = description.url
          ? new Uint8Array(await (await fetch(description.url)).arrayBuffer())
          : fromBase64(document.getElementById("blob-" + description.key).textContent);
        return new TYPES[description.dtype](await gunzip(bytes));
      })());
    }
    return promises.get(name);
  };

  // An image that was embedded in blocks of `step` voxels, back on the frame's own grid.
  LW.widened = (small, { step, shape }) => {
    if (step === 1) return small;
    const [ni, nj, nk] = LW.scene.shape, [hi, hj] = shape;
    const full = new Uint8Array(ni * nj * nk);
    let n = 0;
    for (let k = 0; k < nk; k++) for (let j = 0; j < nj; j++) {
      const row = hi * (Math.floor(j / step) + hj * Math.floor(k / step));
      for (let i = 0; i < ni; i++) full[n++] = small[row + Math.floor(i / step)];
    }
    return full;
  };

  // One lesion's map by one method: signed values per channel, on a crop that starts at `start` of the frame.
  LW.loadMap = async (lesion, desc) => {
    const meta = lesion && lesion.maps[desc];
    if (!meta || !meta.values) return null;
    if (meta.loaded) return meta.loaded;
    const coded = await LW.array(meta.values);
    const [ni, nj, nk] = meta.values.shape;
    const size = ni * nj * nk;
    const channels = {};
    meta.channels.forEach((channel, c) => {
      const values = new Float32Array(size);
      const scale = meta.scales[c];
      for (let n = 0; n < size; n++) {
        const q = coded[c * size + n];
        values[n] = meta.values.dtype === "int16"
          ? (q / 32767) * scale
          : Math.sign(q) * (q / 127) * (q / 127) * scale;
      }
      channels[channel] = values;
    });
    const snr = meta.snr ? await LW.array(meta.snr) : null;
    const index = Object.fromEntries(meta.channels.map((channel, c) => [channel, c]));
    meta.loaded = {
      start: meta.start, shape: [ni, nj, nk], size, channels, names: meta.channels,
      // Value at a voxel of the frame; 0 outside the crop and where the signal-to-noise is below `snrMin`.
      at(channel, i, j, k, snrMin) {
        const a = i - meta.start[0], b = j - meta.start[1], c = k - meta.start[2];
        if (a < 0 || b < 0 || c < 0 || a >= ni || b >= nj || c >= nk) return 0;
        const n = a + ni * (b + nj * c);
        if (snr && snrMin > 0 && snr[index[channel] * size + n] * LW.scene.snr_step < snrMin) return 0;
        return channels[channel][n];
      },
    };
    meta.loaded.smooth = { at: (...where) => smoothed(meta.loaded).at(...where) };
    return meta.loaded;
  };

  // For display only: the map blurred by a Gaussian of 3 mm (full width at half maximum), made when it is asked for.
  function smoothed(map) {
    if (map.blurred) return map.blurred;
    const channels = {};
    for (const channel of map.names) {
      let values = map.channels[channel];
      const steps = [1, map.shape[0], map.shape[0] * map.shape[1]];
      for (let axis = 0; axis < 3; axis++) values = blurredAlong(values, map.shape, steps, axis, 3 / 2.3548 / LW.scene.voxel_mm[axis]);
      channels[channel] = values;
    }
    const [ni, nj, nk] = map.shape;
    map.blurred = {
      at(channel, i, j, k) {
        const a = i - map.start[0], b = j - map.start[1], c = k - map.start[2];
        if (a < 0 || b < 0 || c < 0 || a >= ni || b >= nj || c >= nk) return 0;
        return channels[channel][a + ni * (b + nj * c)];
      },
    };
    return map.blurred;
  }

  function blurredAlong(values, shape, steps, axis, sigma) {
    const reach = Math.ceil(3 * sigma), weights = [];
    for (let d = -reach; d <= reach; d++) weights.push(Math.exp((-d * d) / (2 * sigma * sigma)));
    const total = weights.reduce((sum, w) => sum + w, 0), out = new Float32Array(values.length), n = shape[axis], step = steps[axis];
    for (let at = 0; at < values.length; at++) {
      const place = Math.floor(at / step) % n;
      let sum = 0;
      for (let d = -reach; d <= reach; d++) if (place + d >= 0 && place + d < n) sum += weights[d + reach] * values[at + d * step];
      out[at] = sum / total;
    }
    return out;
  }

  LW.toMm = (v) => LW.scene.affine.slice(0, 3).map((r) => r[0] * v[0] + r[1] * v[1] + r[2] * v[2] + r[3]);
  LW.toSource = (v) => LW.scene.to_source.slice(0, 3).map((r) => Math.round(r[0] * v[0] + r[1] * v[1] + r[2] * v[2] + r[3]));

  LW.format = (value, digits = 3) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "n/a";
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en").replace(/,/g, "\u202f").replace("-", "−");
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1).replace("e+", "e") : String(Number(value.toPrecision(digits)));
    return text.replace(/-/g, "−");
  };

  // A probability is never told as nothing or all where two digits would round it there.
  LW.certainty = (p) => (p > 0.99 ? "> 0.99" : p < 0.01 ? "< 0.01" : p.toFixed(2));

  // A change: its sign, and decimals enough to compare a column by eye.
  LW.signed = (value) => {
    if (typeof value !== "number") return "n/a";
    const size = Math.abs(value), text = size >= 0.005 ? size.toFixed(size >= 10 ? 1 : 2) : LW.format(size, 2);
    return (value < 0 ? "−" : "+") + text;
  };

  LW.element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };

  LW.svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  LW.named = (lesion) => `${lesion.row.outcome === "TN" ? "control region" : "lesion"} ${lesion.label}`;
  LW.style = (outcome) => LW.scene.palette.outcomes[outcome || "n/a"];
})((window.LW = window.LW || {}));
