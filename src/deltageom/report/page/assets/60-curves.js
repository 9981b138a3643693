// Training: metrics of every run over its optimiser steps, the two chosen runs in front.

const CURVES = [
  ['loss', 'loss', 'of different methods: different quantities', 'loss', true, false],
  ['grad_norm', 'gradient norm', 'before clipping, in the loss’s unit', 'norm (log)', true, true],
  ['delta_norm', 'norm of the update', 'Frobenius, in weights', 'norm', false, false],
  ['kl_to_base', 'KL(base ‖ run)', 'on held-out prompts', 'nats per token', false, false],
  ['reward', 'reward', 'of the step’s own samples (online runs)', 'mean reward', true, false],
  ['weight_share_correct', 'weight on correct rows', 'share of |d loss / d log-prob|', 'share', true, false],
];

function drawCurves() {
  const host = $('plot-curves');
  const from = table('training_curves');
  if (!from) return empty(host, 'Training curves are not in these results.');
  const panels = [];
  for (const [metric, name, what, unit, smooth, log] of CURVES) {
    const rows = from.rows({ metric });
    const runs = new Map();
    for (const row of rows) {
      const run = from.value('run', row);
      if (!runs.has(run)) runs.set(run, []);
      runs.get(run).push([from.value('step', row), from.value('value', row)]);
    }
    if (![...runs.values()].flat().some(([, value]) => value !== null)) continue;
    const panel = element('div', { class: 'panel' }, element('h4', {}, name), element('p', { class: 'small' }, what));
    const plot = element('div', { class: 'plot' });
    panel.append(plot);
    panels.push([panel, plot, name, unit, runs, smooth, log]);
  }
  host.replaceChildren(...panels.map(([panel]) => panel));
  for (const [, plot, name, unit, runs, smooth, log] of panels) {
    const lines = [...runs].map(([run, points]) => [run, smooth ? running(points) : points]);
    const steps = lines.flatMap(([, points]) => points.map(([step]) => step));
    const chosen = (run) => run === state.a || run === state.b;
    chart(plot, {
      label: `${name} by step; last values: ${lines.map(([run, points]) => `${run} ${shown(points[points.length - 1][1])}`).join(', ')}`,
      height: 180,
      x: { domain: [0, Math.max(...steps, 1)], label: 'optimiser step' },
      y: { domain: extent(lines.flatMap(([, points]) => points.map(([, value]) => value)), 0.06, log), log, label: unit },
      draw: (group, x, y) => {
        for (const [run, points] of lines.sort(([p], [q]) => chosen(p) - chosen(q))) {
          const path = line(points, x, y, { stroke: colour(run), 'stroke-width': chosen(run) ? 2.6 : 1.1, opacity: chosen(run) ? 1 : 0.6 });
          group.append(titled(path, run));
          const [step, value] = points[points.length - 1];
          if (value !== null && Number.isFinite(y(value))) group.append(titled(marker(run, x(step), y(value), chosen(run) ? 5 : 3.5), `${run}, step ${step}: ${shown(value)}`));
        }
      },
    });
  }
  legend($('legend-curves'), study().runs.map((run) => [run, run]));
  return null;
}

// The running mean over a twenty-fifth of the steps, as in the static figure.
function running(points) {
  const window = Math.max(1, Math.floor(points.length / 25));
  return points.map(([step, own], index) => {
    const known = points.slice(Math.max(0, index - window + 1), index + 1).map(([, value]) => value).filter((value) => value !== null);
    return [step, own === null || !known.length ? null : known.reduce((sum, value) => sum + value, 0) / known.length];
  });
}
