// What is selected, kept in the address after the #, and who is told when it changes.

const state = { study: 0, a: null, b: null, layer: null, step: null, measure: 'cosine', kind: null, benchmark: null };
const listeners = [];

const study = () => STUDIES[state.study];
const table = (name) => study().tables[name];
const measure = () => MEASURES.find((one) => one.key === state.measure);
const lookOf = (run) => study().looks[run] ?? { light: '#555555', dark: '#BBBBBB', marker: 'o' };

function layers() {
  const from = table('geometry_layer') ?? table('cka');
  return from ? from.different('layer').sort((x, y) => x - y) : [];
}

// A module's layer and kind: `layers.3.self_attn.q_proj` is of layer 3 and kind `self_attn.q_proj`.
function kindOf(module) {
  const found = /(?:^|\.)(?:layers|h|blocks|layer)\.\d+\.(.+)$/.exec(module);
  return found ? found[1] : module;
}

function kinds() {
  const modules = table('geometry_module');
  if (modules) return [...new Set(modules.different('module').map(kindOf))];
  return study().spectra ? [...new Set(Object.keys(study().spectra).map(kindOf))] : [];
}

const short = (kind) => kind.split('.').pop();

function select(change, quietly = false) {
  Object.assign(state, change);
  if (!quietly) writeHash();
  for (const listener of listeners) listener(change);
}

function onSelect(keys, draw) {
  listeners.push((change) => { if (keys.some((key) => key in change) || 'study' in change) draw(); });
}

function defaults() {
  const { runs, reference } = study();
  const a = reference ?? runs[0] ?? null;
  const b = runs.find((run) => run !== a) ?? a;
  return { a, b, layer: null, step: null };
}

function writeHash() {
  const parts = [];
  if (STUDIES.length > 1) parts.push(`study=${encodeURIComponent(study().name)}`);
  if (state.a !== null) parts.push(`pair=${encodeURIComponent(state.a)},${encodeURIComponent(state.b)}`);
  parts.push(`layer=${state.layer ?? 'all'}`);
  if (state.step !== null) parts.push(`step=${state.step}`);
  if (state.measure !== 'cosine') parts.push(`measure=${state.measure}`);
  if (state.kind !== null) parts.push(`kind=${encodeURIComponent(state.kind)}`);
  try { window.history.replaceState(null, '', `#${parts.join('&')}`); } catch { /* some viewers forbid it */ }
}

// What the address says, as far as the study has it; what it does not say is as at the start.
function readHash() {
  const said = Object.fromEntries(window.location.hash.slice(1).split('&').map((part) => part.split('=')));
  const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  const index = STUDIES.findIndex((one) => one.name === decoded(said.study ?? ''));
  if (index >= 0) state.study = index;
  const found = defaults();
  const pair = (said.pair ?? '').split(',').map(decoded);
  if (pair.length === 2 && pair.every((run) => study().runs.includes(run))) [found.a, found.b] = pair;
  if (/^\d+$/.test(said.layer ?? '')) found.layer = Number(said.layer);
  if (/^\d+$/.test(said.step ?? '')) found.step = Number(said.step);
  if (MEASURES.some((one) => one.key === said.measure)) found.measure = said.measure;
  if (said.kind) found.kind = decoded(said.kind);
  return found;
}
