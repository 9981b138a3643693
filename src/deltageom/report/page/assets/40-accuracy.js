// What the models answer: accuracies with their intervals, and the matrix of paired tests.

const $ = (id) => document.getElementById(id);

// A benchmark's rows, a model each: means over replicates where there are any, else the one draw's.
function scoresOn(benchmark) {
  const scores = table('accuracy');
  const own = scores.rows({ benchmark }).map((row) => scores.row(row));
  const over = table('replicates');
  const means = new Map((over ? over.rows({ source: 'accuracy', benchmark }) : []).map((row) => [over.value('a', row), over.row(row)]));
  return own.map((row) => {
    const mean = means.get(row.model);
    const both = { ...row, strict: row.accuracy, drawn: 1 };
    return mean ? { ...both, accuracy: mean.mean, low: mean.problems_low ?? mean.low, high: mean.problems_high ?? mean.high, drawn: mean.n } : both;
  });
}

// What the second grader says of the same answers, where it was asked; of the first replicate.
const secondGrader = (row) => row.math_verify_accuracy ?? null;

function saysScore(row, benchmark) {
  const second = secondGrader(row);
  const first = row.drawn > 1 ? `, replicate 1 ${shown(row.strict)}` : '';
  const other = second === null ? '' : `; math-verify ${shown(second)}${row.drawn > 1 ? ' in replicate 1' : ''}`;
  return `${row.model} on ${benchmark}: ${shown(row.accuracy)}${between(row.low, row.high)}${first}${other}`;
}

function drawAccuracy() {
  const scores = table('accuracy');
  const host = $('plot-accuracy');
  if (!scores) return empty(host, 'Accuracies are not in these results.');
  const models = scores.different('model');
  const panels = scores.different('benchmark').map((benchmark) => {
    const rows = scoresOn(benchmark);
    const panel = element('div', { class: 'panel' });
    const { n, samples, interval, drawn } = rows[0];
    const how = drawn > 1 ? `mean of ${drawn} replicates; 95 % interval over replicates and problems` : `95 % interval: ${interval}`;
    panel.append(element('h4', {}, `${benchmark}`), element('p', { class: 'small' }, `n = ${n} problems, ${samples > 1 ? `mean of ${samples} samples` : 'one answer each'}; ${how}`));
    const plot = element('div', { class: 'plot' });
    panel.append(plot);
    return [panel, plot, benchmark, rows];
  });
  host.replaceChildren(...panels.map(([panel]) => panel));
  const named = Math.min(Math.max(...models.map((model) => model.length)) * 6.8 + 14, 140);
  for (const [, plot, benchmark, rows] of panels) {
    const width = Math.max(250, plot.clientWidth);
    const height = models.length * 25 + 46;
    const domain = extent(rows.flatMap((row) => [row.low, row.high, row.accuracy, secondGrader(row)]), 0.08);
    const x = scale(domain, [named, width - 14]);
    const tone = ink();
    const base = rows.find((row) => row.model === 'base');
    const said = rows.map((row) => saysScore(row, benchmark)).join('; ');
    const svg = shape('svg', { width, height, role: 'img', 'aria-label': `Accuracy. ${said}`, 'font-family': 'system-ui, sans-serif' });
    for (const at of ticks(...domain, 5)) {
      svg.append(shape('line', { x1: x(at), x2: x(at), y1: 6, y2: height - 40, stroke: tone.grid }), words(x(at), height - 24, tickText(at), { 'text-anchor': 'middle' }));
    }
    svg.append(words((named + width) / 2, height - 6, 'accuracy', { 'text-anchor': 'middle' }));
    if (base) svg.append(shape('line', { x1: x(base.accuracy), x2: x(base.accuracy), y1: 6, y2: height - 40, stroke: tone.soft, 'stroke-dasharray': '4 3' }));
    models.forEach((model, index) => {
      const row = rows.find((one) => one.model === model);
      const y = 18 + index * 25;
      svg.append(words(named - 10, y + 4, model, { 'text-anchor': 'end', fill: tone.text }));
      if (!row) return;
      const group = shape('g', {});
      if (row.low !== null) group.append(shape('line', { x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: colour(model), 'stroke-width': 2.5 }));
      const second = secondGrader(row);
      if (second !== null) group.append(shape('circle', { cx: x(second), cy: y, r: 3.5, fill: 'none', stroke: tone.text, 'stroke-width': 1.3 }));
      group.append(marker(model, x(row.accuracy), y, 5.5));
      svg.append(titled(group, saysScore(row, benchmark)));
    });
    plot.replaceChildren(svg);
  }
  return drawTests();
}

