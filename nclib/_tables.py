"""Tables of metrics as text."""

from collections.abc import Iterable, Mapping, Sequence

METRICS = {"nc1": "NC1", "nc1_trace": "NC1~", "nc2": "NC2", "nc3": "NC3", "nc4": "NC4"}


def text_table(records: Sequence[Mapping], columns: Iterable[str]) -> str:
    """Records as a table: one line each, numbers to five digits, a dash where there is none.

    Args:
        records: Dictionaries that have the columns as keys.
        columns: The columns to show.

    Examples:
        >>> records = [{"layer": "fc", "nc1": 0.0123456, "nc3": None}]
        >>> print(text_table(records, ["layer", "nc1", "nc3"]))
        layer        NC1        NC3
        fc      0.012346          -
    """
    shown = list(columns)
    rows = [[METRICS.get(column, column) for column in shown]]
    rows += [[_cell(record[column]) for column in shown] for record in records]
    widths = [
        max(9 if column in METRICS else 0, *(len(row[i]) for row in rows))
        for i, column in enumerate(shown)
    ]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column == "layer" else cell.rjust(width)
            for cell, width, column in zip(row, widths, shown, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
