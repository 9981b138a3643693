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