let chosenTest = null;

function drawTests() {
  const tests = table('comparisons');
  const [host, picker] = [$('plot-tests'), $('benchmark')];
  if (!tests) { picker.hidden = true; return empty(host, 'Paired tests are not in these results.'); }
  const benchmarks = tests.different('benchmark');
  if (!benchmarks.includes(state.benchmark)) state.benchmark = benchmarks[0];
  options(picker, benchmarks, state.benchmark);
  const benchmark = state.benchmark;
  const rows = tests.rows({ benchmark }).map((row) => tests.row(row));
  const models = ['base', ...study().order].filter((model) => rows.some((row) => row.a === model || row.b === model));
  const of = (a, b) => {
    const row = rows.find((one) => one.a === a && one.b === b);
    if (row) return row;
    const turned = rows.find((one) => one.a === b && one.b === a);
    return turned && { ...turned, a, b, difference: -turned.difference, low: neg(turned.high), high: neg(turned.low), only_a: turned.only_b, only_b: turned.only_a };
  };
  const most = Math.max(0.05, ...rows.map((row) => Math.abs(row.difference)));
  if (!chosenTest || !models.includes(chosenTest[0]) || !models.includes(chosenTest[1])) chosenTest = [models[1], models[0]];
  grid(host, {
    rows: models,
    columns: models,
    label: `Difference in accuracy on ${benchmark}, row less column`,
    cell: (r, c) => {
      const row = r === c ? null : of(models[r], models[c]);
      if (!row) return null;
      const sure = believed(row);
      return {
        fill: tint('both', [-most, most], row.difference),
        text: `${row.difference >= 0.005 ? '+' : ''}${brief(row.difference, '')}${sure ? mark(row) : ''}`,
        bold: sure && confirmatory(row),
        says: saysTest(row, benchmark),
        chosen: chosenTest[0] === models[r] && chosenTest[1] === models[c],
      };
    },
    choose: (r, c) => { chosenTest = [models[r], models[c]]; drawTests(); },
  });
  key($('key-tests'), 'both', [-most, most], '');
  const row = of(...chosenTest);
  $('said-tests').textContent = row ? saysTest(row, benchmark) : '';
  return null;
}

const neg = (value) => (value === null ? null : -value);
const confirmatory = (row) => row.p_holm !== null;
const mark = (row) => (confirmatory(row) ? '*' : '°');
const believed = (row) => (confirmatory(row) ? row.p_holm < 0.05 : row.q_bh !== null && row.q_bh < 0.05);

// The paired difference of two models over the replicates, where there are some.
function overReplicates(row, benchmark) {
  const drawn = table('replicate_differences');
  if (!drawn) return '';
  for (const [x, y, sign] of [[row.a, row.b, 1], [row.b, row.a, -1]]) {
    const [at] = drawn.rows({ measure: 'accuracy', benchmark, x, y });
    if (at === undefined) continue;
    const found = drawn.row(at);
    const ends = sign > 0 ? [found.low, found.high] : [neg(found.high), neg(found.low)];
    return ` Over ${found.n} replicates: ${shown(sign * found.difference)}${between(...ends)}, an interval over replicates for this pair alone.`;
  }
  return '';
}

function saysTest(row, benchmark) {
  const test = confirmatory(row)
    ? `p ${shown(row.p)}, ${shown(row.p_holm)} after Holm's correction over the declared family`
    : `p ${shown(row.p)}, q ${shown(row.q_bh)} (Benjamini-Hochberg, exploration)`;
  const counts = row.only_a === null || row.only_a === undefined ? '' : ` ${row.only_a} problems are solved by ${row.a} alone, ${row.only_b} by ${row.b} alone.`;
  const found = confirmatory(row) ? 'They differ.' : 'This is exploration: a difference for a further study to test.';
  const alone = row.low !== null && (row.low > 0 || row.high < 0) ? ' The interval is for this pair alone and leaves out 0; the correction is for all pairs.' : '';
  const verdict = believed(row) ? found : `No difference is shown.${alone}`;
  const draw = table('replicates') ? 'in replicate 1, ' : '';
  return `${row.a} less ${row.b} on ${benchmark}: ${draw}${shown(row.difference)}${between(row.low, row.high)}; ${test}. ${verdict}${counts}${overReplicates(row, benchmark)}`;
}

function options(picker, values, chosen, labels = {}) {
  picker.replaceChildren(...values.map((value) => element('option', { value: String(value), selected: value === chosen }, labels[value] ?? String(value))));
  picker.value = String(chosen);
}
