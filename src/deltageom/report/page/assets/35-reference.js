// The first picture: each update's cosine with the reference's, the paper's value beside it.

function drawReference() {
  const host = $('plot-reference');
  const { reference, runs } = study();
  const one = MEASURES.find((of) => of.key === 'cosine');
  const over = table('replicates');
  const found = runs.filter((run) => run !== reference).map((run) => {
    const row = ofAll(one, reference, run);
    const drawn = over && pairRow('replicates', { source: 'geometry_global', measure: 'cosine' }, reference, run);
    const at = drawn ? { value: drawn.mean, low: drawn.low, high: drawn.high } : { value: row?.value ?? null, low: null, high: null };
    return { run, ...at, sd: row ? chance(one, row).value : null, paper: study().paper.cosine?.[run] ?? null };
  }).filter((of) => of.value !== null).sort((p, q) => q.value - p.value);
  $('reference-said').textContent = reference ? `Cosine with ${reference}; 1 is the same direction, 0 is unrelated.` : '';
  if (!found.length) return empty(host, 'There is no pair with the reference here.');
  const tone = ink();
  const left = Math.min(Math.max(...found.map((of) => of.run.length)) * 6.8 + 14, 150);
  const width = Math.min(Math.max(260, host.clientWidth), 760);
  const height = found.length * 26 + 48;
  const low = Math.min(0, ...found.flatMap((of) => [of.low ?? of.value, of.paper ?? 0])) - 0.08;
  const x = scale([low, 1.03], [left, width - 58]);
  const said = found.map((of) => `${of.run} ${shown(of.value)}${between(of.low, of.high)}${of.paper === null ? '' : `, paper ${shown(of.paper)}`}`).join('; ');
  const svg = shape('svg', { width, height, role: 'img', 'aria-label': `Cosine with ${reference}: ${said}`, 'font-family': 'system-ui, sans-serif' });
  for (const at of ticks(low, 1, 6)) svg.append(shape('line', { x1: x(at), x2: x(at), y1: 4, y2: height - 42, stroke: tone.grid }), words(x(at), height - 25, tickText(at), { 'text-anchor': 'middle' }));
  svg.append(words((left + width - 58) / 2, height - 6, `cosine with ${reference}`, { 'text-anchor': 'middle' }));
  found.forEach((of, index) => {
    const y = 17 + index * 26;
    svg.append(words(left - 10, y + 4, of.run, { 'text-anchor': 'end', fill: tone.text }));
    if (of.sd !== null) svg.append(shape('rect', { x: x(-2 * of.sd), y: y - 9, width: Math.max(x(2 * of.sd) - x(-2 * of.sd), 1), height: 18, fill: tone.faint, opacity: 0.5 }));
    if (of.low !== null) svg.append(shape('line', { x1: x(of.low), x2: x(of.high), y1: y, y2: y, stroke: colour(of.run), 'stroke-width': 2.5 }));
    if (of.paper !== null) svg.append(titled(shape('path', { d: MARKERS.D(5), transform: `translate(${x(of.paper)},${y})`, fill: 'none', stroke: tone.text, 'stroke-width': 1.5 }), `the paper: ${shown(of.paper)}`));
    svg.append(titled(marker(of.run, x(of.value), y, 6), `${of.run}: ${shown(of.value)}${between(of.low, of.high)}`));
    svg.append(words(width - 50, y + 4, shown(of.value), { fill: tone.text }));
  });
  host.replaceChildren(svg);
  legend($('legend-reference'), []);
  return null;
}
