"""Tables computed from finished runs."""
