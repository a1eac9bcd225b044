"""What the tests of figures share: a caption, and what holds for every figure."""

from matplotlib.backends.backend_agg import FigureCanvasAgg

CAPTION = (
    "Figure 0.0. A caption that is long enough to be broken into two lines, since that is what "
    "captions here do."
)


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    assert figure.get_label() == CAPTION
    assert figure.texts[0].get_text().replace("\n", " ") == CAPTION
    frame = figure.bbox.padded(1)
    for axes in [a for a in figure.axes if a.get_visible()]:
        box = axes.get_tightbbox()
        assert frame.contains(*box.min), "an axes leaves the figure"
        assert frame.contains(*box.max), "an axes leaves the figure"
        assert not box.overlaps(figure.texts[0].get_window_extent()), "an axes covers the caption"
    return figure
