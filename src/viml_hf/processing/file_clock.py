"""The one clock of a media file: when its pictures and its sound are presented."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

# Seconds. Streams that begin within this of each other begin together, and a shorter silence between two packets is
# rounding. FFmpeg's own `aresample=async=1` takes the same.
TOLERANCE = Fraction(1, 10)
# Seconds. In formats whose clock may be restarted (MPEG-TS, MPEG-PS, Ogg), a longer leap of all streams is a restart.
# FFmpeg's command line takes the same.
LEAP = 10
# Seconds by which one packet must be late to be a hole; less is the rounding of timestamps.
JITTER = Fraction(1, 200)


class FileClock:
    """Puts the streams of a file on one timeline.

    The file begins when the first of its streams does. A clock that was restarted in the middle, as where
    recordings were joined, goes on as if it had not been; `may_restart` says whether the format's clock can be.
    """

    def __init__(self, streams: Sequence[Any], may_restart: bool = False):
        begins = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
        # A stream that is alone sets the clock by its first frame, whatever the container estimates.
        self.begin: Fraction | None = min(begins) if len(begins) > 1 else None
        self.may_restart = may_restart
        # Per stream: its unit of time, the end of what was read of it, and when its next packet is expected.
        self._bases: dict[int, Fraction] = {}
        self._ends: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._shift = Fraction(0)

    def read(self, packet: Any) -> None:
        """Take note of a packet in the order of the file, and correct its times after a restart of the clock."""
        time, stream = packet.pts if packet.dts is None else packet.dts, packet.stream_index
        if time is None:
            return
        if stream not in self._bases:
            self._bases[stream] = packet.time_base
        base = self._bases[stream]
        if self.may_restart:
            self._notice_restart(stream, time * base)
            if self._shift:
                shift = round(self._shift / base)
                time += shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                packet.pts = None if packet.pts is None else packet.pts + shift
        length = packet.duration or 0
        self._expected[stream] = time + length
        end = (time if packet.pts is None else max(time, packet.pts)) + length
        self._ends[stream] = max(end, self._ends.get(stream, end))

    def _notice_restart(self, stream: int, time: Fraction) -> None:
        if stream not in self._expected:
            return
        expected = {index: ticks * self._bases[index] for index, ticks in self._expected.items()}
        leap = time + self._shift - expected[stream]
        # Decoding times never run back. They run far ahead only where the clock does so for all streams.
        if leap < -TOLERANCE or (leap > LEAP and time + self._shift > max(expected.values()) + LEAP):
            self._shift -= leap

    @property
    def restarted(self) -> bool:
        """Whether the clock was restarted so far."""
        return self._shift != 0

    def origin(self, first: Fraction) -> Fraction:
        """When the file begins, on the container's clock, if a stream's first frame is presented at `first`."""
        return first if self.begin is None or abs(first - self.begin) <= TOLERANCE else self.begin

    def end_of_others(self, stream: Any) -> Fraction:
        """The end of what was read so far of the other streams, on the container's clock; 0 where there are none."""
        ends = (end * self._bases[index] for index, end in self._ends.items() if index != stream.index)
        return max(ends, default=Fraction(0))

    def vouches_for(self, time: Fraction, stream: Any, declared_end: Fraction) -> bool:
        """Whether a time of a stream can be believed: its declared end or what was read of the others speaks for it."""
        return time <= max(declared_end, self.end_of_others(stream) + 1)


class PresentationTimes:
    """Chooses each decoded frame's time as FFmpeg's "best effort" does: the presentation or the decoding time.

    Some containers, such as AVI with H.264, store decoding times only, which then appear as presentation times out of
    order. The kind that ran back less often so far is believed.
    """

    def __init__(self) -> None:
        self._faults = {"pts": 0, "dts": 0}
        self._last: dict[str, int | None] = {"pts": None, "dts": None}

    def of(self, frame: Any) -> int | None:
        """The frame's time in units of its stream; `None` where it has none."""
        self._count("dts", frame.pts if frame.dts is None else frame.dts, frame.dts is not None)
        self._count("pts", frame.dts if frame.pts is None else frame.pts, frame.pts is not None)
        if frame.pts is not None and (frame.dts is None or self._faults["pts"] <= self._faults["dts"]):
            return frame.pts
        return frame.dts

    def _count(self, kind: str, value: int | None, stated: bool) -> None:
        if value is None:
            return
        last = self._last[kind]
        self._faults[kind] += stated and last is not None and value <= last
        self._last[kind] = value
