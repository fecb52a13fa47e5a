"""Slots that limit how many processes work at once."""

import contextlib
import tempfile
import weakref
from typing import Optional, Set, Tuple


class Slots:
    """Slots that a process and all its descendants share. They limit how many of these processes work at once.

    Each process has one slot of its own, which it lends to one of its children while it waits for them. So nested
    processes cannot deadlock. The other slots are record locks on the bytes of a file. The kernel frees the locks of a
    killed process, and a child does not inherit them.

    Args:
        count: How many processes may work at once.
    """

    def __init__(self, count: int) -> None:
        self._shared = range(count - 1)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def take(self, own: Set[Optional[int]]) -> Tuple[bool, Optional[int]]:
        """Take a slot that is free.

        Args:
            own: The slots that this process has taken. None stands for its own slot.

        Returns:
            (False, the slot), or (True, None) if all slots are taken.
        """
        import fcntl  # Windows has no fcntl.

        if None not in own:
            return False, None
        for slot in self._shared:
            if slot not in own:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                    return False, slot
        return True, None

    def give_back(self, slot: Optional[int]) -> None:
        """Give back a slot."""
        import fcntl

        if slot is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
