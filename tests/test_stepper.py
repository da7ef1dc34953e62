"""The stepper in a real browser: what it shows is what the trace holds, at every step, however one gets there."""
import os
import shutil
import struct

import nbformat
import pytest
import torch
from backprop_course.modules import Lin, Model, Relu
from backprop_course.toolbox.stepper import describe_step, show_number
from backprop_course.toolbox.tracing import trace_backward
from checkout import insist
from run_notebooks import NOTEBOOKS, Run, write_page
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from take_picture import BROWSERS, PICTURE, small_trace, take_picture

pytestmark = pytest.mark.browser
LIMIT = 300_000  # characters of a page
KEYS = {'next': Keys.ARROW_RIGHT, 'previous': Keys.ARROW_LEFT, 'first': Keys.HOME, 'last': Keys.END}

# What a stepper shows, read from the page.
SHOWN = '''
const root = document.querySelectorAll('.backprop-trace')[arguments[0]].shadowRoot, all = (at, what) => [...at.querySelectorAll(what)];
const text = what => root.querySelector(what).textContent;
return {
  step: Number(root.querySelector('.stepper').dataset.step), title: text('.step h3'), sentence: text('.sentence'), math: text('.math'),
  aliases: text('.aliases'), live: text('[role="status"]'), slider: Number(root.querySelector('input').value),
  faults: all(root, '.faults:not([hidden]) li').map(item => item.textContent), arrow: all(root, '.arrow.now text').map(item => item.textContent),
  cards: Object.fromEntries(all(root, '.card').map(card => [card.dataset.tensor, {
    also: card.querySelector('.also')?.textContent ?? '', parts: all(card, '.part').map(part => ({
      doing: [...part.classList].filter(name => name !== 'part'), label: part.querySelector('.map')?.getAttribute('aria-label') ?? null,
      cells: part.querySelector('.map.text') ? all(part, '.cell').map(cell => cell.textContent) : null, count: all(part, '.cell').length}))}])),
  code: all(root, 'details').map(part => [part.dataset.code, all(part, '.lit').map(line => Number(line.dataset.lit)),
    all(part, '.line').map(line => line.lastChild.textContent).join('\\n')])};
'''


