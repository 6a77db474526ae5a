"""Which part of a long history the trunk reads."""


def window_start(length: int, max_history: int, block: int) -> int:
    """Return the index of the first event kept of a history of `length` events.

    It is 0 while the history fits, else the smallest multiple of `block` that leaves at most `max_history`
    events. So it moves only once every `block` events, and between moves a cached prefix stays valid.
    Raises `ValueError` if `length` is negative, or `block` is not in 1 to `max_history`.
    """
    if length < 0:
        raise ValueError(f"length is {length}; allowed: 0 or more")
    if not 1 <= block <= max_history:
        raise ValueError(f"block is {block}; allowed: 1 to max_history {max_history}")
    excess = max(length - max_history, 0)
    return -(-excess // block) * block
