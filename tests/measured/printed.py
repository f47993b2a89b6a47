"""What the stored chapters print."""

from tools import notebooks


def lines(chapter, tag=None):
    """All lines that a chapter, or its cells with a tag, store as printed, without blanks at their
    ends.
    """
    cells = notebooks.load(chapter).cells
    cells = [c for c in cells if tag is None or tag in c["metadata"].get("tags", [])]
    texts = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    return [line.rstrip() for text in texts for line in text.splitlines()]
