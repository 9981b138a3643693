// Wiring: controls to the selection, the selection to the views, the theme, and what is drawn when.

const AT_ONCE = [drawReference, drawPicker, drawSteps, drawStepChart, drawAccuracy, drawNumbers, drawHeatmap, drawMap];
const AFTERWARDS = [drawLayers, drawModules, drawSpectra, drawCurves, drawSamples, drawFiles];
let unpacked = false;

function drawAll() {
  for (const draw of unpacked ? [...AT_ONCE, ...AFTERWARDS] : AT_ONCE) draw();
  document.querySelectorAll('[data-study]').forEach((one) => { one.hidden = Number(one.dataset.study) !== state.study; });
}

const later = (draw) => () => { if (unpacked) draw(); };
onSelect(['a', 'b', 'layer', 'measure'], () => { drawPicker(); drawNumbers(); drawHeatmap(); });
onSelect(['step'], () => { drawSteps(); drawNumbers(); drawHeatmap(); });
onSelect(['a', 'b'], drawMap);
onSelect(['a', 'b', 'layer'], drawStepChart);
onSelect(['a', 'b', 'layer'], later(drawLayers));
onSelect(['a', 'b', 'layer', 'measure', 'kind'], later(drawModules));
onSelect(['a', 'b', 'layer', 'kind'], later(drawSpectra));
onSelect(['a', 'b'], later(drawCurves));

function wire() {
  $('run-a').addEventListener('change', (event) => select({ a: event.target.value }));
  $('run-b').addEventListener('change', (event) => select({ b: event.target.value }));
  $('swap').addEventListener('click', () => select({ a: state.b, b: state.a }));
  $('measure').addEventListener('change', (event) => select({ measure: event.target.value }));
  $('kind').addEventListener('change', (event) => select({ kind: event.target.value }));
  $('layer').addEventListener('input', (event) => select({ layer: Number(event.target.value) < 0 ? null : layers()[Number(event.target.value)] }));
  $('step').addEventListener('input', (event) => select({ step: steps()[Number(event.target.value)] ?? null }));
  $('benchmark').addEventListener('change', (event) => { state.benchmark = event.target.value; drawTests(); });
  const studies = $('study');
  if (studies) {
    options(studies, STUDIES.map((_, index) => index), state.study, Object.fromEntries(STUDIES.map((one, index) => [index, one.name])));
    studies.addEventListener('change', (event) => {
      state.study = Number(event.target.value);
      Object.assign(browsing, { benchmark: null, a: null, b: null, from: 0 });
      Object.assign(state, defaults());
      writeHash();
      drawAll();
    });
  }
  // a link to a section keeps the selection in the address
  document.querySelectorAll('a[data-section]').forEach((link) => link.addEventListener('click', (event) => {
    event.preventDefault();
    const section = $(link.dataset.section);
    section.scrollIntoView();
    section.querySelector('h2').focus({ preventScroll: true });
  }));
  window.addEventListener('hashchange', () => { Object.assign(state, readHash()); drawAll(); });
  document.querySelectorAll('[data-side]').forEach((button) => button.addEventListener('click', () => {
    const name = button.dataset.side;
    save(new Table(NOW.sideBySide[name]).csv(), `${name}.csv`, 'text/csv');
  }));
  wireSamples();
  wireFigures();
}

// The theme is the system's until it is chosen; print is light.
function wireTheme() {
  const picker = $('theme');
  const root = document.documentElement;
  const keep = (theme) => { root.dataset.theme = theme; picker.value = theme; };
  try { keep(window.localStorage.getItem('deltageom-theme') ?? 'system'); } catch { keep('system'); }
  picker.addEventListener('change', () => {
    keep(picker.value);
    try { window.localStorage.setItem('deltageom-theme', picker.value); } catch { /* a file may not be allowed to */ }
    drawAll();
  });
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
  let before = null;
  window.addEventListener('beforeprint', () => { before = root.dataset.theme; root.dataset.theme = 'light'; drawAll(); });
  window.addEventListener('afterprint', () => { root.dataset.theme = before; drawAll(); });
}

function wireWidth() {
  let width = window.innerWidth;
  window.addEventListener('resize', () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    window.requestAnimationFrame(drawAll);
  });
}

document.documentElement.classList.add('drawn');
Object.assign(state, readHash());
wireTheme();
wire();
drawAll();
wireWidth();
requestAnimationFrame(() => setTimeout(async () => {
  try {
    await unpack();
    unpacked = true;
    drawAll();
  } catch (error) {
    $('trouble').hidden = false;
    $('trouble').textContent = `This browser could not unpack the rest of the page (${error.message}). A newer one can; the tables are also beside this file.`;
  }
  document.documentElement.dataset.ready = 'true';
}));
