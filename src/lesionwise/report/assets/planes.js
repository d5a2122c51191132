// Three planes of each image, drawn voxel by voxel on a plain canvas: exact, and the same on every machine.
(function (LW) {
  "use strict";
  const scene = LW.scene;
  const [NI, NJ, NK] = scene.shape;
  const LUT = scene.palette.signed.map((rgba) => rgba);
  const HALF = (LUT.length - 1) / 2;

  // Which voxel axes run across and up, and the letters at the low and high end of each. All grids here are RAS.
  const PLANES = {
    axial: { across: 0, up: 1, through: 2, letters: ["L", "R", "P", "A"] },
    coronal: { across: 0, up: 2, through: 1, letters: ["L", "R", "I", "S"] },
    sagittal: { across: 1, up: 2, through: 0, letters: ["P", "A", "I", "S"] },
  };
  LW.PLANES = PLANES;

  // Paper shows square planes of this side, in mm: three beside one another, and room for all images on one page.
  const PRINT_DPI = 300;
  LW.printSide = (images, single) => (single ? 112 : Math.min(58, 106 / images));

  // Levels drawn black and white: those of the page until a reader moves them.
  LW.window = (state, channel) => state.windows[channel] || [0, scene.volumes.images[channel] ? scene.volumes.images[channel].white : 255];

  // Lines of equal probability; the thick one is the threshold above which the network calls a lesion.
  LW.isolines = () => {
    const t = scene.threshold || 0.5;
    return [{ level: t / 2, dash: [1, 3], width: 1 }, { level: t, dash: [], width: 1.6 }, { level: (1 + t) / 2, dash: [5, 2], width: 1 }];
  };

  // True if the high end of the horizontal axis is drawn on the left.
  const mirrored = (plane, state) => (plane.across === 0 ? state.convention === "radiological" : true);

  LW.SlicePanel = class {
    constructor(canvas, planeName, channel, data) {
      this.canvas = canvas;
      this.plane = PLANES[planeName];
      this.planeName = planeName;
      this.channel = channel;
      this.data = data;
      this.size = [scene.shape[this.plane.across], scene.shape[this.plane.up]];
      this.base = LW.element("canvas");
      this.over = LW.element("canvas");
      [this.base.width, this.base.height] = this.size;
      [this.over.width, this.over.height] = this.size;
    }

    // Geometry of this panel: pixels per mm, and the voxel coordinate in the middle.
    view(state) {
      const { width, height } = this.canvas;
      const [a, b] = [this.plane.across, this.plane.up];
      const whole = Math.max(scene.shape[a] * scene.voxel_mm[a] / width, scene.shape[b] * scene.voxel_mm[b] / height);
      // Every panel of the page shares one scale: that of the tightest fit.
      const fov = state.fov_mm;
      const perMm = fov ? Math.min(width, height) / fov : 1 / whole;
      const middle = fov ? [state.centre[a], state.centre[b]] : [(scene.shape[a] - 1) / 2, (scene.shape[b] - 1) / 2];
      return { sx: perMm * scene.voxel_mm[a], sy: perMm * scene.voxel_mm[b], perMm, middle, flip: mirrored(this.plane, state), width, height };
    }

    // Canvas position of a voxel coordinate (centre of the voxel at whole numbers).
    place(view, u, v) {
      const x = (u - view.middle[0]) * view.sx * (view.flip ? -1 : 1);
      return [view.width / 2 + x, view.height / 2 - (v - view.middle[1]) * view.sy];
    }

    // Voxel of the frame below a canvas position.
    pick(state, x, y) {
      const view = this.view(state);
      const u = ((x - view.width / 2) * (view.flip ? -1 : 1)) / view.sx + view.middle[0];
      const v = (view.height / 2 - y) / view.sy + view.middle[1];
      const voxel = state.voxel.slice();
      voxel[this.plane.across] = Math.min(Math.max(Math.round(u), 0), this.size[0] - 1);
      voxel[this.plane.up] = Math.min(Math.max(Math.round(v), 0), this.size[1] - 1);
      return voxel;
    }

    // Index of voxel (u, v) of the current slice, and the steps along both axes.
    strides() {
      const step = [1, NI, NI * NJ];
      return [step[this.plane.across], step[this.plane.up], step[this.plane.through]];
    }

    draw(state) {
      const ratio = state.print_mm ? PRINT_DPI / 96 : window.devicePixelRatio || 1;
      const printed = state.print_mm ? Math.round((state.print_mm / 25.4) * PRINT_DPI) : null;
      const wide = printed || Math.round(this.canvas.clientWidth * ratio), high = printed || Math.round(this.canvas.clientHeight * ratio);
      if (!wide || !high) return;
      if (this.canvas.width !== wide || this.canvas.height !== high) { this.canvas.width = wide; this.canvas.height = high; }
      const context = this.canvas.getContext("2d");
      const view = this.view(state);
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "#000";
      context.fillRect(0, 0, wide, high);
      this.paintBase(state);
      this.paintOver(state);
      context.imageSmoothingEnabled = state.smooth;
      context.imageSmoothingQuality = "high";
      this.blit(context, view, this.base);
      context.imageSmoothingEnabled = false;
      this.blit(context, view, this.over);
      this.contours(context, view, state, ratio);
      if (state.contours) this.likelyMisses(context, view, state, ratio);
      if (state.crosshair) this.crosshair(context, view, state, ratio);
      if (state.fov_mm) this.locator(context, view, state, ratio);
      this.annotate(context, view, ratio);
    }

    blit(context, view, picture) {
      const [x, y] = this.place(view, -0.5, this.size[1] - 0.5);
      context.save();
      context.translate(x, y);
      context.scale(view.flip ? -1 : 1, 1);
      context.drawImage(picture, 0, 0, this.size[0] * view.sx, this.size[1] * view.sy);
      context.restore();
    }

    paintBase(state) {
      const [nu, nv] = this.size, [su, sv, st] = this.strides();
      const context = this.base.getContext("2d");
      const picture = context.createImageData(nu, nv);
      const image = this.data.images[this.channel];
      const origin = state.voxel[this.plane.through] * st;
      const [black, white] = LW.window(state, this.channel);
      for (let v = 0; v < nv; v++) {
        for (let u = 0; u < nu; u++) {
          const n = 4 * (u + nu * (nv - 1 - v));
          const grey = image ? Math.max(0, Math.min(255, (image[origin + u * su + v * sv] - black) * 255 / (white - black))) : 0;
          picture.data[n] = picture.data[n + 1] = picture.data[n + 2] = grey;
          picture.data[n + 3] = 255;
        }
      }
      context.putImageData(picture, 0, 0);
    }

    paintOver(state) {
      const [nu, nv] = this.size;
      const context = this.over.getContext("2d");
      const picture = context.createImageData(nu, nv);
      const through = state.voxel[this.plane.through];
      const map = state.map, channel = this.mapChannel(state);
      if (map && channel) {
        const { across, up, through: t } = this.plane;
        const position = [0, 0, 0];
        position[t] = through;
        const from = [map.start[across], map.start[up]];
        for (let v = from[1]; v < from[1] + map.shape[up]; v++) for (let u = from[0]; u < from[0] + map.shape[across]; u++) {
          position[across] = u;
          position[up] = v;
          const value = (state.blur ? map.smooth : map).at(channel, position[0], position[1], position[2], state.snr);
          const share = Math.abs(value) / state.limit;
          if (share === 0 || share < state.threshold) continue;
          const rgba = LUT[Math.round(HALF + HALF * Math.max(-1, Math.min(1, value / state.limit)))];
          picture.data.set([rgba[0], rgba[1], rgba[2], rgba[3] * state.opacity], 4 * (u + nu * (nv - 1 - v)));
        }
      }
      context.putImageData(picture, 0, 0);
    }

    mapChannel(state) {
      if (!state.map || state.mapChannel === "none") return null;
      const wanted = state.mapChannel === "own" ? this.channel : state.mapChannel;
      return state.map.names.includes(wanted) ? wanted : state.map.names.length === 1 ? state.map.names[0] : null;
    }

    // Outlines along voxel edges: where the label changes between neighbours of this slice.
    contours(context, view, state, ratio) {
      if (!state.contours && !state.reference && !state.probability) return;
      const [nu, nv] = this.size, [su, sv, st] = this.strides();
      const origin = state.voxel[this.plane.through] * st;
      const trace = (array, match) => {
        const path = new Path2D();
        const inside = (u, v) => u >= 0 && v >= 0 && u < nu && v < nv && match(array[origin + u * su + v * sv]);
        for (let v = 0; v <= nv; v++) for (let u = 0; u <= nu; u++) {
          const here = inside(u, v);
          if (here !== inside(u - 1, v)) { path.moveTo(...this.place(view, u - 0.5, v - 0.5)); path.lineTo(...this.place(view, u - 0.5, v + 0.5)); }
          if (here !== inside(u, v - 1)) { path.moveTo(...this.place(view, u - 0.5, v - 0.5)); path.lineTo(...this.place(view, u + 0.5, v - 0.5)); }
        }
        return path;
      };
      context.lineCap = "round";
      if (state.contours) {
        const present = new Set();
        for (let v = 0; v < nv; v++) for (let u = 0; u < nu; u++) {
          const label = this.data.labels[origin + u * su + v * sv];
          if (label) present.add(label);
        }
        for (const label of present) {
          const lesion = LW.byLabel.get(label);
          const style = LW.style(lesion ? lesion.row.outcome : null);
          const chosen = label === state.label;
          const path = trace(this.data.labels, (value) => value === label);
          context.setLineDash([]);
          context.strokeStyle = "rgba(0,0,0,0.55)";
          context.lineWidth = (chosen ? 4 : 2.2) * ratio;
          context.stroke(path);
          context.setLineDash(style.dash ? style.dash.map((d) => d * ratio) : []);
          context.strokeStyle = style.colour;
          context.globalAlpha = chosen ? 1 : 0.8;
          context.lineWidth = (chosen ? 2.2 : 1.1) * ratio;
          context.stroke(path);
          context.globalAlpha = 1;
        }
      }
      if (state.probability && this.data.probability) {
        for (const { level, dash, width } of LW.isolines()) {
          context.setLineDash([]);
          context.strokeStyle = "rgba(0,0,0,0.6)";
          context.lineWidth = (width + 1.2) * ratio;
          const path = trace(this.data.probability, (value) => value > 255 * level);
          context.stroke(path);
          context.setLineDash(dash.map((d) => d * ratio));
          context.strokeStyle = "#f2f2f2";
          context.lineWidth = width * ratio;
          context.stroke(path);
        }
      }
      if (state.reference && this.data.reference) {
        context.setLineDash([1.5 * ratio, 2.5 * ratio]);
        context.strokeStyle = "#fff";
        context.lineWidth = 1.3 * ratio;
        context.stroke(trace(this.data.reference, (value) => value > 0));
      }
      context.setLineDash([]);
    }

    crosshair(context, view, state, ratio) {
      const [x, y] = this.place(view, state.voxel[this.plane.across], state.voxel[this.plane.up]);
      const gap = Math.max(14 * ratio, 0.09 * Math.min(view.width, view.height));
      context.strokeStyle = "rgba(255,255,255,0.4)";
      context.lineWidth = ratio;
      context.beginPath();
      for (const [a, b, c, d] of [[x, 0, x, y - gap], [x, y + gap, x, view.height], [0, y, x - gap, y], [x + gap, y, view.width, y]]) {
        context.moveTo(Math.round(a) + 0.5, Math.round(b) + 0.5);
        context.lineTo(Math.round(c) + 0.5, Math.round(d) + 0.5);
      }
      context.stroke();
    }

    // A dashed ring with its rank around each likely miss near this slice; the one that is looked at is drawn solid.
    likelyMisses(context, view, state, ratio) {
      const { across, up, through } = this.plane;
      for (const miss of scene.likely_misses) {
        if (!miss.voxel) continue;
        const chosen = state.miss === miss;
        const away = Math.abs(miss.voxel[through] - state.voxel[through]) * scene.voxel_mm[through];
        if (away > Math.max(miss.radius_mm, 1.5)) continue;
        const [x, y] = this.place(view, miss.voxel[across], miss.voxel[up]);
        const radius = (miss.radius_mm + 3) * view.perMm;
        for (const [colour, width, dash] of [["rgba(0,0,0,0.6)", 3.2, []], ["#fff", 1.5, chosen ? [] : [3 * ratio, 3 * ratio]]]) {
          context.setLineDash(dash);
          context.strokeStyle = colour;
          context.lineWidth = width * ratio;
          context.beginPath();
          context.arc(x, y, radius, 0, 2 * Math.PI);
          context.stroke();
        }
        context.setLineDash([]);
        context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
        context.textAlign = "left";
        context.textBaseline = "bottom";
        context.strokeStyle = "rgba(0,0,0,0.75)";
        context.lineWidth = 3 * ratio;
        context.fillStyle = "#fff";
        const at = [x + 0.75 * radius, y - 0.75 * radius];
        context.strokeText(String(miss.rank), ...at);
        context.fillText(String(miss.rank), ...at);
      }
    }

    // The whole slice, small, with the part that is shown.
    locator(context, view, state, ratio) {
      const [a, b] = [this.plane.across, this.plane.up];
      const mm = [this.size[0] * scene.voxel_mm[a], this.size[1] * scene.voxel_mm[b]];
      const scale = (0.27 * Math.min(view.width, view.height)) / Math.max(...mm);
      const [w, h] = mm.map((length) => length * scale);
      const left = view.width - w - 7 * ratio, top = view.height - h - 7 * ratio;
      context.save();
      context.beginPath();
      context.rect(left, top, w, h);
      context.fillStyle = "#000";
      context.fill();
      context.clip();
      context.save();
      if (view.flip) { context.translate(left + w, top); context.scale(-1, 1); } else context.translate(left, top);
      context.globalAlpha = 0.85;
      context.drawImage(this.base, 0, 0, w, h);
      context.restore();
      const shown = [view.width / view.perMm * scale, view.height / view.perMm * scale];
      const u = ((view.middle[0] + 0.5) / this.size[0]) * w, v = ((view.middle[1] + 0.5) / this.size[1]) * h;
      const cx = left + (view.flip ? w - u : u), cy = top + h - v;
      context.strokeStyle = LW.style(state.lesion ? state.lesion.row.outcome : null).colour;
      context.lineWidth = 1.4 * ratio;
      context.strokeRect(cx - shown[0] / 2, cy - shown[1] / 2, shown[0], shown[1]);
      context.restore();
      context.strokeStyle = "rgba(255,255,255,0.35)";
      context.lineWidth = ratio;
      context.strokeRect(left, top, w, h);
    }

    annotate(context, view, ratio) {
      const [low, high, bottom, top] = scene.sided ? this.plane.letters : ["", "", "", ""];
      const [left, right] = view.flip ? [high, low] : [low, high];
      context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
      context.lineWidth = 3 * ratio;
      context.strokeStyle = "rgba(0,0,0,0.75)";
      context.fillStyle = "#e8e8ea";
      const write = (text, x, y, align, baseline) => {
        context.textAlign = align;
        context.textBaseline = baseline;
        context.strokeText(text, x, y);
        context.fillText(text, x, y);
      };
      const edge = 6 * ratio;
      write(left, edge, view.height / 2, "left", "middle");
      write(right, view.width - edge, view.height / 2, "right", "middle");
      write(top, view.width / 2, edge, "center", "top");
      write(bottom, view.width / 2, view.height - edge, "center", "bottom");
      // A length bar of a round number of mm, about a fifth of the panel.
      const length = [1, 2, 5, 10, 20, 50].filter((mm) => mm * view.perMm <= view.width * 0.26).pop() || 1;
      const y = view.height - 10 * ratio, x = 9 * ratio;
      context.strokeStyle = "#e8e8ea";
      context.lineWidth = 2 * ratio;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + length * view.perMm, y);
      context.stroke();
      context.font = `${11 * ratio}px system-ui, sans-serif`;
      context.lineWidth = 3 * ratio;
      context.strokeStyle = "rgba(0,0,0,0.75)";
      write(`${length} mm`, x, y - 4 * ratio, "left", "bottom");
    }
  };
})((window.LW = window.LW || {}));
