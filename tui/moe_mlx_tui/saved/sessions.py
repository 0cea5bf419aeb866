"""The folder of saved conversations: found, searched, removed and put back."""

from __future__ import annotations

from pathlib import Path

from moe_mlx.errors import MoeMlxError, StoreMissingError
from moe_mlx.system.whole_files import write_whole
from moe_mlx_tui.saved.conversation import Conversation, load

#: Sessions that are listed and searched at most, the latest.
MOST = 1000


def matching_line(talk: Conversation, words: str) -> str | None:
    """Returns the line of a session that holds all the words, "" where its title does; None where nothing does."""
    wanted = words.casefold().split()
    if all(word in talk.title.casefold() for word in wanted):
        return ""
    for message in talk.messages:
        for line in message["content"].splitlines():
            if all(word in line.casefold() for word in wanted):
                return line.strip()
    return None


class Sessions:
    """The folder of saved conversations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, conversation: Conversation) -> None:
        """Writes a conversation; one in which nothing was said is not kept.

        Raises:
            OSError: it cannot be written.
        """
        if conversation.messages:
            write_whole(self.folder / f"{conversation.ident}.json", conversation.to_json(), private=True)

    def remove(self, ident: str) -> bytes:
        """Takes a session away and returns its file, for `restore`.

        Raises:
            OSError: it cannot be read or removed.
        """
        path = self.folder / f"{ident}.json"
        data = path.read_bytes()
        path.unlink()
        return data

    def restore(self, ident: str, data: bytes) -> None:
        """Puts a removed session back.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(self.folder / f"{ident}.json", data.decode("utf-8"), private=True)

    def all(self) -> tuple[list[Conversation], int]:
        """Returns every session that can be read, the latest first (`MOST` of them), and how many files are none."""
        found: list[Conversation] = []
        bad = 0
        for path in self.paths()[:MOST]:
            try:
                talk = load(path)
            except MoeMlxError:
                bad += 1
                continue
            if talk.ident == path.stem:  # a copy under another name would be saved over the first
                found.append(talk)
            else:
                bad += 1
        return found, bad

    def paths(self) -> list[Path]:
        """Returns the files, the latest first."""
        try:
            return sorted(self.folder.glob("[0-9]*.json"), reverse=True)
        except OSError:
            return []

    def open(self, name: str) -> Conversation:
        """Returns "latest", a session by the beginning of its name, or a file.

        Raises:
            StoreMissingError: there is none.
        """
        known = self.paths()
        if name == "latest":
            if not known:
                raise StoreMissingError("no session has been saved yet: start one without --resume")
            return load(known[0])
        if Path(name).is_file():
            return load(Path(name))
        for path in known:
            if path.stem.startswith(name):
                return load(path)
        raise StoreMissingError(
            f"no session is called {name}: leave the name out for the latest, or pick one in the app"
        )
