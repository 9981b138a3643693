// The sample browser. Everything that a model wrote goes into the page as a text node, never as markup.

const browsing = { benchmark: null, a: null, b: null, show: 'differ', words: '', from: 0 };
const PAGE = 8;
const SHOWS = {
  differ: 'where the two differ', a: 'first right, second wrong', b: 'first wrong, second right', wrong: 'both wrong', graders: 'where the graders disagree', all: 'all',
};

function drawSamples() {
  const { samples } = study();
  const names = Object.keys(samples ?? {});
  $('sample-controls').hidden = !names.length;
  if (!names.length) return empty($('sample-list'), 'Graded answers are not in these results.');
  if (!names.includes(browsing.benchmark)) Object.assign(browsing, { benchmark: names[0], from: 0 });
  const found = samples[browsing.benchmark];
  const { models } = found;
  if (!models.includes(browsing.a)) browsing.a = models.includes(state.a) ? state.a : models[0];
  if (!models.includes(browsing.b)) browsing.b = models.find((model) => model === state.b && model !== browsing.a) ?? models.find((model) => model !== browsing.a) ?? models[0];
  options($('sample-benchmark'), names, browsing.benchmark);
  options($('sample-a'), models, browsing.a);
  options($('sample-b'), models, browsing.b);
  options($('sample-show'), Object.keys(SHOWS), browsing.show, SHOWS);
  const [i, j] = [models.indexOf(browsing.a), models.indexOf(browsing.b)];
  const kept = found.problems.filter((problem) => matches(problem, problem.of[i], problem.of[j]));
  browsing.from = Math.min(browsing.from, Math.max(0, Math.ceil(kept.length / PAGE - 1) * PAGE));
  const part = kept.slice(browsing.from, browsing.from + PAGE);
  const many = found.samples > 1 ? ` The first of ${found.samples} completions is shown, with how many of them are correct.` : '';
  const whole = found.problems.length < found.all ? ` This page holds ${found.problems.length} of ${found.all} problems, those first on which the models differ most; the others are in graded/.` : ` This page holds all ${found.all} problems.`;
  $('sample-said').textContent = `${kept.length ? `${browsing.from + 1} to ${browsing.from + part.length} of ${kept.length}` : 'No'} problems fit.${whole}${many}`;
  $('sample-list').replaceChildren(...part.map((problem) => article(problem, problem.of[i], problem.of[j])));
  $('sample-back').disabled = browsing.from === 0;
  $('sample-on').disabled = browsing.from + PAGE >= kept.length;
  return null;
}

function matches(problem, a, b) {
  if (!a || !b) return false;
  const fits = {
    differ: a.right !== b.right, a: a.correct && !b.correct, b: !a.correct && b.correct, wrong: !a.correct && !b.correct, graders: a.apart || b.apart, all: true,
  }[browsing.show];
  if (!fits || !browsing.words) return fits;
  const wanted = browsing.words.toLowerCase();
  return [problem.id, problem.question, problem.gold, a.text, a.end, b.text, b.end].some((text) => text && text.toLowerCase().includes(wanted));
}

function article(problem, a, b) {
  const made = element('article', { class: 'sample' });
  made.append(element('h4', {}, element('bdi', {}, problem.id)), element('p', { class: 'question', dir: 'auto' }, problem.question));
  made.append(element('p', { class: 'small' }, 'gold answer: ', element('bdi', {}, problem.gold)));
  made.append(element('div', { class: 'two' }, answer(browsing.a, a), answer(browsing.b, b)));
  return made;
}

function answer(model, of) {
  const { samples } = study().samples[browsing.benchmark];
  const many = samples > 1 ? `, ${of.right} of ${samples} correct` : '';
  const verdict = element('p', { class: of.correct ? 'verdict right' : 'verdict wrong' }, `${of.correct ? '✓ correct' : '✗ wrong'}${many}`);
  const graders = element('p', { class: 'small' }, `strict: ${of.strict}${of.reason !== of.strict ? ` (${of.reason})` : ''}; math-verify: ${of.math_verify}; read as `, element('bdi', {}, of.extracted ?? 'no answer'), `; ${of.tokens} tokens, ended by ${of.finish}`);
  const text = element('pre', { dir: 'auto', tabindex: 0, 'aria-label': `Completion of ${model}` }, of.text);
  if (of.left) {
    text.append(element('span', { class: 'cut' }, `[${of.left} characters are left out here; the whole text is in graded/${model}/${browsing.benchmark}.jsonl]`), of.end ?? '');
  }
  return element('section', { class: 'answer', 'aria-label': `${model}` }, element('h5', {}, model), verdict, graders, text);
}

function wireSamples() {
  for (const [id, name] of [['sample-benchmark', 'benchmark'], ['sample-a', 'a'], ['sample-b', 'b'], ['sample-show', 'show']]) {
    $(id).addEventListener('change', (event) => { Object.assign(browsing, { [name]: event.target.value, from: 0 }); drawSamples(); });
  }
  $('sample-words').addEventListener('input', (event) => { Object.assign(browsing, { words: event.target.value.trim(), from: 0 }); drawSamples(); });
  $('sample-back').addEventListener('click', () => { browsing.from = Math.max(0, browsing.from - PAGE); drawSamples(); });
  $('sample-on').addEventListener('click', () => { browsing.from += PAGE; drawSamples(); });
}
