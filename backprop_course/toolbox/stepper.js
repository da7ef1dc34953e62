// The stepper of backprop_course.toolbox.stepper. It fills each `.backprop-trace` on the page that is not filled yet: one element
// holds the trace as JSON, a table for pages without scripts, and this script. All text enters the page as text.
(() => {
  const SVG = 'http://www.w3.org/2000/svg';

  function make(tag, attributes = {}, ...children) {
    const element = tag.startsWith('svg:') ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // What a timeline [[step, what], ...] holds at a step; undefined if nothing yet.
  function at(timeline, step) {
    let found;
    for (const [from, what] of timeline) if (from <= step) found = what;
    return found ?? undefined;
  }

  const size = numbers => numbers.shape.length ? numbers.shape.join(' × ') : '';
  const index = (numbers, row, column) => [numbers.rows[row], numbers.columns[column]].filter(part => part !== '').join(', ');
  const isUnread = numbers => numbers.digest === 'unread';  // complex or sparse numbers, for instance
  const isOdd = text => !Number.isFinite(Number(text));

  // ---- Numbers as a small picture

  function background(text, largest) {
    const value = Number(text);
    if (!Number.isFinite(value) || !value) return '';
    const strength = 0.12 + 0.53 * Math.min(1, Math.abs(value) / largest);
    return `rgba(var(${value < 0 ? '--low' : '--high'}), ${strength.toFixed(3)})`;
  }

  function describe(name, numbers) {
    const values = numbers.values.flat();
    if (isUnread(numbers)) return `${name}, ${size(numbers) || 'one number'}: numbers that cannot be shown`;
    if (!values.length) return `${name}, ${size(numbers) || 'one number'}: no numbers`;
    if (numbers.complete && values.length <= 36) {
      const rows = numbers.values.map((row, place) => (numbers.rows[place] ? `row ${numbers.rows[place]}: ` : '') + row.join(', '));
      return `${name}, ${size(numbers) || 'one number'}. ${rows.join('; ')}`;
    }
    const finite = values.map(Number).filter(Number.isFinite);
    const range = finite.length ? `from ${Math.min(...finite)} to ${Math.max(...finite)}` : 'none of them finite';
    return `${name}, ${size(numbers) || 'one number'}, ${values.length} numbers shown, ${range}`;
  }

  // Whether the numbers fit into their cells.
  const inWords = ({values}) => values.length <= 8 && values.every(row => row.length <= 4 && row.every(text => text.length <= 6));

  // The height that a part of a card needs at most, so that nothing moves when numbers come in.
  function room(trace, timeline) {
    const heights = timeline.filter(([, place]) => place !== null).map(([, place]) => {
      const numbers = trace.numbers[place];
      return 32 + numbers.values.length * (inWords(numbers) ? 23 : 11) + (numbers.complete ? 0 : 18);
    });
    return Math.max(50, ...heights);
  }

  function heatMap(name, numbers, readout) {
    const values = numbers.values, columns = values.length ? values[0].length : 0, written = inWords(numbers);
    const finite = values.flat().map(Number).filter(Number.isFinite);
    const largest = Math.max(1e-300, ...finite.map(Math.abs));
    const map = make('div', {class: written ? 'map text' : 'map', role: 'img', tabindex: '0', 'aria-label': describe(name, numbers)});
    map.style.gridTemplateColumns = `repeat(${columns}, ${written ? 'auto' : 'minmax(4px, 10px)'})`;
    const cells = values.map(row => row.map(text => {
      const cell = make('div', {class: isOdd(text) ? 'cell odd' : 'cell'}, written ? text : '');
      cell.style.backgroundColor = background(text, largest);
      map.append(cell);
      return cell;
    }));
    let here = [-1, 0];
    function show(row, column) {
      if (here[0] >= 0) cells[here[0]][here[1]].classList.remove('here');
      here = [row, column];
      if (row < 0) return void (readout.textContent = '');
      cells[row][column].classList.add('here');
      const place = index(numbers, row, column);
      readout.textContent = `${name}${place && `[${place}]`} = ${values[row][column]}`;
    }
    map.addEventListener('mouseover', event => {
      cells.forEach((row, r) => row.forEach((cell, c) => { if (cell === event.target) show(r, c); }));
    });
    map.addEventListener('mouseleave', () => show(-1, 0));
    map.addEventListener('focus', () => { if (cells.length && columns) show(0, 0); });
    map.addEventListener('blur', () => show(-1, 0));
    map.addEventListener('keydown', event => {
      const move = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
      if (!move || here[0] < 0) return;
      event.preventDefault(), event.stopPropagation();
      show(Math.min(cells.length - 1, Math.max(0, here[0] + move[0])), Math.min(columns - 1, Math.max(0, here[1] + move[1])));
    });
    return map;
  }

  // ---- One tensor: its names, its numbers, its gradient

  function card(trace, tensor) {
    const names = trace.tensors[tensor].names, readout = make('div', {class: 'readout', 'aria-live': 'polite'});
    const also = names.length > 1 ? [make('span', {class: 'also'}, `is also ${names.slice(1).join(', ')}`)] : [];
    const parts = [['numbers', ''], ['gradients', 'g']].map(([timeline, attribute]) => {
      const part = make('div', {class: 'part', 'data-attribute': attribute});
      part.style.minHeight = `${room(trace, trace.tensors[tensor][timeline])}px`;
      let shown;
      return {element: part, draw(step) {
        const place = at(trace.tensors[tensor][timeline], step.number);
        const numbers = place === undefined ? undefined : trace.numbers[place];
        const is = list => list.some(([other, kind]) => other === tensor && kind === attribute);
        const cleared = attribute === 'g' && step.cleared.includes(tensor);
        const doing = [is(step.reads) && 'read', is(step.writes) && 'written', cleared && 'cleared'].filter(Boolean);
        part.className = `part ${doing.join(' ')}`;
        if (shown === `${place} ${doing}`) return;
        shown = `${place} ${doing}`;
        const label = make('span', {class: 'mono'}, attribute ? '.g' : 'numbers');
        const name = attribute ? `${names[0]}.g` : names[0];
        const old = attribute && numbers && trace.tensors[tensor].gradients.every(([from]) => from === 0 || from > step.number);
        const tags = [...doing, ...(old ? ['from an earlier run'] : [])];
        part.replaceChildren(make('div', {class: 'what'}, label, make('span', {class: 'tag'}, tags.join(', '))));
        if (!numbers) return part.append(make('div', {class: 'none'}, attribute ? 'not written' : 'not made yet'));
        part.append(heatMap(name, numbers, readout));
        const drawn = numbers.values.length, across = drawn ? numbers.values[0].length : 0;
        if (isUnread(numbers)) part.append(make('div', {class: 'sampled'}, 'cannot be shown'));
        else if (!numbers.values.flat().length) part.append(make('div', {class: 'sampled'}, 'empty'));
        else if (!numbers.complete) part.append(make('div', {class: 'sampled'}, `${drawn * across} of ${numbers.shape.reduce((a, b) => a * b, 1)} shown`));
        if (numbers.bad) part.append(make('div', {class: 'sampled'}, `first ${numbers.bad}`));
      }};
    });
    const first = trace.tensors[tensor].numbers[0];
    const title = make('h4', {}, make('span', {class: 'mono'}, names[0]), make('span', {class: 'size'}, first ? ` ${size(trace.numbers[first[1]])}` : ''), ...also);
    const element = make('div', {class: 'card', 'data-tensor': names[0]}, title, ...parts.map(part => part.element), readout);
    return {element, draw: step => parts.forEach(part => part.draw(step))};
  }

  // ---- The chain of tensors

  function chain(trace) {
    const nodes = [];
    for (const place of trace.places)
      for (const tensor of [place.inputs[0], place.out])
        if (tensor !== undefined && tensor !== null && !nodes.includes(tensor)) nodes.push(tensor);
    const pitch = 176, wide = 98, top = 58, width = (nodes.length - 1) * pitch + wide + 16, height = 236;
    const middle = tensor => 8 + wide / 2 + nodes.indexOf(tensor) * pitch;
    const svg = make('svg:svg', {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img',
      'aria-label': `The chain: ${trace.places.map(place => place.label).join(', then ')}. Forward arrows above, backward arrows below.`});
    const draws = [];

    function text(x, y, content, kind = '', longest = 14) {
      const short = content.length > longest ? `${content.slice(0, longest - 1)}…` : content;
      return make('svg:text', {x, y, 'text-anchor': 'middle', class: kind}, short);
    }

    // Whether a tensor has a place for its gradient: the loss, which nobody reads, has none.
    const below = tensor => trace.tensors[tensor]?.gradients.length || trace.places.some(place => place.inputs.includes(tensor));

    function status(group, timeline, tensor, attribute) {
      draws.push(step => {
        const is = list => list.some(([other, kind]) => other === tensor && kind === attribute);
        group.setAttribute('class', [at(trace.tensors[tensor][timeline], step.number) === undefined && 'absent',
          is(step.reads) && 'read', is(step.writes) && 'written'].filter(Boolean).join(' '));
      });
    }

    function pill(x, y, w, h, tensor, attribute, ...labels) {
      const group = make('svg:g', {}, make('svg:rect', {class: 'box', x: x - w / 2, y, width: w, height: h, rx: 6}), ...labels);
      status(group, attribute ? 'gradients' : 'numbers', tensor, attribute);
      svg.append(group);
    }

    for (const tensor of nodes) {
      const x = middle(tensor), names = trace.tensors[tensor].names;
      const labels = names.length > 1 ? [text(x, top + 16, names[0]), text(x, top + 31, `is ${names[1]}`, 'small')] : [text(x, top + 24, names[0])];
      pill(x, top, wide, 38, tensor, '', ...labels);
      if (below(tensor))
        pill(x, top + 46, wide - 12, 20, tensor, 'g', text(x, top + 60, `${names[0]}.g`, 'small'));
    }

    function arrow(place, phase, steps) {
      const from = middle(place.inputs[0]), to = middle(place.out ?? place.inputs[0]), out = phase === 'forward';
      const inset = wide / 2 - 22, y = out ? top - 5 : top + 72, bend = out ? y - 30 : y + 30, start = out || below(place.out) ? y : top + 43;
      const [x1, x2] = out ? [from + inset, to - inset] : [to - inset, from + inset];
      const turn = out ? 1 : -1, tip = out ? -1 : 1;
      const group = make('svg:g', {},
        make('svg:path', {class: 'stroke', d: `M ${x1} ${start} C ${x1 + turn * 22} ${bend}, ${x2 - turn * 22} ${bend}, ${x2} ${y}`}),
        make('svg:path', {class: 'head', d: `M ${x2} ${y - tip} l ${-turn * 11} ${tip * 4} l ${turn * 6} ${tip * 8} z`}),
        text((from + to) / 2, out ? y - 32 : y + 40, `${steps.map(step => step.number).join(', ')}  ${place.name}`, '', 18));
      svg.append(group);
      draws.push(step => {
        const state = steps.includes(step) ? 'now' : steps.some(own => own.number < step.number) ? 'done' : 'todo';
        group.setAttribute('class', `arrow ${phase} ${state}`);
      });
    }

    trace.places.forEach((place, number) => {
      if (place.inputs[0] === undefined) return;
      for (const phase of ['forward', 'backward']) {
        const steps = trace.steps.filter(step => step.place === number && step.phase === phase);
        if (steps.length) arrow(place, phase, steps);
      }
      const hung = [...place.inputs.slice(1), ...place.parameters], x = (middle(place.inputs[0]) + middle(place.out ?? place.inputs[0])) / 2;
      hung.slice(0, 2).forEach((tensor, i) => {
        const shift = hung.length > 1 ? (i ? 41 : -41) : 0;
        pill(x + shift, height - 52, 76, 20, tensor, '', text(x + shift, height - 38, trace.tensors[tensor].names[0], 'small', 11));
        if (place.parameters.includes(tensor))
          pill(x + shift, height - 29, 76, 20, tensor, 'g', text(x + shift, height - 15, `${trace.tensors[tensor].names[0]}.g`, 'small', 11));
      });
    });
    const element = make('div', {class: 'scroll'}, svg);
    return {element, draw(step) {
      draws.forEach(draw => draw(step));
      const now = svg.querySelector('.arrow.now');
      if (now && element.scrollWidth > element.clientWidth) {
        const box = now.getBBox();
        element.scrollLeft = (box.x + box.width / 2) * (svg.getBoundingClientRect().width / width) - element.clientWidth / 2;
      }
    }};
  }

  // ---- The code that ran

  function codePanel(trace) {
    const element = make('div', {class: 'code'}), open = new Map();
    return {element, draw(step) {
      element.replaceChildren(...step.code.map(([place, lit]) => {
        const {name, source, folded} = trace.code[place];
        const lines = source.split('\n').map((line, number) => {
          const on = lit.includes(number + 1);
          return make('span', {class: on ? 'line lit' : 'line', ...(on ? {'data-lit': number + 1} : {})},
            ...(on ? [make('span', {class: 'hidden'}, 'runs: ')] : []), line || ' ');
        });
        const details = make('details', {'data-code': name}, make('summary', {class: 'mono'}, name),
          make('pre', {tabindex: '0', 'aria-label': `source of ${name}`}, ...(source ? lines : ['(its source is not available)'])));
        details.open = open.get(name) ?? !folded;
        details.addEventListener('toggle', () => open.set(name, details.open));
        return details;
      }));
    }};
  }

  // ---- All of it

  function stepper(trace) {
    const last = trace.steps.length;
    const root = make('section', {class: 'stepper', tabindex: '0', 'aria-label': `Stepper. ${trace.title} Left and right arrow keys go from step to step.`});
    const button = (kind, label, text) => make('button', {type: 'button', class: kind, 'aria-label': label}, text);
    const first = button('first', 'first step', '|◂'), back = button('previous', 'Back', '◂ Back');
    const next = button('next', 'Next', 'Next ▸'), end = button('last', 'last step', '▸|');
    const slider = make('input', {type: 'range', min: 1, max: last, step: 1, 'aria-label': 'step'});
    const title = make('h3'), sentence = make('p', {class: 'sentence'}), math = make('pre', {class: 'math'});
    const aliases = make('p', {class: 'aliases'}), faults = make('ul', {class: 'faults'}), question = make('p', {class: 'question'});
    const step = make('div', {class: 'step'}, title, sentence, math, aliases, faults, question);
    const live = make('div', {class: 'hidden', role: 'status', 'aria-live': 'polite'});
    const summary = make('p', {class: 'summary'}, trace.title, ' ');
    for (const number of new Set(trace.steps.filter(own => own.faults.length).map(own => own.number))) {
      const jump = make('button', {type: 'button', class: 'jump'}, `fault: step ${number}`);
      jump.addEventListener('click', () => go(number));
      summary.append(jump, ' ');
    }
    const used = new Set(trace.places.flatMap(place => place.parameters));
    const along = trace.places.flatMap(place => [place.inputs[0], place.out]).filter(tensor => tensor !== undefined && tensor !== null);
    const order = [...new Set([...along, ...trace.tensors.keys()])];  // the chain first
    const cards = trace.tensors.map((_, tensor) => card(trace, tensor)), map = chain(trace), code = codePanel(trace);
    const flowing = make('div', {class: 'cards'}, ...order.filter(tensor => !used.has(tensor)).map(tensor => cards[tensor].element));
    const kept = make('div', {class: 'cards'}, ...order.filter(tensor => used.has(tensor)).map(tensor => cards[tensor].element));
    const swatch = (kind, share) => {
      const square = make('span', {class: 'swatch'});
      square.style.backgroundColor = `rgba(var(--${kind}), ${share})`;
      return square;
    };
    const legend = make('p', {class: 'legend'}, swatch('low', 0.65), ' below 0, ', swatch('high', 0.65), ' above 0; the stronger the larger, in each ',
      'tensor on its own. Of a large tensor, evenly spaced rows and columns are shown. Point at a number to read it, or go to it with Tab and the arrow keys.');
    math.style.minHeight = `${1.45 * Math.max(...trace.steps.map(own => own.math.split('\n').length))}em`;
    root.append(summary, make('div', {class: 'controls', role: 'group', 'aria-label': 'steps'}, first, back, next, end, slider), map.element,
      step, make('h3', {class: 'heading'}, 'Tensors after this step'), flowing);
    if (used.size) root.append(make('h3', {class: 'heading'}, 'Parameters after this step'), kept);
    root.append(legend, make('h3', {class: 'heading'}, 'The code that ran'), code.element, live);

    let now = 0;
    function go(number) {
      number = Math.max(1, Math.min(last, number));
      if (number === now) return;
      now = number;
      const here = trace.steps[now - 1], after = trace.steps[now];
      step.className = `step ${here.phase}`;
      title.replaceChildren(`Step ${now} of ${last}: `, make('span', {class: 'phase'}, here.phase), ` through ${here.layer}`);
      sentence.textContent = here.sentence;
      math.textContent = here.math;
      aliases.textContent = here.aliases.length ? `One object, several names: ${here.aliases.join('; ')}.` : '';
      faults.replaceChildren(...here.faults.map(fault => make('li', {'data-kind': fault.kind}, `⚠ Fault: ${fault.text}`)));
      faults.hidden = !here.faults.length;
      question.textContent = after ? `Before you press Next: step ${after.number} goes ${after.phase} through ${after.layer}. What will it write?`
        : 'That was the last step.';
      slider.value = now;
      slider.setAttribute('aria-valuetext', `step ${now} of ${last}, ${here.phase}, ${here.layer}`);
      for (const [control, off] of [[first, now === 1], [back, now === 1], [next, now === last], [end, now === last]])
        control.setAttribute('aria-disabled', off);
      for (const part of [...cards, map, code]) part.draw(here);
      live.textContent = `Step ${now} of ${last}, ${here.phase}. ${here.sentence} ${here.faults.map(fault => `Fault: ${fault.text}`).join('. ')}`;
      root.dataset.step = now;
    }
    first.addEventListener('click', () => go(1));
    back.addEventListener('click', () => go(now - 1));
    next.addEventListener('click', () => go(now + 1));
    end.addEventListener('click', () => go(last));
    slider.addEventListener('input', () => go(Number(slider.value)));
    root.addEventListener('keydown', event => {
      if (event.target === slider || event.target.closest('pre') || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const where = {ArrowRight: now + 1, ArrowLeft: now - 1, Home: 1, End: last}[event.key];
      if (where === undefined) return;
      event.preventDefault(), event.stopPropagation();
      go(where);
    });
    if (last) go(1);
    return {root, redraw: () => map.draw(trace.steps[now - 1])};
  }

  // The page's own theme where it names one (JupyterLab, Sphinx), else what the reader's system prefers.
  function isDark() {
    const lab = document.body?.dataset.jpThemeLight, book = document.documentElement.dataset.theme;
    if (lab === 'true' || lab === 'false') return lab === 'false';
    if (book === 'dark' || book === 'light') return book === 'dark';
    return matchMedia('(prefers-color-scheme: dark)').matches;
  }

  function fill(host) {
    host.dataset.ready = '';
    const trace = JSON.parse(host.querySelector('script[type="application/json"]').textContent);
    const split = (text, count) => count ? text.split('|') : [];
    for (const numbers of trace.numbers) {  // one text a row, which makes the page smaller
      const rows = numbers.values.length;
      numbers.columns = split(numbers.columns, numbers.shape.length ? numbers.shape.at(-1) : rows);
      numbers.rows = split(numbers.rows, rows);
      numbers.values = numbers.values.map(row => split(row, numbers.columns.length));
    }
    const shadow = host.attachShadow({mode: 'open'}), {root, redraw} = stepper(trace);
    shadow.append(make('style', {}, trace.style), root);
    const theme = () => root.classList.toggle('dark', isDark());
    theme();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', theme);
    for (const page of [document.documentElement, document.body])
      new MutationObserver(theme).observe(page, {attributeFilter: ['data-theme', 'data-jp-theme-light']});
    requestAnimationFrame(redraw);
  }

  document.querySelectorAll('.backprop-trace:not([data-ready])').forEach(host => {
    if (host.querySelector('script[type="application/json"]')) fill(host);
  });
})();
