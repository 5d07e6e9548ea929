"""What every refusal of bad input must be."""

from collections.abc import Callable
from typing import Any

import pytest

from airwaylib.errors import InputError


def refused(call: Callable[[], Any], *parts: object) -> None:
    """`call` must raise an `InputError` of one line that has all `parts` in it."""
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
