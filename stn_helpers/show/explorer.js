// The explorer: a window on a picture, to be moved by hand. `mount(element, options, onChange)` is all that a host calls.
// explorer.html is one host, a page without a kernel; widget.js is the other, an anywidget. Nothing here is fetched.
"use strict";

// core: begin
// Numbers only, no page: the tests run this part alone and compare it with the package.
const core = (() => {
  // theta, 3 x 3 row by row: the window as theta.affine builds it, and the tilt that goes before it.
  const matrix = (at, aspect) => {
    const angle = at.angle * Math.PI / 180, cos = Math.cos(angle), sin = Math.sin(angle);
    const [px, py] = [at.perspective_x, at.perspective_y];
    const window = [
      [cos * at.scale_x, (cos * at.shear - sin) * at.scale_y / aspect, at.shift_x],
      [sin * at.scale_x * aspect, (sin * at.shear + cos) * at.scale_y, at.shift_y],
      [0, 0, 1],
    ];
    return window.flatMap(([a, b, c]) => [a + c * px, b + c * py, c]);
  };

  // Pixel centres, align_corners=False: -1 and 1 are the outer edges of the first and last pixel.
  const centre = (index, count) => (2 * index + 1) / count - 1;

  // Where every target pixel looks in the source: x, y, x, y ... row by row.
  const matrixGrid = (m, height, width) => {
    const grid = new Float32Array(2 * height * width);
    for (let i = 0, at = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const x = centre(j, width), y = centre(i, height), w = m[6] * x + m[7] * y + m[8];
        grid[at++] = (m[0] * x + m[1] * y + m[2]) / w;
        grid[at++] = (m[3] * x + m[4] * y + m[5]) / w;
      }
    }
    return grid;
  };

  // U(r) = r^2 log r^2 around each knot, then 1, x, y.
  const basis = (x, y, knots) => {
    const bends = knots.map(([a, b]) => {
      const squared = (x - a) ** 2 + (y - b) ** 2;
      return squared > 0 ? squared * Math.log(squared) : 0;
    });
    return [...bends, 1, x, y];
  };

  // Gauss and Jordan, the largest pivot first.
  const inverse = square => {
    const n = square.length, rows = square.map((row, i) => [...row, ...row.map((_, j) => Number(i === j))]);
    for (let k = 0; k < n; k++) {
      let best = k;
      for (let i = k; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
      [rows[k], rows[best]] = [rows[best], rows[k]];
      const pivot = rows[k][k];
      rows[k] = rows[k].map(value => value / pivot);
      for (let i = 0; i < n; i++) {
        const factor = rows[i][k];
        if (i !== k && factor !== 0) rows[i] = rows[i].map((value, j) => value - factor * rows[k][j]);
      }
    }
    return rows.map(row => row.slice(n));
  };

  // The plate on K x K knots, solved once: it passes through every knot and does not bend at infinity.
  const plate = k => {
    const knots = Array.from({length: k * k}, (_, i) => [2 * (i % k) / (k - 1) - 1, 2 * Math.floor(i / k) / (k - 1) - 1]);
    const upper = knots.map(([x, y]) => basis(x, y, knots)), count = knots.length;
    const side = [0, 1, 2].map(row => [...upper.map(line => line[count + row]), 0, 0, 0]);
    return {knots, kernel: upper.map(line => line.slice(0, count)), solved: inverse([...upper, ...side])};
  };

  // How much each knot moves each target pixel, K^2 numbers a pixel: the same wherever the knots look.
  const plateWeights = ({knots, solved}, height, width) => {
    const count = knots.length, weights = new Float64Array(height * width * count);
    for (let i = 0, at = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const values = basis(centre(j, width), centre(i, height), knots);
        for (let k = 0; k < count; k++) weights[at++] = values.reduce((sum, value, row) => sum + value * solved[row][k], 0);
      }
    }
    return weights;
  };

  // places: where each knot looks, x, y, x, y ...
  const plateGrid = (weights, places) => {
    const count = places.length / 2, grid = new Float32Array(2 * weights.length / count);
    for (let at = 0, from = 0; at < grid.length; at += 2) {
      let x = 0, y = 0;
      for (let k = 0; k < count; k++, from++) {
        x += weights[from] * places[2 * k];
        y += weights[from] * places[2 * k + 1];
      }
      grid[at] = x;
      grid[at + 1] = y;
    }
    return grid;
  };

  // The affine part (2 x 3 row by row), how hard each knot bends the plate, and the energy of it all.
  const plateParts = ({knots, kernel, solved}, places) => {
    const rows = solved.map(row => [0, 1].map(axis => knots.reduce((sum, _, k) => sum + row[k] * places[2 * k + axis], 0)));
    const bends = rows.slice(0, knots.length), [constant, x, y] = rows.slice(knots.length);
    const energy = (one, i) => bends.reduce((sum, other, j) => sum + kernel[i][j] * (one[0] * other[0] + one[1] * other[1]), 0);
    return {
      flat: [x[0], y[0], constant[0], x[1], y[1], constant[1]],
      bends: bends.map(([a, b]) => Math.hypot(a, b)),
      energy: 16 * Math.PI * bends.reduce((sum, one, i) => sum + energy(one, i), 0),
    };
  };

  // A place outside, in pixels, brought back inside. Not finite is not greater either: it reads the first pixel.
  const inside = (place, count, padding) => {
    if (padding === "reflection") {
      const far = Math.abs(place + .5) % (2 * count);
      place = Math.min(far, 2 * count - far) - .5;
    }
    return place > 0 ? Math.min(place, count - 1) : 0;
  };

  // The bilinear sampler. source: {data: RGBA, height, width}; out: RGBA bytes, one pixel for each place of the grid.
  const sample = ({data, height, width}, grid, padding, out) => {
    for (let at = 0; at < out.length; at += 4) {
      let x = ((grid[at / 2] + 1) * width - 1) / 2, y = ((grid[at / 2 + 1] + 1) * height - 1) / 2;
      out[at + 3] = 255;
      if (padding !== "zeros") {
        x = inside(x, width, padding);
        y = inside(y, height, padding);
      } else if (!(x > -1 && x < width && y > -1 && y < height)) {
        out[at] = out[at + 1] = out[at + 2] = 0;
        continue;
      }
      const left = Math.floor(x), top = Math.floor(y);
      // A neighbour outside the source weighs nothing.
      const west = left < 0 ? 0 : left + 1 - x, east = left + 1 < width ? x - left : 0;
      const north = top < 0 ? 0 : top + 1 - y, south = top + 1 < height ? y - top : 0;
      const a = 4 * (Math.max(top, 0) * width + Math.max(left, 0));
      const b = a + (left >= 0 && left + 1 < width ? 4 : 0);
      const down = top >= 0 && top + 1 < height ? 4 * width : 0;
      for (let c = 0; c < 3; c++) {
        const above = west * data[a + c] + east * data[b + c];
        const below = west * data[a + down + c] + east * data[b + down + c];
        out[at + c] = north * above + south * below;
      }
    }
  };

  // A source whose pixels are means over one step of the samples, or the source itself where no step is larger than a pixel.
  // The window is odd, so that nothing moves; the edge is repeated.
  const smooth = (source, step) => {
    if (step <= 1) return source;
    const {data, height, width} = source, half = Math.max(1, Math.round((step - 1) / 2)), many = 2 * half + 1;
    const pass = (from, count, apart, lines, between) => {
      const to = new Float32Array(from.length);
      for (let line = 0; line < lines; line++) for (let c = 0; c < 3; c++) {
        const first = 4 * line * between + c, at = i => from[first + 4 * apart * Math.max(0, Math.min(count - 1, i))];
        let sum = 0;
        for (let i = -half; i <= half; i++) sum += at(i);
        for (let i = 0; i < count; i++) {
          to[first + 4 * apart * i] = sum / many;
          sum += at(i + half + 1) - at(i - half);
        }
      }
      return to;
    };
    return {height, width, data: pass(pass(data, width, 1, height, width), height, width, width, 1)};
  };

  // Where theta sends one place.
  const through = (m, x, y) => {
    const w = m[6] * x + m[7] * y + m[8];
    return [(m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w];
  };

  const times = (a, b) => Array.from({length: 9}, (_, at) => {
    const row = 3 * Math.floor(at / 3), column = at % 3;
    return a[row] * b[column] + a[row + 1] * b[column + 3] + a[row + 2] * b[column + 6];
  });

  const inverted = m => inverse([m.slice(0, 3), m.slice(3, 6), m.slice(6, 9)]).flat();

  // The sliders that say this theta. Two say the same window, half a turn apart: the one that is nearer to `before` is meant.
  const sliders = (theta, aspect, before) => {
    const m = theta.map(value => value / theta[8]), [px, py, x, y] = [m[6], m[7], m[2], m[5]];
    const a = m[0] - x * px, b = (m[1] - x * py) * aspect, c = (m[3] - y * px) / aspect, d = m[4] - y * py;
    const wide = Math.hypot(a, c), found = wide > 1e-9 ? Math.atan2(c, a) : before.angle * Math.PI / 180;
    const away = Math.abs((found * 180 / Math.PI - before.angle + 540) % 360 - 180), turn = away > 90;
    const angle = turn ? found + Math.PI : found, cos = Math.cos(angle), sin = Math.sin(angle);
    const high = cos * d - sin * b, degrees = angle * 180 / Math.PI;
    return {
      angle: degrees > 180 ? degrees - 360 : degrees, scale_x: turn ? -wide : wide, scale_y: high,
      shear: Math.abs(high) > 1e-9 ? (cos * b + sin * d) / high : 0, shift_x: x, shift_y: y, perspective_x: px, perspective_y: py,
    };
  };

  const CORNERS = [[-1, -1], [1, -1], [1, 1], [-1, 1]];

  // The theta that sends the target's corners to four places; null where they are no convex four.
  const homography = places => {
    const turns = places.map(([x, y], i) => {
      const [[a, b], [c, d]] = [places[(i + 1) % 4], places[(i + 2) % 4]];
      return (a - x) * (d - b) - (b - y) * (c - a);
    });
    if (!(Math.min(...turns) > 0.01 || Math.max(...turns) < -0.01)) return null;
    const rows = places.flatMap(([u, v], i) => {
      const [x, y] = CORNERS[i];
      return [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]];
    });
    const goal = places.flat(), solved = inverse(rows);
    return [...solved.map(row => row.reduce((sum, value, i) => sum + value * goal[i], 0)), 1];
  };

  // The four pixels that are mixed at a place (u, v), [{column, row, weight}], as `sample` mixes them where nothing is zero.
  const neighbours = (u, v, height, width, padding) => {
    const x = inside(((u + 1) * width - 1) / 2, width, padding), y = inside(((v + 1) * height - 1) / 2, height, padding);
    const [left, top] = [Math.floor(x), Math.floor(y)];
    return [[0, 0], [1, 0], [0, 1], [1, 1]].map(([i, j]) => ({
      column: Math.min(left + i, width - 1), row: Math.min(top + j, height - 1),
      weight: (i ? x - left : left + 1 - x) * (j ? y - top : top + 1 - y),
    }));
  };

  return {matrix, matrixGrid, plate, plateWeights, plateGrid, plateParts, sample, smooth, through, times, inverted, sliders, homography,
    neighbours, CORNERS};
})();
// core: end

