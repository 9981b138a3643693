// The two chosen updates: every number of the pair beside chance and the paper's, and the same layer by layer.

// A measure of the chosen (or another) pair: the row of the table of all modules, of a layer, or of a module.
function pairRow(name, wanted, a = state.a, b = state.b) {
  const from = table(name);
  if (!from || a === b) return null;
  for (const [x, y] of [[a, b], [b, a]]) {
    const rows = from.rows({ ...wanted, a: x, b: y });
    if (rows.length) return from.row(rows.reduce((best, row) => ((from.value('k', row) ?? 0) >= (from.value('k', best) ?? 0) ? row : best)));
  }
  return null;
}

const ofAll = (one, a, b) => pairRow('geometry_global', { measure: one.of_all }, a, b);
const ofLayer = (one, layer, a, b) => pairRow('geometry_layer', { measure: one.of_all, layer }, a, b);

// What chance gives beside a row: text, and the value to draw.
function chance(one, row) {
  if (!row) return { value: null, text: NONE };
  const [own, fresh] = [row.chance_own_mean ?? null, row.chance_fresh_mean ?? null];
  if (one.chance === 'sd') {
    const sd = row.chance_own_sd ?? row.chance_fresh_sd ?? null;
    return { value: sd, text: sd === null ? NONE : `0 ± ${shown(sd)}` };
  }
  const value = one.chance === 'own' ? own ?? fresh : fresh;
  return { value, text: shown(value, one.unit) };
}

function paperOf(one) {
  const values = study().paper[one.of_all];
  if (!values || ![state.a, state.b].includes(study().reference)) return null;
  return values[state.a === study().reference ? state.b : state.a] ?? null;
}

function drawPicker() {
  const { runs } = study();
  options($('run-a'), runs, state.a);
  options($('run-b'), runs, state.b);
  options($('measure'), MEASURES.map((one) => one.key), state.measure, Object.fromEntries(MEASURES.map((one) => [one.key, one.label])));
  const known = layers();
  const slider = $('layer');
  slider.min = -1;
  slider.max = Math.max(known.length - 1, -1);
  slider.disabled = !known.length;
  slider.value = state.layer === null ? -1 : known.indexOf(state.layer);
  const said = state.layer === null ? 'all layers' : `layer ${state.layer}`;
  slider.setAttribute('aria-valuetext', said);
  $('layer-said').textContent = said;
}

function cell(value, exact, name) {
  return element('td', { class: 'number', 'data-value': name, 'data-exact': exact ?? '' }, value);
}

function drawNumbers() {
  const { a, b, layer } = state;
  $('pair-said').textContent = a === b ? 'Choose two different runs.' : `${a} and ${b}`;
  const body = $('numbers');
  const over = table('replicates');
  const rows = MEASURES.map((one) => {
    const [all, at] = [ofAll(one), layer === null ? null : ofLayer(one, layer)];
    const found = over && a !== b ? pairRow('replicates', { source: 'geometry_global', measure: one.of_all }) : null;
    const interval = found ? `, mean of ${found.n} draws ${shown(found.mean, one.unit)}${between(found.low, found.high)}` : between(all?.low, all?.high);
    const paper = paperOf(one);
    return element('tr', {}, element('th', { scope: 'row', title: one.says }, one.label),
      cell(all ? shown(all.value, one.unit) + interval : NONE, all?.value, `${one.key}-all`),
      cell(chance(one, all).text, chance(one, all).value, `${one.key}-chance`),
      cell(layer === null ? '' : shown(at?.value ?? null, one.unit), at?.value, `${one.key}-layer`),
      cell(layer === null ? '' : chance(one, at).text, chance(one, at).value, `${one.key}-layer-chance`),
      cell(paper === null ? '' : shown(paper, one.unit), paper, `${one.key}-paper`));
  });
  const line = (label, name, all, exact, at = '', atExact = null) => element('tr', {}, element('th', { scope: 'row' }, label),
    cell(all, exact, `${name}-all`), cell('', null, `${name}-chance`), cell(at, atExact, `${name}-layer`), cell('', null, `${name}-layer-chance`), cell('', null, `${name}-paper`));
  if (table('cka')) {
    const points = ckaOf('debiased').filter(([, value]) => value !== null);
    const lowest = points.length ? points.reduce((low, one) => (one[1] < low[1] ? one : low)) : null;
    const at = layer === null ? null : pairRow('cka', { layer, estimator: 'debiased' })?.similarity ?? null;
    rows.push(line('CKA, debiased (lowest layer)', 'cka', lowest ? `${shown(lowest[1])} (layer ${lowest[0]})` : NONE, lowest?.[1], layer === null ? '' : shown(at), at));
  }
  if (table('barriers')) {
    const row = pairRow('barriers', {});
    rows.push(line('barrier above the chord, nats per token', 'barrier', row ? shown(row.chord) + between(row.chord_low, row.chord_high) : NONE, row?.chord));
  }
  body.replaceChildren(...rows, ...stepRows(line));
  document.querySelectorAll('.layer-name').forEach((one) => { one.textContent = layer === null ? 'layer (move the slider)' : `layer ${layer}`; });
}

