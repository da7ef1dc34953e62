"""Whether what a cell is stored with is what it gives: words exactly, numbers to 0.1%, a picture where there was one."""
import math
import re
from itertools import zip_longest

from run_notebooks import has_directive, merge_streams, name_cell

NUMBER = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?')


def compare_notebooks(chapter: str, stored, fresh) -> list[str]:
    "What a notebook is stored with against what a fresh run of it gave; both cleaned, cell by cell. Returns complaints."
    complaints = []
    for place, (old, new) in enumerate(zip(stored.cells, fresh.cells)):
        if old.cell_type == 'code' and (problem := compare_cells(old, new)):
            complaints.append(f'{name_cell(chapter, place, old)} {problem}')
    return complaints


def compare_cells(stored, fresh) -> str:
    "How the outputs of a code cell differ from those of a fresh run; empty if they don't."
    merge_streams(stored)
    merge_streams(fresh)
    if fresh.outputs and not stored.outputs:
        return 'has no stored run'
    if has_directive(stored, 'varies'):
        return ''
    for old, new in zip_longest(stored.outputs, fresh.outputs, fillvalue={}):
        old_parts, new_parts = parts(old), parts(new)
        if old_parts.keys() != new_parts.keys():
            return f'is stored with {", ".join(old_parts) or "nothing"} where it now gives {", ".join(new_parts) or "nothing"}'
        for kind, text in old_parts.items():
            if not same_text(text, new_parts[kind]):
                return 'is stored with another output than it now gives' + first_difference(text, new_parts[kind])
    return ''


def parts(output) -> dict[str, str]:
    "An output's pieces by kind. Of what is no text only the kind counts."
    if 'data' in output:
        return {kind: content if kind.startswith('text/') else '' for kind, content in output['data'].items()}
    return {output['name']: output['text']} if 'text' in output else {}


def same_text(stored: str, fresh: str) -> bool:
    "Whether the words are equal, spaces apart, and the numbers close."
    words = [[' '.join(piece.split()) for piece in NUMBER.split(text)] for text in (stored, fresh)]
    return words[0] == words[1] and all(map(close, NUMBER.findall(stored), NUMBER.findall(fresh)))


def close(stored: str, fresh: str) -> bool:
    "Whether two printed numbers are equal to 0.1%, or to the last place printed where there are three or more (rounding)."
    places = len(stored.partition('.')[2]) if 'e' not in stored.lower() else 0
    rounding = 1.01 * 10 ** -places if places >= 3 else 1e-9
    return math.isclose(float(stored), float(fresh), rel_tol=1e-3, abs_tol=rounding)


def first_difference(stored: str, fresh: str) -> str:
    "The first line that differs, as it was and as it is."
    for old, new in zip_longest(stored.splitlines(), fresh.splitlines(), fillvalue=''):
        if not same_text(old, new):
            return f'\n    stored: {old}\n    now:    {new}'
    return ''
