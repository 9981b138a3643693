// The updates on the way: all pairs and the chosen one after a step of the training, where runs kept snapshots.

function steps() {
  const from = table('trajectory_pairs');
  return from ? from.different('step').sort((x, y) => x - y) : [];
}

// The chosen step; null for the runs' ends, and where there is no such snapshot.
const stepAt = () => (steps().includes(state.step) ? state.step : null);

// The slider's last place is the runs' ends.
function drawSteps() {
  const known = steps();
  const [slider, step] = [$('step'), stepAt()];
  $('step-control').hidden = !known.length;
  slider.max = known.length;
  slider.value = step === null ? known.length : known.indexOf(step);
  const said = step === null ? 'the end' : `step ${step}`;
  slider.setAttribute('aria-valuetext', said);
  $('step-said').textContent = said;
}

// By pair, in both orders, the cosine after the step of all modules or of the chosen layer.
function cosinesAt(step) {
  const [from, found] = [table('trajectory_pairs'), new Map()];
  for (const row of from.rows({ step, layer: state.layer })) {
    const [a, b, value] = ['a', 'b', 'cosine'].map((name) => from.value(name, row));
    found.set(`${a} ${b}`, value).set(`${b} ${a}`, value);
  }
  return found;
}

// The cosine of the chosen pair over the snapshots, over replicates with intervals, before those of the first run.
function drawStepChart() {
  const known = steps();
  const [host, figure] = [$('plot-steps'), document.querySelector('[data-figure="steps"]')];
  figure.hidden = !known.length;
  if (!known.length) return null;
  const { a, b, layer } = state;
  const over = table('replicates');
  const at = (step, x, y) => {
    const drawn = over && layer === null ? pairRow('replicates', { source: 'trajectory_pairs', measure: 'cosine', step }, x, y) : null;
    if (drawn) return { step, value: drawn.mean, low: drawn.low, high: drawn.high, n: drawn.n };
    return { step, value: pairRow('trajectory_pairs', { step, layer }, x, y)?.cosine ?? null, low: null, high: null, n: 1 };
  };
  const series = (other) => known.map((step) => at(step, a, other));
  const others = study().runs.filter((run) => run !== a && run !== b).map((run) => [run, series(run)]);
  const own = a === b ? [] : series(b);
  const all = [...others.flatMap(([, points]) => points), ...own];
  if (!all.some((point) => point.value !== null)) return empty(host, 'Not in these results for this pair.');
  const n = Math.max(...all.map((point) => point.n));
  $('steps-said').textContent = `${n > 1 ? `Means over ${n} replicates` : 'One draw'}, ${layer === null ? 'all modules' : `layer ${layer}`}.`;
  const path = (points) => points.map((point) => [point.step, point.value]);
  const y = { domain: extent(all.flatMap((point) => [point.value, point.low, point.high]), 0.08), label: `cosine with ${a}` };
  return chart(host, {
    label: `Cosine of ${a} and ${b} after each snapshot: ${own.map((point) => `step ${point.step} ${shown(point.value)}${between(point.low, point.high)}`).join(', ')}`,
    x: { domain: [Math.min(...known), Math.max(...known, Math.min(...known) + 1)], label: 'step', log: known[0] > 0, ticks: known.length <= 8 ? known : undefined },
    y,
    draw: (group, sx, sy) => {
      for (const [run, points] of others) group.append(titled(line(path(points), sx, sy, { stroke: ink().faint, 'stroke-width': 1.3 }), run));
      for (const point of own.filter((one) => one.low !== null)) group.append(shape('line', { x1: sx(point.step), x2: sx(point.step), y1: sy(point.low), y2: sy(point.high), stroke: colour(b), 'stroke-width': 1.5 }));
      group.append(line(path(own), sx, sy, { stroke: colour(b) }));
      for (const point of own) if (point.value !== null) group.append(titled(marker(b, sx(point.step), sy(point.value), 4), `step ${point.step}: ${shown(point.value)}${between(point.low, point.high)}`));
    },
  });
}

// The rows of the table of numbers: none at the runs' ends, which the other rows are of.
function stepRows(line) {
  const step = stepAt();
  if (step === null) return [];
  const [all, at] = [null, state.layer].map((layer) => pairRow('trajectory_pairs', { step, layer }));
  const ratio = (row) => {
    if (!row) return null;
    const [own, other] = row.a === state.a ? [row.norm_a, row.norm_b] : [row.norm_b, row.norm_a];
    return other ? own / other : null;
  };
  const text = (value) => (state.layer === null ? '' : shown(value));
  const [cosine, layerCosine] = [all?.cosine ?? null, at?.cosine ?? null];
  return [
    line(`cosine after step ${step}`, 'step-cosine', shown(cosine), cosine, text(layerCosine), layerCosine),
    line(`norm after step ${step}, first by second run`, 'step-ratio', shown(ratio(all)), ratio(all), text(ratio(at)), ratio(at)),
  ];
}