const RED = "#D55E00", BLUE = "#0072B2", YELLOW = "#F0E442"; // Okabe and Ito, as in all figures of the series
const SIDE = 128; // pixels of the target's longer side; a larger picture of the reader's own has LARGE
const LARGE = 256;
const PADDINGS = ["border", "zeros", "reflection"];
const STILL = {angle: 0, scale_x: 1, scale_y: 1, shear: 0, shift_x: 0, shift_y: 0, perspective_x: 0, perspective_y: 0};
const ROOM = 1.5; // the source is drawn with room around it, from -ROOM to ROOM, and more where the window reaches further
const FAR = 6; // the most that is drawn around the middle; a mark beyond waits at the edge
const REACH = 26; // how near to a handle a pointer has to be, in pixels of the page

const STYLE = `
:host { display: block; container-type: inline-size; }
section { --ink: #1f2328; --soft: #57606a; --ground: #ffffff; --raised: #f3f5f7; --line: #8c959f; --faint: #d8dee4;
  --accent: #0072b2; --strong: #005b8f; --on: #ffffff; color-scheme: light; box-sizing: border-box; max-width: 76rem; margin: 0;
  padding: 14px; color: var(--ink); background: var(--ground); border: 1px solid var(--faint); border-radius: 12px;
  text-align: left; font: 400 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
section[data-dark] { --ink: #e6e8ea; --soft: #a9b3bd; --ground: #1c2025; --raised: #2a3038; --line: #7d8790; --faint: #39414a;
  --accent: #56b4e9; --strong: #6cc3f5; --on: #10181f; color-scheme: dark; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
button, select, input { font: inherit; color: inherit; }
button, select { min-height: 44px; background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: 4px 12px;
  cursor: pointer; }
button:hover { border-color: var(--accent); }
button[aria-pressed=true], .first { background: var(--strong); color: var(--on); border-color: var(--strong); }
button:disabled { opacity: .45; cursor: default; }
.body { display: flex; flex-direction: column; gap: 12px; }
.left { display: contents; }
.stage { position: sticky; top: var(--stn-top, 0px); z-index: 2; background: var(--ground); padding-bottom: 6px; }
.figures { display: grid; grid-template-columns: 3fr 2fr; column-gap: 12px; }
figure { display: contents; }
.frame { position: relative; grid-row: 1; align-self: center; background: #fff; line-height: 0; }
.frame.around { outline: 1px solid var(--faint); aspect-ratio: 1; overflow: hidden; touch-action: none; border-radius: 6px;
  user-select: none; -webkit-user-select: none; }
.around canvas { width: 100%; height: 100%; }
.sight { justify-self: center; border-top: 4px solid ${BLUE}; margin-top: -4px; cursor: crosshair; touch-action: pan-y; }
.sight canvas { width: 100%; height: auto; }
.output-kind .sight canvas { image-rendering: pixelated; } /* the pixels of a small target are to be seen */
figcaption { grid-row: 2; margin: 5px 0 0; color: var(--soft); font-size: 13px; line-height: 1.3; }
figcaption b { color: var(--ink); font-weight: 600; }
.mark { position: absolute; width: 32px; height: 32px; min-height: 0; margin: -16px 0 0 -16px; padding: 0; border: 0;
  border-radius: 50%; background: none !important; pointer-events: none; }
.mark::before { content: ""; position: absolute; inset: 9px; border: 2px solid ${BLUE}; background: #fff; border-radius: 3px;
  box-shadow: 0 0 0 1px #fff; }
.mark.edge::before { inset: 10.5px; border-radius: 50%; border-width: 2px; }
.mark.knob::before { border-radius: 50%; background: ${BLUE}; }
.mark.move::before { inset: 11px; border: 0; border-radius: 0; box-shadow: none;
  background: linear-gradient(${BLUE}, ${BLUE}) 50% 50% / 100% 2px no-repeat,
    linear-gradient(${BLUE}, ${BLUE}) 50% 50% / 2px 100% no-repeat; }
.mark.point::before { border-color: #000; border-radius: 50%; }
.mark.held::before { background-color: ${YELLOW}; }
.mark.point.held::before { inset: 7px; }
.mark:focus-visible { outline-color: ${BLUE}; outline-offset: -4px; }
.spot { position: absolute; width: 13px; height: 13px; margin: -6.5px 0 0 -6.5px; border: 2px solid #000; border-radius: 50%;
  background: ${YELLOW}; pointer-events: none; }
.probe { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; min-height: 58px; font-size: 13px; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.probe p { flex: 1 1 200px; margin: 0; }
.probe b { color: var(--ink); font-weight: 600; white-space: nowrap; }
.mix { display: flex; align-items: center; gap: 8px; }
.four { display: grid; grid-template-columns: 42px 42px; gap: 2px; }
.four span { height: 27px; border-radius: 3px; font-size: 12px; line-height: 27px; text-align: center; }
.sum { width: 34px; height: 34px; border-radius: 5px; border: 1px solid var(--line); }
.numbers { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; }
.theta { display: flex; align-items: center; gap: 8px; white-space: nowrap; }
.matrix { display: grid; grid-template-columns: repeat(3, 3.7em); padding: 0 4px; border: solid var(--ink); border-width: 0 2px;
  border-radius: 8px; }
.matrix input { width: 100%; min-width: 0; height: 44px; margin: 0; padding: 0 5px 0 0; border: 0; border-radius: 6px; background: none;
  text-align: right; font-variant-numeric: tabular-nums; cursor: ew-resize; touch-action: pan-y; }
.matrix input:focus { background: var(--raised); cursor: text; }
.matrix .implied { color: var(--soft); font-style: italic; }
.words { flex: 1 1 190px; min-height: 4.4em; margin: 0; } .output-kind .words { min-height: 5.8em; }
.right *, .numbers * { scroll-margin-top: calc(var(--stn-top, 0px) + 80cqw); } /* what has the focus is not under the pictures */
.right { display: flex; flex-direction: column; gap: 10px; min-width: 0; }
.strip { display: flex; flex-wrap: nowrap; gap: 6px; overflow-x: auto; margin: -3px; padding: 3px; }
.strip button { flex: none; }
.joined { display: flex; flex: none; }
.joined button { border-radius: 0; } .joined button + button { border-left: 0; }
.joined button:first-child { border-radius: 8px 0 0 8px; } .joined button:last-child { border-radius: 0 8px 8px 0; }
.icon { width: 44px; padding: 0; font-size: 18px; line-height: 1; }
.row { display: grid; grid-template-columns: 132px minmax(60px, 1fr) 3.7em; gap: 8px; align-items: center; min-height: 44px; }
.row label { font-size: 13px; white-space: nowrap; }
.row select { grid-column: 2 / 4; min-width: 0; width: 100%; padding: 2px 6px; }
.row .value { width: 100%; min-width: 0; height: 44px; padding: 0 5px 0 0; text-align: right; font-variant-numeric: tabular-nums;
  border: 1px solid transparent; border-radius: 6px; background: none; }
.row .value:hover, .row .value:focus { border-color: var(--line); background: var(--raised); }
input[type=range] { appearance: none; width: 100%; min-width: 0; height: 44px; margin: 0; border-radius: 6px; cursor: pointer;
  touch-action: pan-y; background: linear-gradient(to right, var(--faint) var(--low, 0), var(--accent) 0 var(--high, 0), var(--faint) 0) 0 50% / 100% 4px
    no-repeat; }
input[type=range]::-webkit-slider-thumb { appearance: none; width: 20px; height: 20px; border: 3px solid var(--ground);
  border-radius: 50%; background: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
input[type=range]::-moz-range-thumb { width: 14px; height: 14px; border: 3px solid var(--ground); border-radius: 50%;
  background: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.chosen { display: flex; flex-wrap: wrap; gap: 6px; }
.chosen .row { flex: 1 1 190px; grid-template-columns: auto 1fr; } .chosen .row select { grid-column: 2; }
code { display: block; padding: 9px 11px; overflow-x: auto; white-space: pre; background: var(--raised); border-radius: 8px;
  font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.game { border: 1px solid var(--faint); border-radius: 10px; padding: 10px 12px; }
.game p { margin: 0 0 8px; } .game p:last-child { margin: 0; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.note { margin: 0; color: var(--soft); font-size: 13px; }
section.dropping { outline: 3px dashed var(--accent); outline-offset: -6px; }
@container (min-width: 720px) {
  section { padding: 18px; }
  .body { flex-direction: row; align-items: flex-start; gap: 26px; }
  .left { display: flex; flex-direction: column; gap: 10px; flex: 0 0 56%; min-width: 0; position: sticky; top: var(--stn-top, 0px); }
  .stage { position: static; padding: 0; }
  .right { flex: 1 1 0; }
  .right *, .numbers * { scroll-margin-top: var(--stn-top, 0px); }
  .strip { flex-wrap: wrap; overflow: visible; }
  .presets button, .tools button:not(.icon) { padding: 4px 9px; }
}
@container (max-width: 340px) { .row { grid-template-columns: 134px minmax(30px, 1fr) 3.1em; gap: 4px; } .row label { font-size: 12px; } }
`;