def find(names):
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope='module')
def driver():
    browser, server = find(BROWSERS), find(['chromedriver'])
    if not (browser and server):
        missing = ' and '.join(name for name, path in (('a Chromium', browser), ('chromedriver', server)) if not path)
        insist(not os.environ.get('CI'), f'{missing} not found: apt-get install chromium chromium-driver')
        pytest.skip(f'NOT TESTED, the stepper in a browser: {missing} not found (apt-get install chromium chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--window-size=1000,900'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    yield driver
    driver.quit()


def small_model():
    w1, b1 = torch.tensor([[1., -1., 2.], [0., 1., 1.]]), torch.tensor([0., 1., -1.])
    return Model([Lin(w1, b1), Relu(), Lin(torch.tensor([[1.], [2.], [-1.]]), torch.ones(1))])


class Stops(Relu):
    def backward_rule(self, grad_out, inp): raise RuntimeError('no gradient today')


def stopped_trace():
    model = small_model()
    model.layers[1] = Stops()
    return trace_backward(model, torch.tensor([[1., 2.], [3., float('nan')]]), torch.tensor([1., 2.]), raises=False)


def large_trace():
    generator = torch.Generator().manual_seed(0)
    w1, w2 = torch.randn(64, 50, generator=generator), torch.randn(50, 1, generator=generator)
    model = Model([Lin(w1, torch.zeros(50)), Relu(), Lin(w2, torch.zeros(1))])
    return trace_backward(model, torch.randn(200, 64, generator=generator), torch.randn(200, generator=generator))


def held(timeline, step):
    "What a timeline of a trace holds after a step; None if nothing."
    return next((what for start, what in reversed(timeline) if start <= step), None)


def expected(trace, number):
    "What a stepper must show of a trace at a step."
    step = trace.steps[number - 1]
    cards = {}
    for tensor in trace.tensors:
        parts = []
        for attribute, timeline in (('', tensor.numbers), ('g', tensor.gradients)):
            numbers, name = held(timeline, number), f'{tensor.names[0]}.g' if attribute else tensor.names[0]
            doing = [what for what, names in (('read', [access.name for access in step.reads]), ('written', [access.name for access in step.writes]),
                                              ('cleared', step.cleared)) if name in names]
            parts.append((doing, numbers))
        cards[tensor.names[0]] = f'is also {", ".join(tensor.names[1:])}' if tensor.names[1:] else '', parts
    return step, cards


def assert_shows(driver, trace, number, which=0):
    shown = driver.execute_script(SHOWN, which)
    step, cards = expected(trace, number)
    assert (shown['step'], shown['slider']) == (number, number)
    assert shown['title'] == f'Step {number} of {len(trace.steps)}: {step.phase} through {step.layer}'
    assert shown['sentence'] == describe_step(step) and shown['math'] == step.math
    assert all(alias in shown['aliases'] for alias in step.aliases)
    assert shown['faults'] == [f'⚠ Fault: {fault.text}' for fault in step.faults]
    assert describe_step(step) in shown['live'] and all(fault.text in shown['live'] for fault in step.faults)
    assert [text.split()[0].rstrip(',') for text in shown['arrow']] == [str(number)], 'the arrow of this step, and no other, is drawn thick'
    assert shown['code'] == [[part.name, list(part.lines), '\n'.join(line or ' ' for line in part.source.split('\n'))] for part in step.code]
    assert shown['cards'].keys() == cards.keys()
    for name, (also, parts) in cards.items():
        assert shown['cards'][name]['also'] == also
        for seen, (doing, numbers) in zip(shown['cards'][name]['parts'], parts, strict=True):
            assert seen['doing'] == doing, f'{name} in step {number}'
            values = [show_number(value) for row in numbers.values for value in row] if numbers else []
            assert seen['count'] == len(values)
            if seen['cells'] is not None:
                assert seen['cells'] == values
            assert (seen['label'] is None) == (numbers is None)


def host(driver, which=0):
    return driver.find_elements(By.CSS_SELECTOR, '.backprop-trace')[which].shadow_root


def press(driver, way, kind, which=0):
    if way == 'button':
        button = host(driver, which).find_element(By.CSS_SELECTOR, f'button.{kind}')
        driver.execute_script('arguments[0].scrollIntoView({block: "center"})', button)
        button.click()
    else:
        driver.execute_script('arguments[0].focus()', host(driver, which).find_element(By.CSS_SELECTOR, '.stepper'))
        ActionChains(driver).send_keys(KEYS[kind]).perform()


def walk(driver, trace, which=0):
    "Through every step forwards and backwards, by button and by key, with one press too many at both ends."
    last = len(trace.steps)
    for way in ('button', 'key'):
        assert_shows(driver, trace, 1, which)
        for number in [*range(2, last + 1), last]:
            press(driver, way, 'next', which)
            assert_shows(driver, trace, number, which)
        for number in [*range(last - 1, 0, -1), 1]:
            press(driver, way, 'previous', which)
            assert_shows(driver, trace, number, which)
        press(driver, way, 'last', which)
        assert_shows(driver, trace, last, which)
        press(driver, way, 'first', which)
    assert_shows(driver, trace, 1, which)


def assert_quiet(driver):
    "Nothing in the console, nothing loaded."
    assert driver.get_log('browser') == []
    assert driver.execute_script('return performance.getEntriesByType("resource").map(entry => entry.name)') == []


def open_page(driver, path):
    driver.get_log('browser')
    driver.get(path.as_uri())


@pytest.mark.parametrize('make', [small_trace, stopped_trace, large_trace])
def test_saved_page(driver, tmp_path, make):
    trace = make()
    path = trace.save(tmp_path / 'trace.html')
    assert path.stat().st_size < LIMIT
    open_page(driver, path)
    walk(driver, trace)
    assert_quiet(driver)


def test_folder_of_any_name(driver, tmp_path):
    folder = tmp_path / 'ein Ordner für größere Seiten'
    folder.mkdir()
    trace = small_trace()
    open_page(driver, trace.save(folder / 'trace ü.html'))
    assert_shows(driver, trace, 1)
    assert_quiet(driver)


def test_buttons_are_called_what_they_read(driver, tmp_path):
    open_page(driver, small_trace().save(tmp_path / 'trace.html'))
    for button in host(driver).find_elements(By.CSS_SELECTOR, 'button'):
        words = ''.join(letter for letter in button.text if letter.isalpha())
        assert words in button.get_attribute('aria-label'), button.text


def test_what_is_folded(driver, tmp_path):
    "What layers share is folded, but for `backward`, where gradients are read and written."
    open_page(driver, small_trace().save(tmp_path / 'trace.html'))
    is_open = ('return Object.fromEntries([...document.querySelector(".backprop-trace").shadowRoot.querySelectorAll("details")]'
               '.map(part => [part.dataset.code, part.open]))')
    assert driver.execute_script(is_open) == {'LayerFunction.__call__': False, 'Lin.forward': True, 'lin': True}
    press(driver, 'key', 'last')
    assert driver.execute_script(is_open) == {'LayerFunction.backward': True, 'Lin.backward_rule': True, 'lin_backward': True}


def test_page_of_the_notebook(driver, tmp_path):
    "The chapter as it is stored, made into a page by our own tool."
    path = NOTEBOOKS / '08_trace.ipynb'
    notebook = nbformat.read(path, as_version=4)
    page = write_page(Run(path, notebook, 0.), tmp_path)
    fragments = [output.data['text/html'] for cell in notebook.cells for output in cell.get('outputs', [])
                 if 'backprop-trace' in output.get('data', {}).get('text/html', '')]
    assert len(fragments) >= 2 and all(len(fragment) < LIMIT for fragment in fragments)
    open_page(driver, page)
    assert len(driver.execute_script('return [...document.querySelectorAll(".backprop-trace")].filter(at => at.shadowRoot)')) == len(fragments)
    walk(driver, small_trace())
    assert_quiet(driver)


def test_two_on_a_page(driver, tmp_path):
    "The same trace twice, and a third: none moves when another one does."
    small, other = small_trace(), stopped_trace()
    page = tmp_path / 'three.html'
    page.write_text('<!doctype html><meta charset="utf-8">' + ''.join(trace._repr_html_() for trace in (small, small, other)), encoding='utf-8')
    open_page(driver, page)
    press(driver, 'button', 'next', 1)
    press(driver, 'key', 'last', 2)
    for which, (trace, number) in enumerate([(small, 1), (small, 2), (other, len(other.steps))]):
        assert_shows(driver, trace, number, which)
    assert_quiet(driver)


def test_slider_and_jump_to_a_fault(driver, tmp_path):
    trace = stopped_trace()
    open_page(driver, trace.save(tmp_path / 'trace.html'))
    slider = host(driver).find_element(By.CSS_SELECTOR, 'input[type="range"]')
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert_shows(driver, trace, 3)
    jumps = host(driver).find_elements(By.CSS_SELECTOR, 'button.jump')
    assert [jump.text for jump in jumps] == [f'fault: step {number}' for number in sorted({fault.step for fault in trace.faults})]
    jumps[-1].click()
    assert_shows(driver, trace, trace.faults[-1].step)
    assert {fault.kind for fault in trace.faults} == {'not finite', 'raised'}


@pytest.mark.parametrize('make', [small_trace, large_trace])
def test_numbers_by_mouse_and_by_key(driver, tmp_path, make):
    trace = make()
    open_page(driver, trace.save(tmp_path / 'trace.html'))
    press(driver, 'key', 'last')
    card = host(driver).find_element(By.CSS_SELECTOR, '.card[data-tensor="L1.w"]')
    numbers = trace.tensors[[tensor.names[0] for tensor in trace.tensors].index('L1.w')].numbers[0][1]

    def read(row, column):
        return f'L1.w[{numbers.rows[row]}, {numbers.columns[column]}] = {show_number(numbers.values[row][column])}'

    driver.execute_script('arguments[0].scrollIntoView({block: "center"})', card)
    readout = card.find_element(By.CSS_SELECTOR, '.readout')
    cells = card.find_elements(By.CSS_SELECTOR, '.part[data-attribute=""] .cell')
    width = len(numbers.columns)
    for row, column in ((0, 0), (1, 2), (len(numbers.rows) - 1, width - 1)):
        ActionChains(driver).move_to_element(cells[row * width + column]).perform()
        assert readout.text == read(row, column)
    driver.execute_script('arguments[0].focus()', card.find_element(By.CSS_SELECTOR, '.map'))
    assert readout.text == read(0, 0) and readout.get_attribute('aria-live') == 'polite'
    ActionChains(driver).send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT).perform()
    assert readout.text == read(1, 1)
    assert_shows(driver, trace, len(trace.steps))  # the arrow keys moved in the picture, not from step to step
    label = card.find_element(By.CSS_SELECTOR, '.map').get_attribute('aria-label')
    assert label.startswith(f'L1.w, {numbers.shape[0]} × {numbers.shape[1]}')
    assert ('3200' in card.text) == (make is large_trace), 'a sampled tensor says so'


