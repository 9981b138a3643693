// Everything as a file: tables as csv from the embedded data, figures as svg.

const ROWS = 20; // of a table's preview

function drawFiles() {
  const { tables, shortened, captions } = study();
  const names = Object.keys(tables).sort();
  $('files').replaceChildren(...names.map((name) => {
    const found = tables[name];
    const details = element('details', {}, element('summary', {}, `${name}, ${found.n} ${found.n === 1 ? 'row' : 'rows'}`));
    details.append(element('p', {}, captions[name] ?? ''));
    if (shortened[name]) details.append(element('p', { class: 'note' }, `In this page: ${shortened[name]}.`));
    const button = element('button', { type: 'button', 'data-csv': name, onclick: () => save(found.csv(), `${name}.csv`, 'text/csv') }, `Download ${name}.csv`);
    details.append(button);
    details.addEventListener('toggle', () => { if (details.open && !details.querySelector('table')) details.append(preview(name, found)); });
    return details;
  }));
}

function preview(name, found) {
  const head = element('tr', {}, ...found.names.map((column) => element('th', { scope: 'col' }, column)));
  const body = [];
  for (let row = 0; row < Math.min(ROWS, found.n); row += 1) {
    body.push(element('tr', {}, ...found.names.map((column) => element('td', {}, shown(found.value(column, row)).slice(0, 200)))));
  }
  const made = element('table', {}, element('caption', { class: 'small' }, `The first ${body.length} of ${found.n} rows, rounded; the file has every digit of the page.`), element('thead', {}, head), element('tbody', {}, ...body));
  return element('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': `Table ${name}` }, made);
}

// A button under each figure; a figure of several panels gives a file of each.
function wireFigures() {
  document.querySelectorAll('figure[data-figure]').forEach((figure) => {
    const name = figure.dataset.figure;
    figure.append(element('button', {
      type: 'button', class: 'quiet', 'aria-label': `Download ${name} as SVG`, onclick: () => {
        const drawn = [...figure.querySelectorAll('.plot > svg, .panels .plot > svg')];
        [...new Set(drawn)].forEach((svg, index) => save(svgFile(svg), `${name}${drawn.length > 1 ? `-${index + 1}` : ''}.svg`, 'image/svg+xml'));
      },
    }, 'Download SVG'));
  });
}
