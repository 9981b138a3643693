// The embedded data: tables by columns, as src/deltageom/report/page/columns.py writes them.

const NONE = 'not available';

class Table {
  constructor(raw) {
    this.n = raw.n;
    this.names = Object.keys(raw.columns);
    this.raw = raw.columns;
  }

  has(name) { return name in this.raw; }

  value(name, row) {
    const column = this.raw[name];
    if (column === undefined) return null;
    if (Array.isArray(column)) return column[row];
    if ('all' in column) return column.all;
    const code = column.of[row];
    return code < 0 ? null : column.text[code];
  }

  // Rows where each of the named columns has the value; a value of undefined is not asked for.
  rows(wanted) {
    const tests = [];
    for (const [name, value] of Object.entries(wanted)) {
      if (value === undefined) continue;
      const column = this.raw[name];
      if (column === undefined) continue;
      if (Array.isArray(column)) tests.push((row) => column[row] === value);
      else if ('all' in column) { if (column.all !== value) return []; } else {
        const code = value === null ? -1 : column.text.indexOf(value);
        if (code < 0 && value !== null) return [];
        tests.push((row) => column.of[row] === code);
      }
    }
    const found = [];
    for (let row = 0; row < this.n; row += 1) if (tests.every((test) => test(row))) found.push(row);
    return found;
  }

  row(row) { return Object.fromEntries(this.names.map((name) => [name, this.value(name, row)])); }

  different(name) {
    const column = this.raw[name];
    if (column === undefined) return [];
    if (Array.isArray(column)) return [...new Set(column)].filter((value) => value !== null);
    return 'all' in column ? [column.all] : column.text;
  }

  csv() {
    const quoted = (value) => {
      if (value === null) return '';
      if (typeof value === 'boolean') return value ? 'True' : 'False';
      const text = String(value);
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [this.names.map(quoted).join(',')];
    for (let row = 0; row < this.n; row += 1) lines.push(this.names.map((name) => quoted(this.value(name, row))).join(','));
    return `${lines.join('\n')}\n`;
  }
}

const NOW = JSON.parse(document.getElementById('data').textContent);
const MEASURES = NOW.measures;
const STUDIES = NOW.studies.map((study) => ({
  ...study,
  tables: Object.fromEntries(Object.entries(study.tables).map(([name, raw]) => [name, new Table(raw)])),
  spectra: null,
  samples: {},
}));

// The compressed block: long tables, spectra, samples. Read after the first picture.
async function unpack() {
  const packed = document.getElementById('more').textContent.trim();
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const { studies } = JSON.parse(await new Response(stream).text());
  studies.forEach((more, index) => {
    const study = STUDIES[index];
    for (const [name, raw] of Object.entries(more.tables)) study.tables[name] = new Table(raw);
    Object.assign(study.shortened, more.shortened);
    Object.assign(study, { spectra: more.spectra, samples: more.samples });
  });
}

// Numbers for people: three significant digits, at most four decimals; what is missing is said in words.
function shown(value, unit = '') {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (typeof value !== 'number') return String(value);
  if (value === 0) return `0${unit}`;
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return `${value.toExponential(1)}${unit}`.replace('-', '−').replace('e-', 'e−');
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.9995 ? 2 : 3;
  return `${value.toFixed(digits)}${unit}`.replace('-', '−');
}

const between = (low, high, unit = '') => (low === null || low === undefined ? '' : ` [${shown(low)}, ${shown(high)}]${unit}`);