# ---- Strings that would do something, if the page let them

EVIL = '</script><script>document.title="evil"</script><img src=x onerror=\'document.title="evil"\'>"&\u2028'


class Evil(Relu):
    def __repr__(self): return '</script><img src=x onerror=document.title=1>'
    def backward_rule(self, grad_out, inp): raise ValueError(EVIL)


Evil.backward_rule.__code__ = Evil.backward_rule.__code__.replace(co_qualname=f'Evil.{EVIL}')


def test_nothing_is_injected(driver, tmp_path):
    model = small_model()
    model.layers[1] = Evil()
    setattr(model.layers[0], EVIL, model.layers[0].w)  # the last attribute that holds a tensor names it
    trace = trace_backward(model, torch.ones(2, 2), torch.ones(2), raises=False)
    assert EVIL in trace.steps[-1].faults[-1].text and EVIL in trace.tensors[2].names[0] and 'script' in trace.steps[1].layer
    for number, page in enumerate((None, trace._repr_html_(), trace.table()._repr_html_())):
        path = tmp_path / f'{number}.html'
        if page is None:
            trace.save(path)
        else:
            path.write_text(f'<!doctype html><meta charset="utf-8"><title>good</title>{page}', encoding='utf-8')
        open_page(driver, path)
        assert driver.title != 'evil' and not driver.find_elements(By.CSS_SELECTOR, 'img')
        if number < 2:
            assert not driver.execute_script('return document.querySelector(".backprop-trace").shadowRoot.querySelector("img, script")')
            assert_shows(driver, trace, 1)
            press(driver, 'key', 'last')
            assert_shows(driver, trace, len(trace.steps))
        assert driver.title != 'evil'
        assert_quiet(driver)


