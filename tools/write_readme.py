"""Write README.md from nbs/index.ipynb as it is stored, its pictures to docs/images/.

    python tools/write_readme.py          write it
    python tools/write_readme.py --check  change nothing; exit with status 1 if it is not current

Text cells come as they are, with links that are right from README.md; a picture that a text shows must be there
already (`make picture` takes the one of the stepper). Code cells come as Python, with what they
printed below. A code cell with the line `#| echo: false` shows only its output, one with `#| hide` nothing.
"""
import argparse
import base64
import posixpath
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from run_notebooks import ROOT, has_directive

SOURCE = 'nbs/index.ipynb'
IMAGES = 'docs/images'
NOTICE = f'<!-- Written by tools/write_readme.py from {SOURCE}: change that, then run `make readme`. -->\n'


def render(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    "README.md and its pictures: what each file must hold, by its path from the root."
    files, pieces = {}, [NOTICE]
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            pieces.append(links_from_root(cell.source))
        elif cell.cell_type == 'code' and not has_directive(cell, 'hide'):
            code = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#|')).strip()
            if code and not has_directive(cell, 'echo: false'):
                pieces.append(f'```python\n{code}\n```')
            for place, output in enumerate(cell.outputs):
                data = output.get('data', {})
                if 'image/png' in data:
                    path = f'{IMAGES}/{cell.id}-{place}.png'
                    files[path] = base64.b64decode(data['image/png'])
                    pieces.append(f'![{output.metadata["image/png"]["alt"]}]({path})')
                elif text := (output.get('text') or data.get('text/plain', '')).rstrip():
                    pieces.append(f'```text\n{text}\n```')
    files['README.md'] = ('\n\n'.join(piece.strip() for piece in pieces) + '\n').encode()
    return files


def links_from_root(markdown: str) -> str:
    "Point the relative links of a text that lies beside the notebooks to the same files from the root."
    def replace(match: re.Match) -> str:
        if match['code'] or re.match(r'[a-z]+:|#|/', match['target']):
            return match[0]
        return '](' + posixpath.normpath(posixpath.join(posixpath.dirname(SOURCE), match['target']))
    return re.sub(r'(?P<code>```.*?```|`[^`\n]*`)|\]\((?P<target>[^)\s]+)', replace, markdown, flags=re.S)


def check_address(readme: str) -> None:
    "Exit with a message unless what the reader is told to clone is what settings.ini names."
    settings = ConfigParser(delimiters='=')
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    for address in re.findall(r'git clone (\S+)', readme):
        if address != settings['DEFAULT']['git_url']:
            sys.exit(f'{SOURCE} says "git clone {address}", but git_url in settings.ini is {settings["DEFAULT"]["git_url"]}')


def shown_by_text(readme: str, written: dict[str, bytes]) -> set[str]:
    "The pictures in docs/images/ that a text shows and no cell drew; exits with a message if one is not there."
    shown = set(re.findall(rf'\]\(({IMAGES}/[^)\s]+)', readme)) - written.keys()
    missing = sorted(path for path in shown if not (ROOT / path).is_file())
    if missing:
        sys.exit(f'{SOURCE} shows {", ".join(missing)}, which is not there. Run: make picture')
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='only say whether README.md is current')
    options = parser.parse_args()

    files = render(nbformat.read(ROOT / SOURCE, as_version=4))
    readme = files['README.md'].decode()
    check_address(readme)
    kept = shown_by_text(readme, files)
    there = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in [ROOT / 'README.md', *(ROOT / IMAGES).glob('*.png')]
             if path.exists() and path.relative_to(ROOT).as_posix() not in kept}
    if files == there:
        return print('README.md is current.')
    if options.check:
        stale = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
        sys.exit(f'Not what {SOURCE} gives: {", ".join(stale)}. Run: make readme (or: python tools/write_readme.py)')
    for name in there.keys() - files.keys():
        (ROOT / name).unlink()
    for name, content in files.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(content)
    print(f'Written: {", ".join(sorted(files))}')


if __name__ == '__main__':
    main()
