"""Exclusive locks of open files, which the operating system frees when a process dies."""

__all__ = ["lock"]


def lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed.

    Args:
        descriptor: descriptor of the file.
        wait: True to wait for another process that holds the lock.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(descriptor, wait=wait)
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock_on_windows(descriptor: int, *, wait: bool) -> None:
    import time
    from importlib import import_module

    msvcrt = import_module("msvcrt")
    while True:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # the first byte
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from error
            time.sleep(0.1)
        else:
            return
