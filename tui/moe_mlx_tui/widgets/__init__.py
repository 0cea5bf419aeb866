"""One widget a file. Widgets show snapshots; none of them knows where these come from."""
