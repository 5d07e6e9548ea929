"""Data sets: from files on disk to stores, from stores to training crops."""