function ckaOf(estimator) {
  const from = table('cka');
  if (!from) return [];
  for (const [x, y] of [[state.a, state.b], [state.b, state.a]]) {
    const rows = from.rows({ a: x, b: y, estimator });
    if (rows.length) return rows.map((row) => [from.value('layer', row), from.value('similarity', row)]).sort((p, q) => p[0] - q[0]);
  }
  return [];
}

function byLayer(name, pick) {
  const one = MEASURES.find((of) => of.key === name);
  const from = table('geometry_layer');
  if (!from || state.a === state.b) return [];
  const [x, y] = from.rows({ measure: one.of_all, a: state.a, b: state.b }).length ? [state.a, state.b] : [state.b, state.a];
  const best = new Map();
  for (const row of from.rows({ measure: one.of_all, a: x, b: y })) {
    const found = from.row(row);
    const held = best.get(found.layer);
    if (!held || (found.k ?? 0) >= (held.k ?? 0)) best.set(found.layer, found);
  }
  return [...best.values()].sort((p, q) => p.layer - q.layer).map((row) => [row.layer, pick(one, row)]);
}

// The cosine by layer as its mean over replicates, with intervals, where there are any.
function cosineOverReplicates() {
  const over = table('replicates');
  if (!over || state.a === state.b) return null;
  const found = layers().map((layer) => pairRow('replicates', { source: 'geometry_layer', measure: 'cosine', layer })).filter(Boolean);
  return found.length ? found : null;
}

const valueOf = (_, row) => row.value;
const chanceOf = (one, row) => chance(one, row).value;

// Lines over layers; each is [points, attributes, name]. The slider's layer is marked.
function layerChart(id, label, unit, domain, lines, band = [], spans = []) {
  const host = $(id);
  const known = layers();
  if (!lines.some(([points]) => points.some(([, value]) => value !== null)) || known.length < 1) return empty(host, 'Not in these results for this pair.');
  const first = [known[0] - 0.3, known[known.length - 1] + 0.3];
  const said = lines.map(([points, , name]) => `${name}: ${points.map(([layer, value]) => `layer ${layer} ${shown(value)}`).join(', ')}`).join('. ');
  return chart(host, {
    label: `${label} of ${state.a} and ${state.b} by layer. ${said}`,
    x: { domain: first, label: 'layer', ticks: ticks(known[0], known[known.length - 1] + 0.001, 8).filter(Number.isInteger) },
    y: { domain, label: unit ? `${label} (${unit})` : label },
    draw: (group, x, y, inner) => {
      if (state.layer !== null) group.append(shape('line', { x1: x(state.layer), x2: x(state.layer), y1: 0, y2: inner.h, stroke: ink().soft, 'stroke-dasharray': '2 3' }));
      if (band.length) {
        const edge = (sign) => band.map(([layer, sd]) => `${x(layer).toFixed(1)},${y(sign * 2 * (sd ?? 0)).toFixed(1)}`);
        group.append(shape('path', { d: `M${edge(1).join('L')}L${edge(-1).reverse().join('L')}Z`, fill: ink().faint, opacity: 0.45 }));
      }
      for (const [layer, low, high] of spans) group.append(shape('line', { x1: x(layer), x2: x(layer), y1: y(low), y2: y(high), stroke: lines[0][1].stroke, 'stroke-width': 1.5 }));
      for (const [points, attributes, name] of lines) {
        group.append(line(points, x, y, attributes));
        if (attributes['stroke-dasharray']) continue;
        for (const [layer, value] of points) {
          if (value !== null) group.append(titled(shape('circle', { cx: x(layer), cy: y(value), r: layer === state.layer ? 5.5 : 3.5, fill: attributes.stroke, stroke: ink().page }), `${name}, layer ${layer}: ${shown(value)}`));
        }
      }
    },
  });
}

