"""Tables in a terminal and in HTML; figures only with a description."""
import pytest
from backprop_course.toolbox.display import Table, show_figure

TABLE = Table(('loss', 'value'), [('right', '0.25'), ('<wrong>', '1,234.5\nor more')], {1: ['far & too large']}, 'lr')


def test_text():
    assert str(TABLE).splitlines() == ['loss       value', 'right       0.25', '<wrong>  1,234.5', '         or more', '         ! far & too large']


def test_html_is_escaped():
    html = TABLE._repr_html_()
    assert html.count('<tr>') == 4 and '&lt;wrong&gt;' in html and '1,234.5<br>or more' in html and 'far &amp; too large' in html
    assert '<wrong>' not in html and 'text-align:right' in html


def test_long_cells_are_wrapped():
    lines = str(Table(('a',), [('word ' * 40,)])).splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 60


def test_figures_need_a_description(monkeypatch):
    import IPython.display
    import matplotlib.pyplot as plt
    shown = []
    monkeypatch.setattr(IPython.display, 'display', lambda figure, metadata: shown.append(metadata))
    axes = plt.subplots(1, 2)[1]
    show_figure(axes, alt='two empty axes')
    assert shown == [{'image/png': {'alt': 'two empty axes'}}] and not plt.fignum_exists(axes[0].figure.number)
    with pytest.raises(ValueError, match='a description of the figure in alt'):
        show_figure(axes, alt=' ')