# ---- Light and dark, wide and narrow, without scripts

# The contrast (as WCAG defines it) of each text in the stepper with what is behind it; the smallest, with its text.
CONTRAST = '''
const root = document.querySelector('.backprop-trace').shadowRoot.querySelector('.stepper');
const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const over = (top, under) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * under[i]);
const behind = at => { const own = parse(getComputedStyle(at).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, at === root ? [255, 255, 255] : behind(at.parentElement)); };
const light = colour => { const [r, g, b] = colour.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
let least = [99, ''];
for (const at of root.querySelectorAll('*')) {
  const words = [...at.childNodes].filter(node => node.nodeType === 3 && node.textContent.trim()).map(node => node.textContent).join(' ');
  if (!words || at.closest('svg, .hidden, [aria-disabled="true"]')) continue;
  const [a, b] = [light(parse(getComputedStyle(at).color).slice(0, 3)), light(behind(at))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < least[0]) least = [ratio, words, at.className];
}
return [least, behind(root)];
'''


@pytest.mark.parametrize('make', [small_trace, stopped_trace])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1000, 400])
def test_schemes_and_widths(driver, tmp_path, make, scheme, width):
    trace = make()
    driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False})
    try:
        open_page(driver, trace.save(tmp_path / 'trace.html'))
        for number in (1, len(trace.steps)):
            press(driver, 'key', 'first' if number == 1 else 'last')
            assert_shows(driver, trace, number)
            least, paper = driver.execute_script(CONTRAST)
            assert (sum(paper) < 150) == (scheme == 'dark')
            assert least[0] >= 4.5, f'contrast {least}'
            across = driver.execute_script('return [document.documentElement.scrollWidth, innerWidth]')
            assert across[0] <= across[1], 'the page scrolls sideways'
        assert_quiet(driver)
    finally:
        driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


