"""The one kind of error that is the input's fault, not the program's: shown to a user as one line."""


class InputError(ValueError):
    """Bad input: the message names the file or value, what is wrong with it and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """Return what Jupyter shows: the message alone, for the traceback says nothing about the input."""
        return [f"InputError: {self}"]
