// All pairs as a heat map, one pair by layer and kind of module, the map of the updates, and their spectra.

function drawHeatmap() {
  const host = $('plot-heatmap');
  const one = measure();
  const runs = study().order;
  if (!table('geometry_global') || runs.length < 2) return empty(host, runs.length < 2 ? 'One run has no pair.' : 'Not in these results.');
  const step = one.key === 'cosine' ? stepAt() : null;
  const where = (state.layer === null ? 'all modules' : `layer ${state.layer}`) + (step === null ? '' : `, after step ${step}`);
  const found = new Map();
  const from = state.layer === null ? table('geometry_global') : table('geometry_layer');
  if (!from) return empty(host, 'The numbers by layer are not in these results.');
  const best = new Map();
  for (const row of from.rows({ measure: one.of_all, layer: state.layer ?? undefined })) {
    const [a, b, k] = [from.value('a', row), from.value('b', row), from.value('k', row) ?? 0];
    if (!((best.get(`${a} ${b}`) ?? -1) > k)) {
      best.set(`${a} ${b}`, k);
      found.set(`${a} ${b}`, from.value('value', row)).set(`${b} ${a}`, from.value('value', row));
    }
  }
  const shownOf = step === null ? found : cosinesAt(step);
  grid(host, {
    rows: runs,
    columns: runs,
    label: `${one.label} of every two updates, ${where}; choose a cell to select the pair`,
    cell: (r, c) => {
      if (r === c) return null;
      const value = shownOf.get(`${runs[r]} ${runs[c]}`) ?? null;
      return {
        fill: tint(one.scale, one.range, value),
        text: brief(value, one.unit),
        says: `${runs[r]} and ${runs[c]}, ${where}: ${one.label} ${shown(value, one.unit)}`,
        chosen: (runs[r] === state.a && runs[c] === state.b),
      };
    },
    choose: (r, c) => select({ a: runs[r], b: runs[c] }),
  });
  key($('key-heatmap'), one.scale, one.range, one.unit);
  const ends = step === null && stepAt() !== null ? ' At the end: only cosines are known step by step.' : '';
  $('heatmap-said').textContent = `${one.label}, ${where}. ${one.says}${ends}`;
  return null;
}

function drawModules() {
  const host = $('plot-modules');
  const from = table('geometry_module');
  const one = measure();
  if (!from || state.a === state.b) return empty(host, state.a === state.b ? 'Choose two different runs.' : 'The numbers by module are not in these results.');
  const [columns, rows] = [kinds(), layers()];
  const values = new Map();
  const best = new Map();
  for (const [a, b] of [[state.a, state.b], [state.b, state.a]]) {
    for (const row of from.rows({ measure: one.of_module, a, b })) {
      const at = `${from.value('layer', row)} ${kindOf(from.value('module', row))}`;
      const k = from.value('k', row) ?? 0;
      if (!((best.get(at) ?? -1) > k)) { best.set(at, k); values.set(at, from.value('value', row)); }
    }
  }
  grid(host, {
    rows: rows.map(String),
    columns: columns.map(short),
    side: 'layer',
    label: `${one.label} of ${state.a} and ${state.b} by layer and kind of module`,
    cell: (r, c) => {
      const at = `${rows[r]} ${columns[c]}`;
      if (!values.has(at)) return null;
      const value = values.get(at);
      return {
        fill: tint(one.scale, one.range, value),
        text: brief(value, one.unit),
        says: `layer ${rows[r]}, ${columns[c]}: ${one.label} ${shown(value, one.unit)}`,
        chosen: rows[r] === state.layer && columns[c] === (state.kind ?? columns[0]),
      };
    },
    choose: (r, c) => select({ layer: rows[r], kind: columns[c] }),
  });
  key($('key-modules'), one.scale, one.range, one.unit);
  return null;
}

