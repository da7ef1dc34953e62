"""Take the picture of the stepper that README.md shows: docs/images/stepper.png.

    python tools/take_picture.py

It opens the trace of chapter 08's model in Chromium, without a window, goes to the step in which the loss
writes L2.out.g, and keeps what is above the parameters. Needs Chromium, chromedriver and selenium.
"""
import base64
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from backprop_course.modules import Lin, Model, Relu
from backprop_course.toolbox.tracing import Trace, trace_backward
from run_notebooks import ROOT

PICTURE = ROOT / 'docs/images/stepper.png'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
WIDTH = 900


def small_trace() -> Trace:
    "The trace of chapter 08: whole numbers everywhere."
    first = Lin(torch.tensor([[1., -1., 2.], [0., 1., 1.]]), torch.tensor([0., 1., -1.]))
    model = Model([first, Relu(), Lin(torch.tensor([[1.], [2.], [-1.]]), torch.ones(1))])
    return trace_backward(model, torch.tensor([[1., 2.], [3., -1.]]), torch.tensor([1., 2.]))


def open_browser(width: int = 1000, height: int = 900):
    "Chromium under selenium's control, without a window; exits with a message if there is none."
    from selenium import webdriver
    browser, server = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which('chromedriver')
    if not (browser and server):
        sys.exit('Chromium and chromedriver are needed: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--hide-scrollbars'):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {'width': width, 'height': height, 'deviceScaleFactor': 1.5, 'mobile': False})
    return driver


def take_picture(trace: Trace, step: int, target: Path) -> None:
    "Write what the stepper shows of `trace` at `step`, down to the tensors, to `target`."
    driver = open_browser(WIDTH)
    try:
        with TemporaryDirectory() as folder:
            driver.get(trace.save(Path(folder) / 'trace.html').as_uri())
            driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': 'light'}]})
            bottom = driver.execute_async_script('''
                const [step, done] = arguments, root = document.querySelector('.backprop-trace').shadowRoot;
                const slider = root.querySelector('input');
                slider.value = step;
                slider.dispatchEvent(new Event('input'));
                requestAnimationFrame(() => done(root.querySelector('.cards').getBoundingClientRect().bottom));
            ''', step)
            clip = {'x': 0, 'y': 0, 'width': WIDTH, 'height': bottom + 14, 'scale': 1}
            shot = driver.execute_cdp_cmd('Page.captureScreenshot', {'format': 'png', 'captureBeyondViewport': True, 'clip': clip})
    finally:
        driver.quit()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(shot['data']))


if __name__ == '__main__':
    trace = small_trace()
    take_picture(trace, trace.who_writes('L2.out.g')[0].number, PICTURE)
    print(f'Written: {PICTURE.relative_to(ROOT)}')
