"""The app in a browser: one server, one tab a process, no key without a token."""
