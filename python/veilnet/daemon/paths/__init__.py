"""The paths of a session: which ways there are, which are opened, and what each carries."""
