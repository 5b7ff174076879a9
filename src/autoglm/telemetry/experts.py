"""What a pool of experts, read from disk when they are needed, tells about its work."""

from __future__ import annotations

from typing import NamedTuple


class ExpertStats(NamedTuple):
    """Counts since the model was loaded; an expert counts once for each layer and pass."""

    num_slots: int  # experts that fit in the memory
    expert_bytes: int  # of one expert
    num_used: int
    num_resident: int  # of those used: in memory when asked for
    num_expected: int  # of the others: on their way, because they were predicted
    num_predicted: int
    num_foreseen: int  # predictions that came true
    bytes_read: int
    wait_s: float

    def since(self, earlier: ExpertStats) -> ExpertStats:
        """What was added after `earlier`."""
        return ExpertStats(
            num_slots=self.num_slots,
            expert_bytes=self.expert_bytes,
            num_used=self.num_used - earlier.num_used,
            num_resident=self.num_resident - earlier.num_resident,
            num_expected=self.num_expected - earlier.num_expected,
            num_predicted=self.num_predicted - earlier.num_predicted,
            num_foreseen=self.num_foreseen - earlier.num_foreseen,
            bytes_read=self.bytes_read - earlier.bytes_read,
            wait_s=self.wait_s - earlier.wait_s,
        )

    @property
    def hit_rate(self) -> float:
        """The share of used experts that were in memory."""
        return self.num_resident / self.num_used if self.num_used else 0.0

    @property
    def precision(self) -> float:
        """The share of predictions that came true."""
        return self.num_foreseen / self.num_predicted if self.num_predicted else 0.0