const BODY = `
<section role="group">
  <div class="body">
    <div class="left">
      <div class="stage"><div class="figures">
        <figure><div class="frame around"><canvas role="img" aria-describedby="words"></canvas><div class="spot" hidden></div></div>
          <figcaption></figcaption></figure>
        <figure><div class="frame sight" tabindex="0" role="application"><canvas role="img" aria-describedby="words"></canvas><div
          class="spot" hidden></div></div><figcaption><b>target</b>: point at it</figcaption></figure>
      </div></div>
      <div class="probe"><p></p><div class="mix" hidden><div class="four"><span></span><span></span><span></span><span></span></div>=<div
        class="sum"></div></div></div>
      <div class="numbers">
        <div class="theta"><span></span><div class="matrix" role="group"></div></div>
        <p class="words" id="words"></p>
      </div>
    </div>
    <div class="right">
      <div class="game" hidden></div>
      <div class="strip tools"></div>
      <div class="strip presets"></div>
      <div class="controls"></div>
      <div class="chosen"></div>
      <code tabindex="0" aria-label="this window as Python"></code>
      <div class="strip links"></div>
      <p class="note"></p>
    </div>
  </div>
  <input type="file" accept="image/*" hidden>
  <div class="unseen" role="status"></div>
</section>`;

const two = value => (Math.round(100 * value) / 100 + 0).toFixed(2); // + 0: no minus before a zero
const place = (x, y) => `(${two(x)}, ${two(y)})`;
const round = (value, step) => Math.round(Math.round(value / step) * step * 1e6) / 1e6;
const clamp = (value, most) => Math.max(-most, Math.min(most, value));
const number = value => String(Math.round(1000 * value) / 1000 + 0);

// Up to `most` indices, evenly over 0 ... count - 1, both ends among them.
const spread = (count, most) => {
  const many = Math.min(count, most);
  return Array.from({length: many}, (_, i) => many > 1 ? Math.round(i * (count - 1) / (many - 1)) : 0);
};

const element = (tag, attributes = {}, text = "") => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
};

// A page may choose for itself, as the site, JupyterLab, exported notebooks, VS Code and Colab do; else the system does.
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => {
  const page = document.documentElement, {jpThemeLight, vscodeThemeKind} = document.body.dataset;
  const theme = page.dataset.theme || page.getAttribute("theme") || vscodeThemeKind || "";
  if (/dark|light/.test(theme)) return theme.includes("dark");
  return jpThemeLight ? jpThemeLight === "false" : system.matches;
};

// The window in words.
const windowInWords = at => {
  const [wide, high] = [Math.abs(at.scale_x), Math.abs(at.scale_y)], area = at.scale_x * at.scale_y, is = [];
  const turned = number(Math.round(10 * Math.abs(at.angle)) / 10);
  if (turned !== "0") is.push(`turned ${turned}° ${at.angle > 0 ? "clockwise" : "counterclockwise"}`);
  if (two(wide) !== "1.00" || two(high) !== "1.00") is.push(`${two(wide)} × as wide and ${two(high)} × as high as the source`);
  if (at.scale_x < 0) is.push("mirrored left to right");
  if (at.scale_y < 0) is.push("mirrored top to bottom");
  if (two(at.shear) !== "0.00") is.push(`sheared by ${two(at.shear)}`);
  if (place(at.shift_x, at.shift_y) !== "(0.00, 0.00)") is.push(`centred at ${place(at.shift_x, at.shift_y)}`);
  if (place(at.perspective_x, at.perspective_y) !== "(0.00, 0.00)")
    is.push(`tilted by ${place(at.perspective_x, at.perspective_y)}`);
  if (!is.length) return "The window is the whole source: nothing changes.";
  const flat = area === 0 ? ` That is a ${wide + high ? "line" : "point"}: theta has no inverse, nothing can undo it.` : "";
  return `The window is ${is.join(", ")}.${flat}${area < 0 ? " It is turned over: the picture is mirrored." : ""}`;
};

// What cannot be undone: two control points in one place, or a sheet that folds over itself.
const trouble = (places, grid, height, width) => {
  for (let i = 0; i < places.length; i += 2) {
    for (let j = 0; j < i; j += 2) {
      if (Math.hypot(places[i] - places[j], places[i + 1] - places[j + 1]) < 1e-3)
        return ` No inverse: control points ${j / 2 + 1} and ${i / 2 + 1} look at the same place.`;
    }
  }
  let turned = 0;
  for (let i = 0; i < height - 1; i++) {
    for (let j = 0; j < width - 1; j++) {
      const at = 2 * (i * width + j), right = at + 2, down = at + 2 * width;
      const across = (grid[right] - grid[at]) * (grid[down + 1] - grid[at + 1]);
      if (across - (grid[right + 1] - grid[at + 1]) * (grid[down] - grid[at]) < 0) turned++;
    }
  }
  const share = Math.ceil(100 * turned / ((height - 1) * (width - 1)));
  return turned ? ` No inverse: the sheet folds over itself, ${share} % of it is turned over, and parts are seen twice.` : "";
};

// How coarsely a window is sampled, by a target of this size.
const outputInWords = (grid, height, width, step, smooth) => {
  let outside = 0;
  for (let at = 0; at < grid.length; at += 2) outside += Math.abs(grid[at]) > 1 || Math.abs(grid[at + 1]) > 1;
  const share = number(Math.round(200 * outside / grid.length));
  const aliasing = " Each sample reads the four pixels around it. What lies between two samples is never read: aliasing.";
  return `The target has ${width} × ${height} pixels. Samples are ${two(step)} source pixels apart, ${share} % of them outside.`
    + (step > 1.5 && !smooth ? aliasing : "");
};

