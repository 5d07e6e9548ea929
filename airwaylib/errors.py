"""Define the one error for bad input; users see its message as one line."""


class InputError(ValueError):
    """Bad input: the message names the file or value, what is wrong with it and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """Return what Jupyter shows: the message alone, for the traceback says nothing about the input."""
        return [f"InputError: {self}"]
