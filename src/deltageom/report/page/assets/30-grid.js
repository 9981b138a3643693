// Heat maps: a grid of cells that the arrow keys walk through, Enter and Space choose, and a pointer clicks.

const RAMPS = {
  both: { light: ['#1F5FA8', '#8DB3DB', '#F1F2F4', '#E2A19A', '#A8322D'], dark: ['#6FA8E8', '#35577F', '#2A2E35', '#7C3F3B', '#EB8A82'] },
  one: { light: ['#F4F6F8', '#A9CBD4', '#3F8A9C', '#0F4A5A'], dark: ['#262A31', '#2C5560', '#4FA3B5', '#BFE9F2'] },
};

function mixed(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(at), stops.length - 2);
  const parts = [1, 3, 5].map((start) => {
    const [from, to] = [stops[index], stops[index + 1]].map((stop) => parseInt(stop.slice(start, start + 2), 16));
    return Math.round(from + (to - from) * (at - index));
  });
  return `#${parts.map((part) => part.toString(16).padStart(2, '0')).join('')}`;
}

const ramp = (kind) => RAMPS[kind === 'both' ? 'both' : 'one'][dark() ? 'dark' : 'light'];
const tint = (kind, [low, high], value) => (value === null ? ink().grid : mixed(ramp(kind), (value - low) / (high - low)));

function readableOn(fill) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = parseInt(fill.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? '#101317' : '#FFFFFF';
}

// One cell takes part in tabbing, the arrows move within: {rows, columns, cell(r, c), label, choose, corner}.
// cell: {fill, text, says, chosen, bold} or null where there is none.
function grid(host, { rows, columns, cell, label, choose, side = null }) {
  const held = host.contains(document.activeElement) ? document.activeElement.dataset.at : null;
  const letters = (names) => Math.max(...names.map((name) => name.length), 2) * 6.6;
  const left = Math.min(letters(rows), 130) + 10 + (side ? 16 : 0);
  const slanted = columns.some((name) => name.length > 4) ? 34 : 4;
  const room = (host.clientWidth || 320) - left - slanted;
  const size = Math.max(30, Math.min(46, Math.floor(room / columns.length)));
  const flat = columns.every((name) => name.length * 6.6 < size - 2);
  const top = flat ? 22 : Math.min(letters(columns), 130) * 0.72 + 16;
  const reach = columns.map((name, c) => size * (c + 0.5) + (flat ? 0 : Math.min(name.length * 6.6, 150) * 0.72 + 6));
  const width = left + Math.max(size * columns.length + 4, ...reach);
  const svg = shape('svg', {
    width, height: top + size * rows.length + 4, role: 'grid', 'aria-label': label, 'font-family': 'system-ui, sans-serif',
    'aria-rowcount': rows.length + 1, 'aria-colcount': columns.length + 1,
  });
  const tone = ink();
  const head = shape('g', { role: 'row' });
  head.append(shape('g', { role: 'columnheader', 'aria-label': side ?? 'names' }));
  columns.forEach((name, c) => {
    const x = left + size * (c + 0.5);
    const place = flat ? { 'text-anchor': 'middle' } : { transform: `rotate(-45 ${x} ${top - 8})` };
    head.append(words(x, top - 8, name, { role: 'columnheader', fill: tone.text, ...place }));
  });
  svg.append(head);
  if (side) svg.append(words(12, top + (size * rows.length) / 2, side, { 'text-anchor': 'middle', transform: `rotate(-90 12 ${top + (size * rows.length) / 2})`, 'aria-hidden': 'true' }));
  const cells = [];
  rows.forEach((name, r) => {
    const row = shape('g', { role: 'row' });
    row.append(words(left - 7, top + size * (r + 0.5) + 4, name, { role: 'rowheader', 'text-anchor': 'end', fill: tone.text }));
    columns.forEach((_, c) => {
      const of = cell(r, c);
      const made = shape('g', {
        role: 'gridcell', class: 'cell', tabindex: -1, 'data-at': `${r},${c}`, 'aria-label': of ? of.says : NONE,
        'aria-selected': of && of.chosen ? 'true' : 'false',
      });
      const [x, y] = [left + size * c, top + size * r];
      const fill = of ? of.fill : tone.page;
      made.append(shape('rect', { x: x + 0.5, y: y + 0.5, width: size - 1, height: size - 1, rx: 2, fill, class: 'face' }));
      if (of && of.text && size >= 30) {
        made.append(shape('text', {
          x: x + size / 2, y: y + size / 2 + 4, 'text-anchor': 'middle', 'font-size': size >= 40 ? 11.5 : 10, 'font-weight': of.bold ? 700 : null,
          fill: readableOn(fill), 'aria-hidden': 'true',
        }, of.text));
      }
      if (of && of.chosen) made.append(shape('rect', { x: x + 1.5, y: y + 1.5, width: size - 3, height: size - 3, rx: 2, fill: 'none', stroke: tone.text, 'stroke-width': 2.5 }));
      if (of) titled(made, of.says);
      row.append(made);
      cells.push({ r, c, made, of });
    });
    svg.append(row);
  });
  const find = (r, c) => cells.find((one) => one.r === r && one.c === c);
  const first = cells.find((one) => held === `${one.r},${one.c}`) ?? cells.find((one) => one.of && one.of.chosen) ?? cells[0];
  if (first) first.made.setAttribute('tabindex', 0);
  svg.addEventListener('click', (event) => {
    const at = cells.find((one) => one.made.contains(event.target));
    if (at && at.of) { hold(at); choose(at.r, at.c); }
  });
  svg.addEventListener('keydown', (event) => {
    const at = cells.find((one) => one.made === document.activeElement);
    if (!at) return;
    const moves = {
      ArrowUp: [at.r - 1, at.c], ArrowDown: [at.r + 1, at.c], ArrowLeft: [at.r, at.c - 1], ArrowRight: [at.r, at.c + 1],
      Home: [at.r, 0], End: [at.r, columns.length - 1],
    };
    if (event.key in moves) {
      event.preventDefault();
      const next = find(...moves[event.key]);
      if (next) hold(next);
    } else if ((event.key === 'Enter' || event.key === ' ') && at.of) {
      event.preventDefault();
      choose(at.r, at.c);
    }
  });
  function hold(next) {
    cells.forEach((one) => one.made.setAttribute('tabindex', one === next ? 0 : -1));
    next.made.focus();
  }
  host.replaceChildren(svg);
  if (held && first) first.made.focus();
  return svg;
}

// A value for a cell: two decimals without the zero before them, degrees without decimals.
function brief(value, unit) {
  if (value === null) return '–';
  if (unit) return value.toFixed(0);
  const text = value.toFixed(2);
  return (Number(text) === 0 ? '0' : text.replace(/^(-?)0\./, '$1.')).replace('-', '−');
}

// What the colours of a heat map mean.
function key(host, kind, [low, high], unit) {
  const bar = shape('svg', { width: 160, height: 12, 'aria-hidden': 'true' });
  for (let at = 0; at < 40; at += 1) bar.append(shape('rect', { x: at * 4, y: 0, width: 4.5, height: 12, fill: mixed(ramp(kind), at / 39) }));
  host.replaceChildren(element('span', {}, `${tickText(Number(low.toPrecision(2)))}${unit}`), bar, element('span', {}, `${tickText(Number(high.toPrecision(2)))}${unit}`));
}