function drawMap() {
  const host = $('plot-map');
  const { map } = study();
  if (!map) return empty(host, 'A map needs two updates with their inner products.');
  const every = [...map.points, ...map.clouds];
  const [dx, dy] = [extent(every.map((one) => one.x), 0.12), extent(every.map((one) => one.y), 0.12)];
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  chart(host, {
    label: `Map of the updates: ${map.points.map((one) => `${one.run} at ${shown(one.x)}, ${shown(one.y)}`).join('; ')}`,
    equal: true,
    x: { domain: dx, label: `first axis, ${percent(map.shares[0])} of the variance (norm of dW)` },
    y: { domain: dy, label: `second axis, ${percent(map.shares[1])}` },
    draw: (group, x, y, inner) => {
      const at = (run) => map.points.find((one) => one.run === run);
      const [from, to] = [at(state.a), at(state.b)];
      if (from && to) group.append(shape('line', { x1: x(from.x), y1: y(from.y), x2: x(to.x), y2: y(to.y), stroke: ink().soft, 'stroke-dasharray': '4 3' }));
      for (const one of map.clouds) group.append(titled(marker(one.run, x(one.x), y(one.y), 3.5, { opacity: 0.55 }), `${one.run}, replicate ${one.replicate}`));
      const own = (run) => run === state.a || run === state.b;
      const taken = map.points.map((one) => [x(one.x) - 6, y(one.y) - 6, x(one.x) + 6, y(one.y) + 6]);
      const labels = [];
      for (const { run, x: px, y: py } of map.points.map((one) => ({ run: one.run, x: x(one.x), y: y(one.y), at: one }))) {
        if (run === 'base') group.append(titled(shape('path', { d: `M${px - 6},${py}H${px + 6}M${px},${py - 6}V${py + 6}`, stroke: ink().text, 'stroke-width': 2 }), 'base: no update'));
        else group.append(titled(marker(run, px, py, own(run) ? 8 : 5.5), `${run}: ${shown(at(run).x)}, ${shown(at(run).y)}`));
        const name = run === 'base' ? 'base (no update)' : run;
        const [left, top, anchor] = labelPlace(px, py, name.length * (own(run) ? 7.2 : 6.5), taken, inner);
        labels.push(words(left, top, name, { 'text-anchor': anchor, fill: ink().text, 'font-weight': own(run) ? 700 : null }));
      }
      group.append(...labels);
    },
  });
  $('map-said').textContent = `The two axes hold ${percent(map.shares[0] + map.shares[1])} of the variance of the updates; what is left is not seen here.${map.clouds.length ? ' Small marks: the other replicates, each with a map of its own that is turned onto this one.' : ''}`;
  return null;
}

// Beside a point, where nothing else is: to the right, to the left, then above and below on either side.
function labelPlace(px, py, wide, taken, inner) {
  const places = [0, -14, 14, -26, 26, -38, 38].flatMap((shift) => [[10, shift], [-10, shift]]);
  const boxes = places.map(([dx, dy]) => [dx > 0 ? px + dx : px + dx - wide, py + dy - 7, dx > 0 ? px + dx + wide : px + dx, py + dy + 6]);
  const free = boxes.findIndex((box) => box[0] >= 0 && box[2] <= inner.w && box[1] >= 0 && box[3] <= inner.h
    && !taken.some((two) => box[0] < two[2] && box[2] > two[0] && box[1] < two[3] && box[3] > two[1]));
  const at = Math.max(free, 0);
  taken.push(boxes[at]);
  return [px + places[at][0], py + places[at][1] + 4, places[at][0] > 0 ? 'start' : 'end'];
}

function drawSpectra() {
  const [host, picker] = [$('plot-spectra'), $('kind')];
  const { spectra } = study();
  const known = kinds();
  if (!spectra || !known.length) { picker.disabled = true; return empty(host, 'Singular values are not in these results.'); }
  picker.disabled = false;
  const kind = known.includes(state.kind) ? state.kind : known[0];
  options(picker, known, kind, Object.fromEntries(known.map((one) => [one, short(one)])));
  const modules = Object.keys(spectra).filter((one) => kindOf(one) === kind);
  const layerOf = (module) => Number(/(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\./.exec(module)?.[1] ?? 0);
  const module = modules.find((one) => layerOf(one) === (state.layer ?? layers()[0])) ?? modules[0];
  const runs = Object.keys(spectra[module]);
  const lines = runs.map((run) => [run, spectra[module][run].map((value, index) => [index + 1, value > 0 ? value : null])]);
  const largest = Math.max(...lines.flatMap(([, points]) => points.map(([, value]) => value ?? 0)));
  const values = lines.flatMap(([, points]) => points.map(([, value]) => value)).filter((value) => value > largest * 1e-6);
  const length = Math.max(...lines.map(([, points]) => points.length));
  $('spectra-said').textContent = `Module ${module}.`;
  legend($('legend-spectra'), [...new Set([state.a, state.b])].filter((run) => run !== null).map((run) => [run, run]));
  return chart(host, {
    label: `Singular values of ${module}: ${[state.a, state.b].map((run) => `${run} ${(spectra[module][run] ?? []).slice(0, 8).map((value) => shown(value)).join(', ')}`).join('; ')}`,
    x: { domain: [1, Math.max(length, 2)], label: 'number of the singular value', ticks: ticks(1, length, 8).filter(Number.isInteger) },
    y: { domain: extent(values, 0, true), log: true, label: 'singular value (log)' },
    draw: (group, x, y) => {
      for (const [run, points] of lines.sort(([run]) => (run === state.a || run === state.b ? 1 : -1))) {
        const own = run === state.a || run === state.b;
        const kept = points.map(([index, value]) => [index, value > largest * 1e-6 ? value : null]);
        group.append(line(kept, x, y, { stroke: own ? colour(run) : ink().faint, 'stroke-width': own ? 2.2 : 1 }));
        if (own) for (const [index, value] of kept) if (value !== null) group.append(titled(marker(run, x(index), y(value), 4), `${run}, ${index}: ${shown(value)}`));
      }
    },
  });
}
