// Drawing: elements, scales, axes, lines, and figures as files. Nothing here knows what is drawn.

const SVG = 'http://www.w3.org/2000/svg';
const dark = () => {
  const theme = document.documentElement.dataset.theme ?? 'system';
  return theme === 'dark' || (theme === 'system' && window.matchMedia('(prefers-color-scheme: dark)').matches);
};
const ink = () => (dark()
  ? { text: '#E6E8EB', soft: '#A9B0BA', grid: '#343941', faint: '#565D68', page: '#1E2127' }
  : { text: '#1B1F24', soft: '#59616B', grid: '#E9EBEE', faint: '#BFC5CC', page: '#FFFFFF' });
const colour = (run) => (dark() ? lookOf(run).dark : lookOf(run).light);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function words(x, y, text, attributes = {}) {
  return shape('text', { x, y, fill: ink().soft, 'font-size': 11.5, ...attributes }, text);
}

const titled = (made, text) => { made.append(shape('title', {}, text)); return made; };

function ticks(low, high, most = 5) {
  const step = 10 ** Math.floor(Math.log10((high - low) / most || 1));
  const nice = [1, 2, 5, 10].map((of) => of * step).find((of) => (high - low) / of <= most) ?? 10 * step;
  const found = [];
  for (let at = Math.ceil(low / nice - 1e-9); at * nice <= high + nice * 1e-9; at += 1) found.push(Number((at * nice).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const of of high / low < 200 ? [1, 2, 5] : [1]) {
      const value = of * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  const every = Math.ceil(found.length / 7);
  return found.filter((_, index) => index % every === 0);
}

// A scale from values to pixels.
function scale([low, high], [from, to], log = false) {
  const f = log ? Math.log : (value) => value;
  const span = f(high) - f(low) || 1;
  return (value) => from + ((f(value) - f(low)) / span) * (to - from);
}

function extent(values, share = 0.06, log = false) {
  const known = values.filter((value) => value !== null && Number.isFinite(value) && (!log || value > 0));
  if (!known.length) return log ? [1, 10] : [0, 1];
  let low = Math.min(...known);
  let high = Math.max(...known);
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.15, high * 1.15];
  if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
  return [low - (high - low) * share, high + (high - low) * share];
}

// An empty chart with axes; `draw(group, x, y)` fills it. x, y: {domain, label, log, ticks, format}.
function chart(host, { label, height = 210, x, y, draw, equal = false }) {
  const width = Math.max(240, Math.floor(host.clientWidth || 320));
  const count = (domain) => y.ticks ?? (y.log ? logTicks(...domain) : ticks(...domain, 5));
  const margin = { left: 34 + 6.5 * Math.max(...count(y.domain).map((at) => tickText(at).length), 2), right: 12, top: 10, bottom: 40 };
  const inner = { w: width - margin.left - margin.right, h: height - margin.top - margin.bottom };
  if (equal) inner.h = isometric(x, y, inner.w);
  const ys = count(y.domain);
  const sx = scale(x.domain, [0, inner.w], x.log);
  const sy = scale(y.domain, [inner.h, 0], y.log);
  const tone = ink();
  const svg = shape('svg', {
    width, height: inner.h + margin.top + margin.bottom, role: 'img', 'aria-label': label, 'font-family': 'system-ui, sans-serif',
  });
  const group = shape('g', { transform: `translate(${margin.left},${margin.top})` });
  const xs = x.ticks ?? (x.log ? logTicks(...x.domain) : ticks(...x.domain, Math.max(2, Math.floor(inner.w / 60))));
  ys.forEach((at) => {
    group.append(shape('line', { x1: 0, x2: inner.w, y1: sy(at), y2: sy(at), stroke: tone.grid }));
    group.append(words(-8, sy(at) + 4, (y.format ?? tickText)(at), { 'text-anchor': 'end' }));
  });
  for (const at of xs) group.append(words(sx(at), inner.h + 17, (x.format ?? tickText)(at), { 'text-anchor': 'middle' }));
  group.append(shape('line', { x1: 0, x2: inner.w, y1: inner.h, y2: inner.h, stroke: tone.faint }));
  group.append(words(inner.w / 2, inner.h + 34, x.label, { 'text-anchor': 'middle' }));
  group.append(words(-inner.h / 2, 16 - margin.left, y.label, { 'text-anchor': 'middle', transform: 'rotate(-90)' }));
  draw(group, sx, sy, inner);
  svg.append(group);
  host.replaceChildren(svg);
  return svg;
}

// One unit is as long on both axes: the domains are widened until the chart is neither flat nor tall. Its height.
function isometric(x, y, width) {
  const spans = [x, y].map(({ domain: [low, high] }) => high - low);
  const height = Math.min(Math.max((spans[1] / spans[0]) * width, 0.55 * width), 0.85 * width);
  const unit = Math.max(spans[0] / width, spans[1] / height);
  for (const [axis, size, span] of [[x, width, spans[0]], [y, height, spans[1]]]) {
    const more = (unit * size - span) / 2;
    axis.domain = [axis.domain[0] - more, axis.domain[1] + more];
  }
  return height;
}

function tickText(value) {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1e4 || size < 1e-3) return value.toExponential(0).replace('e+', 'e').replace('-', '−').replace('e-', 'e−');
  return String(Number(value.toPrecision(4))).replace('-', '−');
}

