"""Single bits to bytes: an adaptive binary range coder in whole numbers, alike on every machine.

(Martin, 1979; the carry goes back through the bytes that are out already.) A context is a place in a table: it learns
how often its bits are 1, fast at first and slower and slower. docs/format.md specifies all of it.
"""

HALF, LEAST, MOST = 1 << 15, 1 << 9, (1 << 16) - (1 << 9)
"""Chances are of 2^16, and no context is ever surer than `LEAST`."""
SLOWEST = 60
"""Bits after which a context learns no slower."""


class Contexts:
    """Chances of a 1, of 2^16, by context, each with how many bits it has seen."""

    def __init__(self) -> None:
        self._chance: dict[object, int] = {}
        self._seen: dict[object, int] = {}

    def chance(self, context: object) -> int:
        return self._chance.get(context, HALF)

    def learn(self, context: object, bit: int) -> None:
        """Move the chance towards the bit by 1/(n + 1.5), n the bits seen before."""
        chance, seen = self._chance.get(context, HALF), self._seen.get(context, 0)
        chance += 2 * ((bit << 16) - chance) // (2 * seen + 3)
        self._chance[context] = min(max(chance, LEAST), MOST)
        self._seen[context] = min(seen + 1, SLOWEST)


class BinaryEncoder:
    """Writes bits as a `BinaryDecoder` reads them."""

    def __init__(self) -> None:
        self.contexts = Contexts()
        self._low, self._span, self._out = 0, 0xFFFFFFFF, bytearray()

    def bit(self, bit: int, *contexts: object) -> int:
        """One bit, whose chance is the mean of its contexts'; even without one. Gives the bit back."""
        share = _share(self.contexts, contexts, self._span)
        if bit:
            self._span = share
        else:
            self._low += share
            self._span -= share
        for context in contexts:
            self.contexts.learn(context, bit)
        while self._span < 1 << 24:
            self._carry()
            self._out.append(self._low >> 24)
            self._low = self._low << 8 & 0xFFFFFFFF
            self._span <<= 8
        return bit

    def _carry(self) -> None:
        if self._low >> 32:
            at = len(self._out) - 1
            while self._out[at] == 255:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1
            self._low &= 0xFFFFFFFF

    def finish(self) -> bytes:
        """The fewest bytes that say the same: behind their end a decoder reads zeros."""
        for left in (24, 16, 8, 0):
            value = (self._low + (1 << left) - 1) >> left << left
            if value < self._low + self._span:
                self._low = value
                break
        self._carry()
        self._out += self._low.to_bytes(4, "big")
        return bytes(self._out).rstrip(b"\0")


class BinaryDecoder:
    """Reads what a `BinaryEncoder` wrote. Any bytes are something; `finish` refuses those that were not needed."""

    def __init__(self, data: bytes) -> None:
        self.contexts = Contexts()
        self._data, self._at, self._span = data, 4, 0xFFFFFFFF
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, bit: int, *contexts: object) -> int:
        """The next bit; what is given is of no account."""
        share = _share(self.contexts, contexts, self._span)
        bit = int(self._code < share)
        if bit:
            self._span = share
        else:
            self._code -= share
            self._span -= share
        for context in contexts:
            self.contexts.learn(context, bit)
        while self._span < 1 << 24:
            more = self._data[self._at] if self._at < len(self._data) else 0
            self._code = (self._code << 8 | more) & 0xFFFFFFFF
            self._span, self._at = self._span << 8, self._at + 1
        return bit

    def finish(self) -> None:
        """Raises ValueError where bytes are left that nothing needs."""
        if self._at < len(self._data):
            raise ValueError("it has more bytes than its mesh needs")


def _share(known: Contexts, contexts: tuple[object, ...], span: int) -> int:
    """The part of the span that stands for a 1."""
    chance = sum(known.chance(context) for context in contexts) // len(contexts) if contexts else HALF
    return (span >> 16) * chance
