"""Which requests explore, and with which arm: by a hash, so that whoever has the log can draw again."""

from hashlib import blake2b

HALF_BITS = 64


def explored_arm(request_id: bytes, place: int, *, share: float, seed: int, arms: int) -> int | None:
    """Return the arm of an explored request, uniform from 0 to `arms - 1`, or None for one that does not
    explore, as none without an id does.

    `place` is the user's place in the request. `share` of all users explore; which ones, and with which arms,
    are decided by different bits of one hash, and by others for another `seed`. An explored arm therefore
    has the propensity 1 / `arms`, whatever the share. A request that is sent again gets the same answer.
    """
    if not request_id or share <= 0.0:
        return None
    content = place.to_bytes(4, "big") + request_id
    salt = seed.to_bytes(blake2b.SALT_SIZE, "big")
    digest = blake2b(content, digest_size=2 * HALF_BITS // 8, salt=salt, person=b"unipinrec").digest()
    chance, draw = (int.from_bytes(half, "big") for half in (digest[:8], digest[8:]))
    if chance >= share * 2**HALF_BITS:
        return None
    return draw * arms >> HALF_BITS