// A line through [x, y] points, broken where y is missing.
function line(points, sx, sy, attributes) {
  let path = '';
  let open = false;
  for (const [x, y] of points) {
    if (y === null || y === undefined || !Number.isFinite(sy(y))) open = false;
    else { path += `${open ? 'L' : 'M'}${sx(x).toFixed(1)},${sy(y).toFixed(1)}`; open = true; }
  }
  return shape('path', { d: path, fill: 'none', 'stroke-width': 2, 'stroke-linejoin': 'round', ...attributes });
}

const MARKERS = {
  o: (r) => `M${r},0A${r},${r} 0 1 1 ${-r},0A${r},${r} 0 1 1 ${r},0Z`,
  s: (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  D: (r) => `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0Z`,
  '^': (r) => `M0,${-r * 1.2}L${r * 1.2},${r}H${-r * 1.2}Z`,
  v: (r) => `M0,${r * 1.2}L${r * 1.2},${-r}H${-r * 1.2}Z`,
  P: (r) => `M${-r / 2.5},${-r}H${r / 2.5}V${-r / 2.5}H${r}V${r / 2.5}H${r / 2.5}V${r}H${-r / 2.5}V${r / 2.5}H${-r}V${-r / 2.5}H${-r / 2.5}Z`,
  X: (r) => `M${-r},${-r * 0.5}L${-r * 0.5},${-r}L0,${-r * 0.5}L${r * 0.5},${-r}L${r},${-r * 0.5}L${r * 0.5},0L${r},${r * 0.5}L${r * 0.5},${r}L0,${r * 0.5}L${-r * 0.5},${r}L${-r},${r * 0.5}L${-r * 0.5},0Z`,
};

function marker(run, x, y, size = 5, attributes = {}) {
  const path = (MARKERS[lookOf(run).marker] ?? MARKERS.o)(size);
  return shape('path', { d: path, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, fill: colour(run), stroke: ink().page, ...attributes });
}

function legend(host, entries) {
  host.replaceChildren(...entries.map(([run, text, dash]) => {
    const key = shape('svg', { width: 26, height: 12, 'aria-hidden': 'true' });
    const stroke = run === null ? ink().soft : colour(run);
    key.append(shape('line', { x1: 0, x2: 26, y1: 6, y2: 6, stroke, 'stroke-width': 2, 'stroke-dasharray': dash ?? null }));
    if (run !== null && !dash) key.append(marker(run, 13, 6, 4));
    return element('li', {}, key, text);
  }));
}

const empty = (host, why) => host.replaceChildren(element('p', { class: 'nothing' }, why));

// The drawn figure as a file: what the style sheet gives is written into it.
function svgFile(svg) {
  const copy = svg.cloneNode(true);
  for (const attribute of ['tabindex', 'role', 'aria-label']) copy.querySelectorAll(`[${attribute}]`).forEach((one) => one.removeAttribute(attribute));
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute('xmlns', SVG);
  copy.setAttribute('viewBox', `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`);
  copy.prepend(shape('rect', { width: '100%', height: '100%', fill: ink().page }));
  return new XMLSerializer().serializeToString(copy);
}

function save(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = element('a', { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