// This setting as one would write it in a notebook.
const windowAsPython = (at, aspect) => {
  const same = number(at.scale_x) === number(at.scale_y), scale = same ? number(at.scale_x) : `(${number(at.scale_x)}, ${number(at.scale_y)})`;
  const words = [];
  if (at.angle || scale !== "1") words.push(number(at.angle));
  if (scale !== "1") words.push(scale);
  if (number(at.shear) !== "0") words.push(`shear=${number(at.shear)}`);
  if (number(at.shift_x) !== "0" || number(at.shift_y) !== "0") words.push(`shift=(${number(at.shift_x)}, ${number(at.shift_y)})`);
  if (Math.abs(aspect - 1) > 1e-6) words.push(`aspect=${number(aspect)}`);
  const flat = `affine(${words.join(", ")})`, [x, y] = [number(at.perspective_x), number(at.perspective_y)];
  return x === "0" && y === "0" ? flat : `as_matrix(${flat}) @ torch.tensor([[1, 0, 0], [0, 1, 0], [${x}, ${y}, 1.0]])`;
};

// A game: ten warped pictures, each to be straightened; what is asked for, and how many pixels of drift are par.
const LEVELS = [
  [{scale_x: .7, scale_y: .7, shift_x: .25, shift_y: -.2}, 2],
  [{scale_x: .55, scale_y: .55, shift_x: -.3, shift_y: .3}, 2],
  [{angle: 25, scale_x: .65, scale_y: .65}, 2],
  [{angle: -70, scale_x: .6, scale_y: .6, shift_x: .15, shift_y: .1}, 3],
  [{scale_x: .8, scale_y: .45, shift_y: .35}, 3],
  [{scale_x: .55, scale_y: .55, shear: .5}, 3],
  [{angle: 140, scale_x: .6, scale_y: .5, shift_x: -.1}, 3],
  [{angle: 20, scale_x: -.6, scale_y: .6, shift_y: .1}, 3],
  [{angle: -35, scale_x: .7, scale_y: .45, shear: .3, shift_x: .1, shift_y: -.15}, 4],
  [{angle: 10, scale_x: .55, scale_y: .5, perspective_x: .15, perspective_y: .3}, 5],
];

const read = ({name, address}) => new Promise((done, fail) => {
  const image = new Image(), canvas = document.createElement("canvas");
  image.onload = () => {
    const longer = Math.max(image.naturalWidth, image.naturalHeight), less = Math.min(1, LARGE / longer);
    const [width, height] = [image.naturalWidth, image.naturalHeight].map(side => Math.max(1, Math.round(less * side)));
    Object.assign(canvas, {width, height});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height);
    done({name, canvas, width, height, data: context.getImageData(0, 0, width, height).data});
  };
  image.onerror = () => fail(new Error(`the picture ${name} cannot be read`));
  image.src = address;
});

let touched = null; // the explorer that was used last: a pasted picture is for it

