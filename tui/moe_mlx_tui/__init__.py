"""The terminal app: a conversation with the expert cache alive beside it.

`engine` owns MLX in a thread of its own and publishes `snapshot.Snapshot`s; everything else only reads them, whether
they come from the engine, from a recording or through a socket.
"""
