"""Order of the tests."""


def pytest_collection_modifyitems(items):
    """The notebooks first: they take longest, and with two files at a time nothing should wait for them at the end."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")