// One explorer, in a shadow tree of its own: its names and its looks meet nobody else's.
// options: as explorer.py makes them. onChange(at, aspect): once a frame at most, when the window has moved.
const mount = async (host, options, onChange = () => {}) => {
  const pictures = await Promise.all(options.pictures.map(read));
  if (host.shadowRoot) return host.explorer;
  const [spline, output] = ["spline", "output"].map(kind => kind === options.kind);
  const rest = {}, rows = {}, marks = [], pointers = new Map();
  const plate = spline ? core.plate(options.k) : null;
  if (spline) plate.knots.forEach((_, i) => Object.assign(rest, {[`x${i + 1}`]: 0, [`y${i + 1}`]: 0}));
  else options.sliders.forEach(({name, value}) => { rest[name] = value; });
  const at = {...rest, ...options.start}, steps = {angle: 15, perspective_x: .05, perspective_y: .05, size: 4};
  let picture, source, target, weights, smooth = false, waiting = 0, spoken = 0, settling = 0, heard = null, told = "", padding = "border", room = ROOM;
  let chosen = (options.k ** 2 + 1) >> 1, grip = null, free = false, snap = false, probe = null, game = null, kept = null;
  let past = [JSON.stringify(at)], now = 0;

  const shadow = host.attachShadow({mode: "open"});
  shadow.innerHTML = `<style>${STYLE}</style>${BODY}`;
  const find = selector => shadow.querySelector(selector);
  const [section, around, sight] = [find("section"), find(".around"), find(".sight")];
  const [sourceCanvas, targetCanvas] = [around.querySelector("canvas"), sight.querySelector("canvas")];
  const [matrix, words, controls, status] = [find(".matrix"), find(".words"), find(".controls"), find("[role=status]")];
  const [onSource, onTarget] = [sourceCanvas.getContext("2d"), targetCanvas.getContext("2d", {willReadFrequently: true})];

  // --- a step ---

  const places = () => plate.knots.flatMap(([x, y], i) => [x + at[`x${i + 1}`], y + at[`y${i + 1}`]]);
  const aspect = () => picture.width / picture.height;
  const longer = () => Math.max(picture.width, picture.height);
  // The sliders of the output say a window that only turns and grows.
  const whole = at => output ? {...STILL, angle: at.angle, scale_x: at.scale, scale_y: at.scale} : at;
  const theta = () => spline ? places() : core.matrix(whole(at), aspect());
  const shape = () => [picture.width, picture.height].map(side => side / longer());
  const step = () => at.scale * longer() / at.size; // source pixels from one sample to the next

  // The target has as many pixels as its slider says; without one, as many as the source has.
  const resize = () => {
    const side = output ? at.size : Math.max(SIDE, Math.min(LARGE, longer()));
    const [width, height] = [picture.width, picture.height].map(length => Math.max(1, Math.round(side * length / longer())));
    if (target?.width === width && target.height === height) return;
    Object.assign(targetCanvas, {width, height});
    target = new ImageData(width, height);
    weights = spline ? core.plateWeights(plate, height, width) : null;
  };

  const draw = () => {
    cancelAnimationFrame(waiting);
    waiting = 0;
    resize();
    const seen = theta(), {height, width} = target;
    const grid = spline ? core.plateGrid(weights, seen) : core.matrixGrid(seen, height, width);
    source = smooth ? core.smooth(picture, step()) : picture;
    core.sample(source, grid, padding, target.data);
    onTarget.putImageData(target, 0, 0);
    if (!grip) room = fit(handles(seen));
    const where = handles(seen);
    drawSource(grid, height, width, where);
    where.forEach(showMark);
    write(seen, grid);
    showProbe(grid);
    const state = stated();
    if (state !== told) { told = state; onChange({...at}, aspect(), [picture.height, picture.width]); }
    clearTimeout(settling);
    settling = setTimeout(settle, 350);
  };

  const stated = () => JSON.stringify([at, picture.height, picture.width]);

  // Many moves between two frames are one step.
  const ask = () => { waiting = waiting || requestAnimationFrame(draw); };

  // A move that has come to rest can be undone, and is in the page's address.
  const settle = () => {
    clearTimeout(settling);
    if (grip) return;
    const state = JSON.stringify(at);
    if (state !== past[now]) {
      past = [...past.slice(0, now + 1), state].slice(-200);
      now = past.length - 1;
      if (options.link && !game) history.replaceState(history.state, "", link());
    }
    [find(".undo").disabled, find(".redo").disabled] = [now === 0, now === past.length - 1];
  };

  const travel = by => {
    settle();
    if (!past[now + by]) return;
    now += by;
    Object.assign(at, JSON.parse(past[now]));
    ask();
  };

  const shown = kind => !output || kind === "corner" || kind === "knob";

  // Where the handles of the window are, {kind, index, x, y}, in source coordinates; of a sheet, its control points.
  const handles = seen => {
    if (spline) return plate.knots.map((_, index) => ({kind: "point", index, x: seen[2 * index], y: seen[2 * index + 1]}));
    const put = (kind, index, x, y) => ({kind, index, x, y}), [wide, high] = shape();
    const corners = core.CORNERS.map(([x, y], i) => put("corner", i, ...core.through(seen, x, y)));
    const edges = [[0, -1], [1, 0], [0, 1], [-1, 0]].map(([x, y], i) => put("edge", i, ...core.through(seen, x, y)));
    const [x, y] = core.through(seen, 0, 0), [dx, dy] = [(edges[0].x - x) * wide, (edges[0].y - y) * high];
    const long = Math.hypot(dx, dy), angle = (at.angle + (at.scale_y < 0 ? 180 : 0)) * Math.PI / 180, stem = .26 * room / ROOM;
    const [ux, uy] = long > 1e-6 ? [dx / long, dy / long] : [Math.sin(angle), -Math.cos(angle)];
    const knob = put("knob", 0, edges[0].x + stem * ux / wide, edges[0].y + stem * uy / high);
    return [put("move", 0, x, y), ...edges, ...corners, knob];
  };

  // Room for all of it.
  const fit = where => {
    const [wide, high] = shape(), marks = where.filter(({kind}) => kind !== "knob");
    const far = Math.max(...marks.map(({x, y}) => Math.max(Math.abs(x) * wide, Math.abs(y) * high) || 0));
    return Math.max(ROOM, Math.min(FAR, 1.2 * far));
  };

  // Between source coordinates and parts of the frame, 0 to 1.
  const toFrame = (x, y) => shape().map((side, axis) => .5 + [x, y][axis] * side / room / 2);
  const edge = part => Math.max(.03, Math.min(.97, part)) || .03; // a mark that is further out waits there
  const fromPage = ({clientX, clientY}) => {
    const box = around.getBoundingClientRect(), [wide, high] = shape();
    return [((clientX - box.left) / box.width * 2 - 1) * room / wide, ((clientY - box.top) / box.height * 2 - 1) * room / high];
  };

  // The source, and over it nine rows and nine columns of the grid; blue is its top row.
  const drawSource = (grid, height, width, where) => {
    const side = sourceCanvas.width, unit = side / (2 * room), pen = side / (2 * ROOM), middle = side / 2;
    const [wide, high] = shape().map(part => part * unit);
    onSource.fillStyle = "#fff";
    onSource.fillRect(0, 0, side, side);
    onSource.imageSmoothingQuality = "high";
    onSource.drawImage(picture.canvas, middle - wide, middle - high, 2 * wide, 2 * high);
    const joints = spline ? 13 : 2; // a matrix keeps lines straight
    const lines = [...spread(height, 9).map(i => spread(width, joints).map(j => [i, j])),
                   ...spread(width, 9).map(j => spread(height, joints).map(i => [i, j]))];
    // What is nowhere stays out of sight.
    const near = value => Number.isNaN(value) ? 99 : clamp(value, 99);
    const path = some => {
      const made = new Path2D();
      for (const line of some) line.forEach(([i, j], first) => {
        const from = 2 * (i * width + j), to = [middle + wide * near(grid[from]), middle + high * near(grid[from + 1])];
        first ? made.lineTo(...to) : made.moveTo(...to);
      });
      return made;
    };
    const [all, top] = [path(lines), path(lines.slice(0, 1))];
    onSource.lineJoin = "round";
    const strokes = [[all, "rgba(255, 255, 255, .6)", .03], [all, RED, .014], [top, BLUE, .045]];
    if (!spline) {
      const stem = new Path2D(), knob = where.at(-1);
      stem.moveTo(middle + wide * near(where[1].x), middle + high * near(where[1].y));
      stem.lineTo(middle + wide * near(knob.x), middle + high * near(knob.y));
      strokes.push([stem, "#fff", .035], [stem, BLUE, .018]);
    }
    for (const [made, color, thick] of strokes) {
      onSource.strokeStyle = color;
      onSource.lineWidth = thick * pen;
      onSource.stroke(made);
    }
  };

  const write = (seen, grid) => {
    const parts = spline ? core.plateParts(plate, seen) : null, entries = spline ? parts.flat : seen;
    [...matrix.children].forEach((entry, i) => {
      if (entry !== shadow.activeElement || !entry.typing) entry.value = i < entries.length ? two(entries[i]) : String(i - 6 >> 1);
      entry.classList.toggle("implied", i > 5 && (spline || !(at.perspective_x || at.perspective_y)));
    });
    for (const row of Object.values(rows)) row.show();
    find("code").textContent = spline
      ? `torch.tensor([[${seen.map(number).join(", ")}]])  # family("tps", ${options.k})` : output ? `warp(picture, ${windowAsPython(whole(at), aspect())}, (${target.height}, ${target.width}))`
        : windowAsPython(at, aspect());
    const sentence = words.textContent = spline ? plateInWords(parts, seen, grid)
      : output ? outputInWords(grid, target.height, target.width, step(), smooth) : windowInWords(at);
    if (kept) alike();
    // Read aloud only once the hand rests, and not when the page opens.
    clearTimeout(spoken);
    heard ??= sentence;
    spoken = setTimeout(() => { if (heard !== sentence) status.textContent = heard = sentence; }, 800);
  };

  const plateInWords = ({bends, energy}, seen, grid) => {
    const most = energy > 0.005 ? `, most at point ${bends.indexOf(Math.max(...bends)) + 1}` : "";
    const looks = `Point ${chosen} looks at ${place(seen[2 * chosen - 2], seen[2 * chosen - 1])}.`;
    return `${looks} Bending energy ${two(energy)}${most}.${trouble(seen, grid, target.height, target.width)}`;
  };

  // --- what a window can do ---

  const set = values => { Object.assign(at, values); ask(); };

  // A theta as sliders, or null where it is none.
  const asSliders = (m, before) => {
    const found = core.sliders(m, aspect(), before);
    if (!Object.values(found).every(Number.isFinite)) return null;
    return Object.fromEntries(Object.entries(found).map(([name, value]) => [name, round(value, 1e-5) + 0])); // no minus before a zero
  };

  const rounded = (values, start) => {
    const made = {...values};
    for (const name in made) {
      const fine = /angle/.test(name) ? 1 : /scale|shear|^[xy]\d/.test(name) ? .01 : .001;
      made[name] = snap ? round(made[name], steps[name] || .1) : round(made[name], free && !spline ? .001 : fine);
    }
    return {...start, ...made};
  };

  const RANGES = Object.fromEntries(options.sliders.map(({name, min, max}) => [name, [min, max]]));
  const bound = (value, [low, high]) => Math.max(low, Math.min(high, value));
  const within = values => Object.fromEntries(Object.entries(values).map(([name, value]) =>
    [name, name === "angle" || free ? value : bound(value, RANGES[name.replace(/^([xy])\d+$/, "$1")])]));
  const upright = angle => ((angle + 180) % 360 + 360) % 360 - 180;

  // The handle goes to (x, y); the window follows. from: {at, m, x, y, angle}, how it was when the handle was taken.
  const pull = ({kind, index}, from, x, y) => {
    const [wide, high] = shape(), start = from.at;
    if (kind === "point") {
      const [a, b] = plate.knots[index], name = index + 1;
      return set(within(rounded({[`x${name}`]: x - a, [`y${name}`]: y - b}, {})));
    }
    if (kind === "move") return set(within(rounded({shift_x: start.shift_x + x - from.x, shift_y: start.shift_y + y - from.y}, {})));
    if (kind === "knob") {
      const toward = (u, v) => Math.atan2((v - whole(start).shift_y) * high, (u - whole(start).shift_x) * wide) * 180 / Math.PI;
      return set(rounded({angle: upright(start.angle + toward(x, y) - toward(from.x, from.y))}, {}));
    }
    if (free) {
      const moved = kind === "corner" ? [index] : [index, (index + 1) % 4], by = [x - from.x, y - from.y];
      const corners = core.CORNERS.map(([u, v], i) => core.through(from.m, u, v)
        .map((value, axis) => moved.includes(i) ? value + by[axis] : value)
        .map(value => snap && moved.includes(i) ? round(value, .1) : value));
      const m = core.homography(corners), found = m && asSliders(m, at);
      return found && set(found); // four places that are no window are not taken
    }
    // In the window's own coordinates the handle goes from one place to another, and what lies opposite stays.
    const [u, v] = core.through(core.inverted(from.m), x, y);
    if (output) return set(within(rounded({scale: start.scale * Math.max(Math.abs(u), Math.abs(v))}, {}))); // here its middle does
    const [cx, cy] = kind === "corner" ? core.CORNERS[index] : [[0, -1], [1, 0], [0, 1], [-1, 0]][index];
    let [sx, sy] = [cx ? (u + cx) / (2 * cx) : 1, cy ? (v + cy) / (2 * cy) : 1];
    if (!Number.isFinite(sx) || !Number.isFinite(sy)) return null;
    const size = rounded({scale_x: start.scale_x * sx, scale_y: start.scale_y * sy}, {}), sized = within(size), tilted = start.perspective_x || start.perspective_y;
    if (!tilted) [sx, sy] = [sized.scale_x / start.scale_x, sized.scale_y / start.scale_y];
    const found = asSliders(core.times(from.m, [sx, 0, (sx - 1) * cx, 0, sy, (sy - 1) * cy, 0, 0, 1]), start);
    if (!found) return set(tilted ? {} : sized);
    const fine = Object.fromEntries(Object.entries(found).map(([name, value]) => [name, round(value, .001)]));
    return set(tilted ? fine : within({...sized, shift_x: fine.shift_x, shift_y: fine.shift_y}));
  };

  // A window without width or height cannot be taken by its corners; a little of each is given to it first.
  const solid = () => {
    const held = {...at};
    if (!spline) for (const name of ["scale_x", "scale_y"]) if (Math.abs(held[name]) < .01) held[name] = held[name] < 0 ? -.01 : .01;
    return {at: held, m: spline ? null : core.matrix(whole(held), aspect())};
  };

  // Two fingers: the window turns, grows and goes with them.
  const pinch = () => {
    const [a, b] = [...pointers.values()], [wide, high] = shape(), {at: start, fingers: [c, d]} = grip;
    const line = (p, q) => [(q[0] - p[0]) * wide, (q[1] - p[1]) * high], [one, other] = [line(c, d), line(a, b)];
    const grow = Math.hypot(...other) / Math.max(Math.hypot(...one), 1e-6);
    const turn = Math.atan2(other[1], other[0]) - Math.atan2(one[1], one[0]), [cos, sin] = [Math.cos(turn), Math.sin(turn)];
    const angle = upright(start.angle + turn * 180 / Math.PI);
    if (output) return set(within(rounded({angle, scale: start.scale * grow}, {})));
    const [ox, oy] = [(start.shift_x - (c[0] + d[0]) / 2) * wide, (start.shift_y - (c[1] + d[1]) / 2) * high];
    set(within(rounded({
      angle, scale_x: start.scale_x * grow, scale_y: start.scale_y * grow,
      shift_x: (a[0] + b[0]) / 2 + grow * (cos * ox - sin * oy) / wide, shift_y: (a[1] + b[1]) / 2 + grow * (sin * ox + cos * oy) / high,
    }, {})));
  };

  // --- hands ---

  // What a pointer at this place of the page would take.
  const under = event => {
    const box = around.getBoundingClientRect(), all = handles(theta());
    const seen = all.map(handle => {
      const [x, y] = toFrame(handle.x, handle.y).map(edge);
      return {...handle, left: box.left + x * box.width, top: box.top + y * box.height};
    });
    const apart = (one, other) => Math.hypot(one.left - other.left, one.top - other.top);
    // Of a small window the middle must stay free, or it could not be moved.
    const reach = spline ? REACH : Math.max(9, Math.min(REACH, .3 * apart(seen[1], seen[3]), .3 * apart(seen[2], seen[4])));
    const far = handle => Math.hypot(handle.left - event.clientX, handle.top - event.clientY) + (handle.kind === "edge" ? 5 : 0);
    const near = seen.filter(one => one.kind !== "move" && shown(one.kind) && far(one) < (one.kind === "knob" ? REACH : reach)).sort((a, b) => far(a) - far(b))[0];
    if (near || spline) return near;
    const [u, v] = core.through(core.inverted(solid().m), ...fromPage(event));
    return Math.max(Math.abs(u), Math.abs(v)) > 1 ? {...all.at(-1), kind: "knob"} : output ? null : all[0]; // outside it turns
  };

  const take = (handle, x, y) => {
    grip = {handle, ...solid(), x: handle.x, y: handle.y, off: [handle.x - x, handle.y - y]};
    if (handle.kind === "knob") Object.assign(grip, {x, y, off: [0, 0]});
    if (spline) chosen = handle.index + 1;
    ask();
  };

  around.addEventListener("pointerdown", event => {
    if (event.button) return;
    pointers.set(event.pointerId, fromPage(event));
    around.setPointerCapture(event.pointerId);
    if (pointers.size === 2 && !spline) { grip = {...solid(), fingers: [...pointers.values()]}; return; }
    const handle = under(event);
    if (!handle || pointers.size > 1) return;
    event.preventDefault();
    take(handle, ...fromPage(event));
    const mark = marks.find(one => one.kind === handle.kind && one.index === handle.index);
    mark.button.focus({preventScroll: true, focusVisible: false});
  });
  around.addEventListener("pointermove", event => {
    if (!grip && event.pointerType === "mouse") {
      const kind = under(event)?.kind;
      around.style.cursor = {corner: "nwse-resize", edge: "move", knob: "grab", move: "move", point: "grab"}[kind] || "default";
    }
    if (!grip || !pointers.has(event.pointerId)) return;
    const [x, y] = fromPage(event), bound = shape().map(side => room / side);
    pointers.set(event.pointerId, [x, y]);
    if (grip.fingers) { if (pointers.size === 2) pinch(); return; }
    const before = snap;
    snap = snap || event.shiftKey;
    pull(grip.handle, grip, clamp(x, bound[0]) + grip.off[0], clamp(y, bound[1]) + grip.off[1]);
    snap = before;
  });
  const release = event => {
    pointers.delete(event.pointerId);
    if (grip) { grip = null; draw(); settle(); }
  };
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) around.addEventListener(end, release);

  const NAMES = {
    corner: ["top left corner", "top right corner", "bottom right corner", "bottom left corner"],
    edge: ["top edge", "right edge", "bottom edge", "left edge"], knob: ["turn the window"], move: ["move the window"],
  };

  // Each handle is a button too, so that Tab finds it and arrow keys move it.
  const addMark = ({kind, index}) => {
    const button = element("button", {type: "button", class: `mark ${kind}`});
    button.addEventListener("focus", () => { if (spline && chosen !== index + 1) { chosen = index + 1; ask(); } });
    button.addEventListener("keydown", event => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (kind === "knob") return set({angle: upright(at.angle + (event.shiftKey ? 15 : 1) * (step[0] + step[1]))});
      const far = event.shiftKey ? .1 : .02, here = handles(theta()).find(one => one.kind === kind && one.index === index);
      pull(here, {...solid(), x: here.x, y: here.y}, here.x + far * step[0], here.y + far * step[1]);
    });
    button.hidden = !shown(kind);
    around.append(button);
    marks.push({kind, index, button});
  };

  const showMark = ({kind, index, x, y}, i) => {
    const {button} = marks[i], [left, top] = toFrame(x, y).map(edge);
    button.style.left = `${100 * left}%`;
    button.style.top = `${100 * top}%`;
    const name = spline ? `control point ${index + 1}` : NAMES[kind][index];
    const said = kind === "knob" ? `${name}, ${number(at.angle)}°` : `${name}, looks at ${place(x, y)}`;
    button.setAttribute("aria-label", `${said}; arrow keys move it`);
    const held = spline ? index + 1 === chosen : grip?.handle?.kind === kind && grip.handle.index === index;
    button.classList.toggle("held", held);
    if (spline) { button.setAttribute("aria-pressed", held); button.tabIndex = held ? 0 : -1; }
  };

  // --- the probe: which place does a target pixel read? ---

  const showProbe = grid => {
    const {height, width} = target, text = find(".probe p"), [onThem, seen] = [around, sight].map(frame => frame.querySelector(".spot"));
    for (const part of [onThem, seen, find(".mix")]) part.hidden = !probe;
    if (!probe) {
      text.textContent = "Which place of the source does a pixel read? Point at the target, or reach it with Tab and use the arrow keys.";
      return;
    }
    const [i, j] = probe = [Math.min(probe[0], height - 1), Math.min(probe[1], width - 1)], from = 2 * (i * width + j);
    const [u, v] = [grid[from], grid[from + 1]], [x, y] = [(2 * j + 1) / width - 1, (2 * i + 1) / height - 1];
    const [left, top] = toFrame(u, v).map(part => Math.max(.015, Math.min(.985, part || 0)));
    Object.assign(onThem.style, {left: `${100 * left}%`, top: `${100 * top}%`});
    Object.assign(seen.style, {left: `${50 + 50 * x}%`, top: `calc(4px + (100% - 4px) * ${.5 + .5 * y})`});
    const outside = Math.abs(u) > 1 || Math.abs(v) > 1 ? ` Outside the source: padding is ${padding}.` : "";
    text.replaceChildren("target ", element("b", {}, place(x, y)), " → θ → source ", element("b", {}, place(u, v)),
      `. It mixes the four pixels around that place, the nearer the more.${outside}`);
    core.neighbours(u, v, source.height, source.width, padding).forEach(({column, row, weight}, k) => {
      const at = 4 * (row * source.width + column), [r, g, b] = source.data.slice(at, at + 3), part = find(".four").children[k];
      part.textContent = two(weight);
      part.title = `source pixel (${column}, ${row})`;
      Object.assign(part.style, {background: `rgb(${r}, ${g}, ${b})`, color: .3 * r + .59 * g + .11 * b > 120 ? "#000" : "#fff"});
    });
    const [r, g, b] = target.data.slice(4 * (i * width + j));
    find(".sum").style.background = `rgb(${r}, ${g}, ${b})`;
    sight.setAttribute("aria-label", `the target pixel at ${place(x, y)} reads the source at ${place(u, v)}; arrow keys choose another`);
  };

  const point = event => {
    const box = targetCanvas.getBoundingClientRect();
    const index = (part, count) => Math.max(0, Math.min(count - 1, Math.floor(part * count)));
    probe = [index((event.clientY - box.top) / box.height, target.height), index((event.clientX - box.left) / box.width, target.width)];
    ask();
  };
  sight.addEventListener("pointerdown", point);
  sight.addEventListener("pointermove", event => { if (event.pointerType === "mouse" || event.buttons) point(event); });
  sight.addEventListener("pointerleave", event => {
    if (event.pointerType === "mouse" && shadow.activeElement !== sight) { probe = null; ask(); }
  });
  sight.addEventListener("keydown", event => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Escape") { probe = null; ask(); }
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1, {height, width} = target, [i, j] = probe || [height >> 1, width >> 1];
    probe = [Math.max(0, Math.min(height - 1, i + far * step[0])), Math.max(0, Math.min(width - 1, j + far * step[1]))];
    ask();
  });

  // --- numbers and controls ---

  // The numbers of theta can be typed, dragged sideways, and moved by arrow keys.
  const addEntry = index => {
    const name = `theta, row ${Math.floor(index / 3) + 1}, column ${index % 3 + 1}`;
    const entry = element("input", {type: "text", inputmode: "decimal", "aria-label": name, autocomplete: "off"});
    entry.readOnly = spline || output || index === 8;
    matrix.append(entry);
    if (entry.readOnly) { entry.tabIndex = -1; entry.style.cursor = "default"; return; }
    const put = value => {
      const wanted = theta();
      wanted[index] = clamp(value, 9);
      const found = Number.isFinite(value) && asSliders(wanted, at);
      if (found) set(found);
    };
    let from = null;
    entry.addEventListener("dragstart", event => event.preventDefault()); // chosen text is not to be carried away
    entry.addEventListener("pointerdown", event => { from = {x: event.clientX, value: theta()[index], drags: false, id: event.pointerId}; });
    entry.addEventListener("pointermove", event => {
      if (!from || (!from.drags && Math.abs(event.clientX - from.x) < 5)) return;
      if (!from.drags) { from.drags = true; entry.setPointerCapture(from.id); entry.blur(); }
      put(round(from.value + (event.clientX - from.x) / 100, snap || event.shiftKey ? .1 : .01));
    });
    for (const end of ["pointerup", "pointercancel"]) entry.addEventListener(end, event => {
      if (from?.drags) event.preventDefault();
      else if (end === "pointerup") entry.select();
      from = null;
    });
    entry.addEventListener("input", () => {
      entry.typing = true;
      const text = entry.value.trim().replace(",", ".").replace("−", "-");
      if (text && !Number.isNaN(Number(text))) put(Number(text));
    });
    entry.addEventListener("blur", () => { entry.typing = false; ask(); });
    entry.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === "Escape") { entry.typing = false; ask(); }
      const by = {ArrowUp: 1, ArrowDown: -1}[event.key];
      if (!by) return;
      event.preventDefault();
      entry.typing = false;
      put(round(theta()[index] + by * (event.shiftKey ? .1 : .01), .01));
    });
  };

  const addRow = (id, label, control, place = controls) => {
    const row = element("div", {class: "row"});
    control.id = id;
    row.append(element("label", {for: id}, label), control);
    place.append(row);
    return row;
  };

  const addSlider = (id, {label, min, max, step, value: home}, get, move) => {
    const input = element("input", {type: "range", min, max, step});
    const value = element("input", {type: "text", inputmode: "decimal", class: "value", "aria-label": `${label}, typed`, autocomplete: "off"});
    addRow(id, label, input).append(value);
    const text = () => step < 1 ? two(get()) : number(Math.round(10 * get()) / 10);
    const take = wanted => move(snap && id !== "point" ? round(wanted, steps[id] || .1) : wanted), counts = /point|size/.test(id);
    // A finger that comes down on a slider may be on its way down the page: it counts once it goes sideways, or is lifted.
    let finger = null;
    input.addEventListener("pointerdown", event => {
      finger = event.pointerType === "touch" ? {x: event.clientX, y: event.clientY, wanted: null, before: get()} : null;
    });
    input.addEventListener("pointermove", event => {
      if (finger && Math.abs(event.clientX - finger.x) > 8 && Math.abs(event.clientX - finger.x) > Math.abs(event.clientY - finger.y)) finger = null;
    });
    input.addEventListener("pointerup", () => {
      const wanted = finger?.wanted;
      finger = null;
      if (wanted != null) take(wanted);
    });
    input.addEventListener("pointercancel", () => { if (finger) move(finger.before); finger = null; });
    input.addEventListener("input", () => {
      if (!finger) return take(Number(input.value));
      finger.wanted = Number(input.value);
      input.value = get();
    });
    if (home != null) input.addEventListener("dblclick", () => move(home));
    value.addEventListener("change", () => {
      const wanted = Number(value.value.trim().replace(",", ".").replace("−", "-"));
      value.blur();
      Number.isFinite(wanted) ? move(bound(counts ? Math.round(wanted) : wanted, [min, max])) : ask();
    });
    // Filled from where nothing changes to where it stands; the thumb's middle runs from 10 pixels to 10 before the end.
    const part = value => Math.max(0, Math.min(1, (value - min) / (max - min)));
    rows[id] = {show: () => {
      input.value = get();
      const ends = [part(home ?? min), part(get())].sort((a, b) => a - b).map(end => `calc(10px + ${end} * (100% - 20px))`);
      ["--low", "--high"].forEach((name, i) => input.style.setProperty(name, ends[i]));
      if (value !== shadow.activeElement) value.value = text();
    }};
  };

  const addChoice = (id, label, names, pick) => {
    const select = element("select");
    select.append(...names.map(name => element("option", {}, name)));
    addRow(id, label, select, find(".chosen"));
    select.addEventListener("change", () => pick(select.selectedIndex));
    return select;
  };

  const addButton = (where, label, action, attributes = {}) => {
    const button = element("button", {type: "button", ...attributes}, label);
    button.addEventListener("click", () => action(button));
    where.append(button);
    return button;
  };

  const toggle = (where, label, get, put, title) => {
    const button = addButton(where, label, () => { put(!get()); button.setAttribute("aria-pressed", get()); }, {title, "aria-pressed": get()});
    return button;
  };

  const copy = async (text, button) => {
    const label = button.textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch {
      getSelection().selectAllChildren(find("code"));
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  };

  // --- pictures ---

  const look = one => {
    picture = one;
    sight.style.width = `${100 * picture.width / longer()}%`;
    targetCanvas.style.aspectRatio = aspect();
    probe = null;
    draw();
  };

  let select = null;
  const pick = index => { quit(); look(pictures[index]); if (select) select.selectedIndex = index; };

  // The reader's own picture: read here, and sent nowhere.
  const own = async file => {
    if (!file?.type.startsWith("image/")) return;
    const address = URL.createObjectURL(file);
    try {
      const found = await read({name: "your picture", address});
      const index = pictures.findIndex(({name}) => name === found.name), known = index >= 0;
      known ? pictures[index] = found : pictures.push(found);
      if (!known) select.append(element("option", {}, found.name));
      pick(known ? index : pictures.length - 1);
    } catch (error) { status.textContent = find(".note").textContent = `${error.message}.`; }
    URL.revokeObjectURL(address);
  };

  // --- the state as a link ---

  const link = () => {
    const moved = Object.entries(at).filter(([name, value]) => Math.abs(value - rest[name]) > 1e-9).map(([name, value]) => `${name}=${number(value)}`);
    return `${location.href.split("#")[0]}#${options.kind}${moved.length ? "&" : ""}${moved.join("&")}`;
  };
  const fromLink = () => {
    const [kind, ...moved] = location.hash.slice(1).split("&");
    if (!options.link || kind !== options.kind) return;
    for (const [name, value] of moved.map(part => part.split("="))) {
      if (name in rest && Number.isFinite(Number(value))) at[name] = bound(Number(value), output ? RANGES[name] : name === "angle" ? [-180, 180] : [-9, 9]);
    }
  };

  // --- games ---

  const quit = () => { if (game) { game = null; find(".game").hidden = true; find(".presets").hidden = false; } kept = null; };

  const say = (text, ...buttons) => {
    const box = find(".game"), line = element("div", {class: "strip"});
    box.replaceChildren(element("p", {"aria-live": "polite"}, text), line);
    box.hidden = false;
    for (const [label, action, kind] of buttons) addButton(line, label, action, kind ? {class: kind} : {});
  };

  const corners = m => core.CORNERS.map(([x, y]) => core.through(m, x, y));
  const drift = (one, other) => corners(one).reduce((sum, [x, y], i) => {
    const [u, v] = corners(other)[i], [wide, high] = shape();
    return sum + Math.hypot((x - u) * wide, (y - v) * high) * SIDE / 2 / 4;
  }, 0);

  const level = () => {
    const [wanted, par] = LEVELS[game.level], {original} = game, ratio = original.width / original.height;
    game.answer = {...rest, ...wanted};
    game.theta = core.matrix(game.answer, ratio);
    const grid = core.matrixGrid(core.inverted(game.theta), original.height, original.width), canvas = element("canvas");
    const made = new ImageData(original.width, original.height);
    core.sample(original, grid, "zeros", made.data);
    Object.assign(canvas, {width: made.width, height: made.height});
    canvas.getContext("2d").putImageData(made, 0, 0);
    Object.assign(at, rest);
    look({name: "game", canvas, width: made.width, height: made.height, data: made.data});
    const hint = wanted.perspective_y ? " This one needs “corners”, or the tilt sliders." : wanted.scale_x < 0 ? " Is it mirrored?" : "";
    say(`Picture ${game.level + 1} of 10. Move the window until the target is upright and fills its frame. Par: ${par} pixels.${hint}`,
      ["Done", check, "first"], ["Stop", stop]);
  };

  const check = () => {
    const off = drift(theta(), game.theta), par = LEVELS[game.level][1], last = game.level === 9;
    game.score += off;
    const total = `${game.score.toFixed(1)} pixels in all, par ${LEVELS.slice(0, game.level + 1).reduce((sum, one) => sum + one[1], 0)}`;
    say(`${off.toFixed(1)} pixels: that is how far the window's corners are off, on average. ${off <= par ? "Under par!" : `Par is ${par}.`} ${last ? `The end: ${total}.` : `${total}.`}`,
      ...(last ? [] : [["Next picture", () => { game.level += 1; level(); }, "first"]]), ["Show the answer", () => set(game.answer)], ["Stop", stop]);
  };

  const stop = () => { const {original} = game || {}; quit(); Object.assign(at, rest); look(original || picture); };

  const straighten = () => { kept = null; game = {level: 0, score: 0, original: game?.original || picture}; find(".presets").hidden = true; level(); };

  // Two settings that look alike: the first is kept, and its target is compared with each that comes after.
  const twins = () => {
    if (game) stop();
    kept = {at: {...at}, data: target.data.slice()};
    alike();
  };

  const alike = () => {
    const other = Object.keys(at).filter(name => Math.abs(at[name] - kept.at[name]) > .02);
    let sum = 0;
    for (let i = 0; i < target.data.length; i += 4) sum += Math.abs(target.data[i] - kept.data[i]);
    const off = target.data.length === kept.data.length ? 4 * sum / target.data.length : 255, goal = "Find other sliders that show the same picture.";
    const text = !other.length ? `This setting is kept. ${goal}` : off < 1
      ? `Alike! ${other.length === 1 ? "Another" : "Others"}: ${other.join(", ").replace(/_/g, " ")}, and the picture is the same to ${off.toFixed(1)} gray levels.`
      : `The pictures differ by ${off.toFixed(0)} gray levels. ${goal}`;
    const box = find(".game"), words = box.querySelector("p");
    if (!box.hidden && words && box.dataset.twins) { if (words.textContent !== text) words.textContent = text; return; }
    say(text, ["Keep this one", twins], ["Stop", () => { kept = null; delete box.dataset.twins; box.hidden = true; }]);
    box.dataset.twins = "1";
  };

  // --- put together ---

  section.setAttribute("aria-label", options.title);
  section.classList.add(`${options.kind}-kind`);
  sourceCanvas.setAttribute("aria-label", "the source, and over it the sampling grid; its top row is blue");
  targetCanvas.setAttribute("aria-label", "the target: what is seen through the grid");
  sight.setAttribute("aria-label", "the target; arrow keys choose a pixel and say which place it reads");
  around.parentElement.querySelector("figcaption").append(element("b", {}, "source"), spline ? ": drag a point" : output ? ": drag a corner" : ": drag the window");
  find(".theta span").textContent = spline ? "affine part" : "θ =";
  matrix.setAttribute("aria-label", spline ? "the affine part" : "theta, three rows of three numbers");
  for (let i = 0; i < 9; i++) addEntry(i);
  const tools = find(".tools");
  if (options.kind === "matrix") {
    const joined = element("div", {class: "joined", role: "group", "aria-label": "what a corner does"});
    const modes = [["window", false, "a corner scales the window about the opposite one"], ["corners", true, "each corner goes its own way: a homography"]];
    tools.append(joined);
    for (const [label, way, title] of modes) addButton(joined, label, () => {
      free = way;
      [...joined.children].forEach((one, i) => one.setAttribute("aria-pressed", modes[i][1] === free));
    }, {title, "aria-pressed": way === free});
  }
  addButton(tools, "↶", () => travel(-1), {class: "icon undo", "aria-label": "undo", title: "undo (Ctrl+Z)", disabled: ""});
  addButton(tools, "↷", () => travel(1), {class: "icon redo", "aria-label": "redo", title: "redo (Ctrl+Y)", disabled: ""});
  toggle(tools, "snap", () => snap, value => { snap = value; }, "round numbers only; or hold Shift while you drag");
  addButton(tools, "reset", () => { if (game) set(rest); else { free = false; tools.querySelector(".joined button")?.click(); set(rest); } });
  for (const [label, values] of Object.entries(options.presets)) addButton(find(".presets"), label, () => set({...rest, ...values}));
  find(".presets").hidden = !Object.keys(options.presets).length;
  if (spline) {
    plate.knots.forEach((_, index) => addMark({kind: "point", index}));
    addSlider("point", {label: "control point", min: 1, max: options.k ** 2, step: 1}, () => chosen, value => { chosen = value; ask(); });
    for (const slider of options.sliders) {
      const name = () => slider.name + chosen;
      addSlider(slider.name, slider, () => at[name()], value => set({[name()]: value}));
    }
  } else {
    for (const kind of ["move", "edge", "corner", "knob"]) NAMES[kind].forEach((_, index) => addMark({kind, index}));
    for (const slider of options.sliders) {
      addSlider(slider.name, slider, () => at[slider.name], value => set({[slider.name]: value}));
    }
  }
  select = addChoice("picture", "picture", pictures.map(({name}) => name), pick);
  const file = find("input[type=file]");
  addButton(find(".chosen"), "Your own…", () => file.click(), {title: "or drop or paste one here; it never leaves this page"});
  file.addEventListener("change", () => { own(file.files[0]); file.value = ""; });
  addChoice("padding", "padding", PADDINGS, index => { padding = PADDINGS[index]; ask(); });
  if (output) toggle(find(".chosen"), "smooth the source first", () => smooth, value => { smooth = value; ask(); }, "a mean over one step of the samples");
  const links = find(".links");
  addButton(links, "Copy as Python", button => copy(find("code").textContent, button));
  if (options.link) addButton(links, "Copy link", button => copy(link(), button));
  if (options.kind === "matrix") {
    addButton(links, "Game: straighten this", straighten);
    addButton(links, "Two that look alike", twins);
  }
  find(".note").textContent = options.note || "";

  // Arrow keys are for the sliders: neither JupyterLab's shortcuts nor a site's page turning may have them.
  host.setAttribute("data-lm-suppress-shortcuts", "true");
  host.addEventListener("keydown", event => {
    event.stopPropagation();
    const key = event.key.toLowerCase(), typing = shadow.activeElement?.matches?.("input[type=text]") && shadow.activeElement.typing;
    if (!(event.ctrlKey || event.metaKey) || typing || !/^[zy]$/.test(key)) return;
    event.preventDefault();
    travel(key === "y" || event.shiftKey ? 1 : -1);
  });
  host.addEventListener("pointerdown", () => { touched = host; });
  host.addEventListener("focusin", () => { touched = host; });
  touched ??= host;
  document.addEventListener("paste", event => {
    const image = [...event.clipboardData?.files || []].find(({type}) => type.startsWith("image/"));
    if (!image || touched !== host || !host.isConnected) return;
    event.preventDefault();
    own(image);
  });
  section.addEventListener("dragover", event => { event.preventDefault(); section.classList.add("dropping"); });
  section.addEventListener("dragleave", () => section.classList.remove("dropping"));
  section.addEventListener("drop", event => {
    event.preventDefault();
    section.classList.remove("dropping");
    own(event.dataTransfer.files[0]);
  });
  const paint = () => section.toggleAttribute("data-dark", isDark());
  const watch = new MutationObserver(paint);
  for (const place of [document.documentElement, document.body]) watch.observe(place, {attributes: true});
  system.addEventListener("change", paint);
  // As many pixels as the screen has.
  new ResizeObserver(() => {
    const side = Math.round(sourceCanvas.clientWidth * Math.min(devicePixelRatio || 1, 2));
    if (side && side !== sourceCanvas.width) { sourceCanvas.width = sourceCanvas.height = side; draw(); }
  }).observe(sourceCanvas);
  paint();
  fromLink();
  addEventListener("hashchange", () => { Object.assign(at, location.hash.slice(1).split("&")[0] === options.kind ? rest : {}); fromLink(); ask(); });
  past = [JSON.stringify(at)];
  picture = pictures[0];
  told = stated();
  look(picture);
  host.explorer = {at, set, draw, theta}; // for one's own experiments, and for the tests
  return host.explorer;
};