def test_theme_of_the_page_goes_first(driver, tmp_path):
    "JupyterLab and the book say themselves whether they are dark, and may change."
    page = tmp_path / 'lab.html'
    page.write_text(f'<!doctype html><html data-theme="dark"><meta charset="utf-8"><body>{small_trace()._repr_html_()}</body></html>', encoding='utf-8')
    open_page(driver, page)
    is_dark = 'return document.querySelector(".backprop-trace").shadowRoot.querySelector(".stepper").classList.contains("dark")'
    assert driver.execute_script(is_dark)
    driver.execute_script('document.documentElement.dataset.theme = "light"')
    assert not driver.execute_script(is_dark)


def test_without_scripts_the_table_stays(driver, tmp_path):
    trace = stopped_trace()
    page = tmp_path / 'plain.html'
    page.write_text(f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="script-src \'none\'">{trace._repr_html_()}', encoding='utf-8')
    driver.get(page.as_uri())
    driver.get_log('browser')  # Chromium says there that it ran no script
    text = driver.find_element(By.CSS_SELECTOR, '.backprop-trace').text
    assert all(fault.text in text for fault in trace.faults)
    assert all(f'{step.number} {step.phase} {step.layer}' in text for step in trace.steps)


def test_keys_with_a_modifier_are_the_browsers(driver, tmp_path):
    trace = small_trace()
    open_page(driver, trace.save(tmp_path / 'trace.html'))
    driver.execute_script('arguments[0].focus()', host(driver).find_element(By.CSS_SELECTOR, '.stepper'))
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert_shows(driver, trace, 1)


def test_buttons_are_reached_by_tab(driver, tmp_path):
    open_page(driver, small_trace().save(tmp_path / 'trace.html'))
    names = []
    for _ in range(6):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        names.append(driver.execute_script('const at = document.activeElement.shadowRoot.activeElement; return at.getAttribute("aria-label")'))
        outline = driver.execute_script('return getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle')
        assert outline == 'solid', f'{names[-1]} has no visible focus'
    assert names[0].startswith('Stepper.') and names[1:] == ['first step', 'Back', 'Next', 'last step', 'step']


def test_picture_of_the_readme(driver, tmp_path):
    "The command that takes it works, and what is stored has the size that it takes."
    take_picture(small_trace(), 5, tmp_path / 'stepper.png')
    fresh, stored = (struct.unpack('>II', path.read_bytes()[16:24]) for path in (tmp_path / 'stepper.png', PICTURE))
    insist(fresh[0] == stored[0] and abs(fresh[1] - stored[1]) < 0.1 * stored[1], f'docs/images/stepper.png is old: make picture ({stored}, now {fresh})')
