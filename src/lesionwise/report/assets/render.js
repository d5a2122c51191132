// The 3-D view: NiiVue, unpacked only when it is asked for. The head is a translucent volume, lesions are solid.
(function (LW) {
  "use strict";
  const scene = LW.scene;
  let view = null;

  // A NIfTI-1 file in memory, so that NiiVue places the volume by the scan's own affine.
  function nifti(data, datatype, bits, affine, shape) {
    const mm = [0, 1, 2].map((axis) => Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]));
    const buffer = new ArrayBuffer(352 + data.byteLength);
    const header = new DataView(buffer);
    header.setInt32(0, 348, true);
    [3, ...shape, 1, 1, 1, 1].forEach((n, at) => header.setInt16(40 + 2 * at, n, true));
    header.setInt16(70, datatype, true);
    header.setInt16(72, bits, true);
    [1, ...mm].forEach((size, at) => header.setFloat32(76 + 4 * at, size, true));
    header.setFloat32(108, 352, true);
    header.setFloat32(112, 1, true);
    header.setUint8(123, 2);
    header.setInt16(254, 1, true);
    affine.slice(0, 3).flat().forEach((value, at) => header.setFloat32(280 + 4 * at, value, true));
    header.setUint8(344, 0x6e); header.setUint8(345, 0x2b); header.setUint8(346, 0x31);
    new Uint8Array(buffer, 352).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return buffer;
  }

  // Every second voxel, for speed on machines without a graphics card; labels keep the largest of each block of eight,
  // so that no small lesion is lost.
  function halved(array, wanted, largest) {
    if (!wanted) return [array, scene.shape, scene.affine];
    const [ni, nj, nk] = scene.shape, shape = scene.shape.map((n) => n >> 1), [hi, hj, hk] = shape;
    const small = new array.constructor(hi * hj * hk);
    for (let k = 0; k < hk; k++) for (let j = 0; j < hj; j++) for (let i = 0; i < hi; i++) {
      const at = 2 * i + ni * (2 * j + nj * 2 * k);
      let value = array[at];
      if (largest) for (const step of [1, ni, ni + 1, ni * nj, ni * nj + 1, ni * nj + ni, ni * nj + ni + 1]) value = Math.max(value, array[at + step]);
      small[i + hi * (j + hj * k)] = value;
    }
    const affine = scene.affine.map((row, r) => (r < 3 ? [2 * row[0], 2 * row[1], 2 * row[2], row[3] + 0.5 * (row[0] + row[1] + row[2])] : row));
    return [small, shape, affine];
  }

  async function library() {
    if (window.niivue) return window.niivue;
    const node = document.createElement("script");
    node.textContent = await LW.unpackText("packed-niivue");
    document.head.append(node);
    return window.niivue;
  }

  // Label 0 is clear; the chosen lesion has its outcome's colour, the others a shade of it that is half grey.
  function colours(label) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0] };
    for (const lesion of scene.lesions) {
      const hex = LW.style(lesion.row.outcome).colour;
      const chosen = lesion.label === label;
      const band = (at) => { const value = parseInt(hex.slice(at, at + 2), 16); return chosen ? value : Math.round(0.35 * value + 0.65 * 110); };
      table.R.push(band(1)); table.G.push(band(3)); table.B.push(band(5));
      table.A.push(chosen ? 255 : 110);
      table.I.push(lesion.label);
    }
    return table;
  }

  LW.render3d = {
    get open() { return view !== null; },

    async start(state, data) {
      const { Niivue, NVImage, SLICE_TYPE } = await library();
      const canvas = document.getElementById("render");
      const nv = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.6, isOrientationTextVisible: scene.sided, isOrientCube: scene.sided, logLevel: "error", dragAndDropEnabled: false, isColorbar: false });
      await nv.attachToCanvas(canvas);
      const channel = Object.keys(data.images)[0];
      const size = scene.shape.reduce((product, n) => product * n, 1);
      const [head, shape, affine] = halved(channel ? data.images[channel] : data.probability, size > 1e6, false);
      const make = async (array, name, options) => {
        const bits = array.BYTES_PER_ELEMENT * 8;
        const bytes = nifti(array, bits === 8 ? 2 : 512, bits, affine, shape);
        return NVImage.loadFromUrl({ url: bytes, name, ...options });
      };
      nv.addVolume(await make(head, "head.nii", { colormap: "gray", cal_min: 60, cal_max: 235, opacity: 1 }));
      const labels = await make(halved(data.labels, size > 1e6, true)[0], "lesions.nii", { opacity: 1 });
      nv.addVolume(labels);
      nv.setSliceType(SLICE_TYPE.RENDER);
      nv.setRenderAzimuthElevation(120, 18);
      view = { nv, labels };
      LW.view3d = nv;
      this.show(state);
    },

    show(state) {
      if (!view) return;
      const { nv, labels } = view;
      labels.setColormapLabel(colours(state.label));
      nv.scene.crosshairPos = state.voxel.map((v, axis) => (v + 0.5) / scene.shape[axis]);
      nv.volumes[0].opacity = 0.999;
      nv.updateGLVolume();
    },

    turn(azimuth, elevation) { if (view) view.nv.setRenderAzimuthElevation(azimuth, elevation); },
  };
})((window.LW = window.LW || {}));