function drawLayers() {
  const [one, other] = [dark() ? '#6FB1F0' : '#0B62A8', dark() ? '#F0A35E' : '#B4530A'];
  const solid = (stroke) => ({ stroke });
  const dashed = (stroke) => ({ stroke, 'stroke-dasharray': '5 4', 'stroke-width': 1.5 });
  const drawn = cosineOverReplicates();
  const cosine = drawn ? drawn.map((row) => [row.layer, row.mean]) : byLayer('cosine', valueOf);
  const spans = drawn ? drawn.filter((row) => row.low !== null).map((row) => [row.layer, Math.max(row.low, -1), Math.min(row.high, 1)]) : [];
  const band = byLayer('cosine', chanceOf);
  const values = [...cosine, ...spans].flatMap(([, ...ends]) => ends).filter((value) => value !== null);
  const name = drawn ? `mean of ${drawn[0].n} replicates` : 'cosine';
  layerChart('plot-cosine', 'cosine', '', [Math.min(-0.1, ...values) - 0.02, Math.max(1, ...values)], [[cosine, solid(one), name]], band, spans);
  layerChart('plot-orthogonal', 'orthogonal fraction', '', [0, 1.03], [[byLayer('orthogonal', valueOf), solid(one), 'measured'], [byLayer('orthogonal', chanceOf), dashed(ink().soft), 'chance']]);
  for (const side of ['left', 'right']) {
    layerChart(`plot-${side}`, `${side} angles`, 'degrees', [0, 93], [
      [byLayer(`${side}_smallest`, valueOf), solid(one), 'smallest'], [byLayer(`${side}_smallest`, chanceOf), dashed(one), 'chance, smallest'],
      [byLayer(`${side}_largest`, valueOf), solid(other), 'largest'], [byLayer(`${side}_largest`, chanceOf), dashed(other), 'chance, largest'],
    ]);
  }
  layerChart('plot-overlaps', 'overlap', '', [0, 1.03], [
    [byLayer('u1', valueOf), solid(one), 'u1 (output)'], [byLayer('u1', chanceOf), dashed(one), 'chance, u1'],
    [byLayer('v1', valueOf), solid(other), 'v1 (input)'], [byLayer('v1', chanceOf), dashed(other), 'chance, v1'],
  ]);
  const similar = ckaOf('debiased');
  const biased = ckaOf('biased');
  const lowest = Math.min(0.9, ...[...similar, ...biased].map(([, value]) => value ?? 1));
  layerChart('plot-cka', 'CKA', '', [lowest - 0.02, 1.01], [[similar, solid(one), 'debiased'], [biased, dashed(other), 'biased']]);
  drawPath(one);
}

// The loss along the straight way from a to b.
function drawPath(stroke) {
  const host = $('plot-path');
  const from = table('connectivity');
  let points = [];
  for (const [x, y, turned] of from ? [[state.a, state.b, false], [state.b, state.a, true]] : []) {
    const rows = from.rows({ a: x, b: y });
    if (rows.length) points = rows.map((row) => [turned ? from.value('alpha', row) : 1 - from.value('alpha', row), from.value('loss', row)]).sort((p, q) => p[0] - q[0]);
  }
  if (!points.some(([, loss]) => loss !== null)) return empty(host, 'Loss paths are not in these results for this pair.');
  const ends = [points[0], points[points.length - 1]];
  const uniform = pairRow('barriers', {})?.uniform ?? null;
  $('path-said').textContent = uniform === null ? '' : `A model to which all tokens are equally likely has a loss of ${shown(uniform)}.`;
  return chart(host, {
    label: `Loss from ${state.a} to ${state.b}: ${points.map(([share, loss]) => `${shown(share)}: ${shown(loss)}`).join(', ')}`,
    x: { domain: [0, 1], label: `share of ${state.b}'s update (0: ${state.a})`, ticks: [0, 0.25, 0.5, 0.75, 1] },
    y: { domain: extent(points.map(([, loss]) => loss), 0.15), label: 'loss (nats per token)' },
    draw: (group, x, y) => {
      group.append(line(ends, x, y, { stroke: ink().soft, 'stroke-dasharray': '5 4', 'stroke-width': 1.5 }), line(points, x, y, { stroke }));
      for (const [share, loss] of points) if (loss !== null) group.append(titled(shape('circle', { cx: x(share), cy: y(loss), r: 3, fill: stroke }), `share ${shown(share)}: ${shown(loss)} nats per token`));
      ends.forEach(([share, loss], index) => { if (loss !== null) group.append(marker(index ? state.b : state.a, x(share), y(loss), 5.5)); });
    },
  });
}
