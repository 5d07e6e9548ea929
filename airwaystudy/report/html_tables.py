"""Tables as HTML that sorts by a click on a column's name (the page's script does it), numbers with their intervals."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd

MOST_ROWS = 200
LEFT_OUT = ("_sd", "_median", "_min", "_max")  # columns of a summary that only the CSV has


def html_table(table: pd.DataFrame, caption: str, marked: str = "") -> str:
    """A table in a box of its own, which scrolls where the page is narrow.

    Parameters
    ----------
    table : DataFrame
        Numbers are shown to two decimals; `Shown` values as they say, sorted by their number.
    caption : str
        Plain text.
    marked : str
        Name of a column of verdicts, each of which gets a sign besides its word.
    """
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(str(name))}</button></th>' for name in table
    )
    rows = table.head(MOST_ROWS).to_dict("records")
    body = "\n".join(
        "<tr>" + "".join(cell(value, name == marked) for name, value in row.items()) + "</tr>" for row in rows
    )
    more = f" The first {MOST_ROWS} of {len(table)} rows." if len(table) > MOST_ROWS else ""
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption + more)}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


class Shown(str):
    """Text of a cell that is sorted by a number."""

    def __new__(cls, text: str, number: float) -> "Shown":
        """Text and number."""
        shown = super().__new__(cls, text)
        shown.number = float(number)
        return shown


def cell(value: Any, marked: bool = False) -> str:
    """A value as a cell of the table."""
    if isinstance(value, Shown):
        return f'<td class="number" data-value="{value.number:.6g}">{escape(value)}</td>'
    if isinstance(value, bool | np.bool_):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float | np.number):
        if not np.isfinite(value):
            return '<td class="number"></td>'
        text = f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.2g}"
        return f'<td class="number" data-value="{float(value):.6g}">{text}</td>'
    if marked:
        return f'<td class="verdict {escape(str(value).replace(" ", "-"))}">{escape(str(value))}</td>'
    return f"<td>{escape('' if value is None else str(value))}</td>"


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Means and differences with their intervals in one column each; spreads are left to the CSV.

    X_mean, X_low, X_high (or X, X_low, X_high) become X; difference, low, high become difference; low_cases and
    high_cases are left out.

    Examples
    --------
    >>> compact(pd.DataFrame({"run": ["a"], "td_mean": [90.0], "td_sd": [2.0], "td_low": [88.0], "td_high": [92.0]}))
      run                   td
    0   a  90.0 (88.0 to 92.0)
    """
    columns: dict[str, Any] = {}
    for name in table:
        stem = name.removesuffix("_mean")
        ends = ("low", "high") if name in ("difference", "value", "ours") else (f"{stem}_low", f"{stem}_high")
        if name.endswith(("_low", "_high", *LEFT_OUT)) or name in ("low", "high", "low_cases", "high_cases"):
            continue
        if all(end in table for end in ends) and pd.api.types.is_numeric_dtype(table[name]):
            numbers = zip(table[name], table[ends[0]], table[ends[1]], strict=True)
            columns[stem] = [with_interval(*three) for three in numbers]
        else:
            columns[stem if stem not in table else name] = list(table[name])
    return pd.DataFrame(columns, index=table.index)


def with_interval(middle: float, low: float, high: float) -> Shown:
    """A number with its interval, where it has one.

    Examples
    --------
    >>> with_interval(90.04, 88.0, 92.0), with_interval(90.04, float("nan"), float("nan"))
    ('90.0 (88.0 to 92.0)', '90.0')
    """
    digits = 1 if abs(middle) >= 1 else 2
    text = f"{middle:.{digits}f}" if np.isfinite(middle) else ""
    return Shown(text + (f" ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(low) else ""), middle)
