// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A piece of a BAR: the classifier's output.

use core::fmt;

use guest_ranges::AddrRange;

use crate::reason::Reasons;

/// How a guest reaches the bytes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a VMM has to decide for each of them what to map.
pub enum Access {
    /// Directly, through the confidential guest's secure second-stage table, and by no one else.
    /// There is no host address for it, only the dma-buf that VFIO exports.
    Private,
    /// Directly, through a mapping that the VMM has as well.
    Shared,
    /// Every access exits to the VMM, which carries it out.
    Trap,
    /// Not at all: neither mapped nor emulated.
    Blocked,
}

/// For example `private`.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Trap => "trap",
            Self::Blocked => "blocked",
        })
    }
}

/// A run of bytes of a BAR with one access for the same reasons.
///
/// A private or shared piece starts and ends on a host page, but for one case: the piece of a BAR
/// that [`SubPagePolicy::Expand`](crate::SubPagePolicy) makes shared. Trapped and blocked pieces
/// may start and end anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    range: AddrRange,
    access: Access,
    reasons: Reasons,
}

impl Piece {
    pub(crate) const fn new(range: AddrRange, access: Access, reasons: Reasons) -> Self {
        Self {
            range,
            access,
            reasons,
        }
    }

    /// This piece and `next`, which starts right behind it, as one, if access and reasons are equal.
    pub(crate) fn joined(self, next: Self) -> Option<Self> {
        let same = self.access == next.access && self.reasons == next.reasons;
        let range = self.range.joined(next.range).filter(|_| same)?;
        Some(Self { range, ..self })
    }

    /// The bytes, from the start of the BAR.
    pub const fn range(self) -> AddrRange {
        self.range
    }

    /// Where the piece starts, in bytes from the start of the BAR.
    pub const fn offset(self) -> u64 {
        self.range.start()
    }

    /// Size in bytes.
    pub const fn size(self) -> u64 {
        // A BAR has at most 2^63 bytes.
        self.range.last() - self.range.start() + 1
    }

    /// How the guest reaches the bytes.
    pub const fn access(self) -> Access {
        self.access
    }

    /// Why. A shared, private or blocked piece has the reasons for that access. A trapped piece has
    /// every reason that alone would prevent mapping it.
    pub const fn reasons(self) -> Reasons {
        self.reasons
    }

    /// Whether the piece gets a KVM memory slot: private and shared pieces do.
    ///
    /// The slot of a shared piece has the address of the VMM's mapping; the slot of a private piece
    /// has the dma-buf instead. An expanded BAR is mapped with the rest of its host page.
    pub const fn kvm_mappable(self) -> bool {
        matches!(self.access, Access::Private | Access::Shared)
    }

    /// Whether the piece can be mapped for other devices' DMA by its host address. Only shared pieces
    /// can.
    ///
    /// A private piece has no host address. It can be a target of DMA only through its dma-buf
    /// (`IOMMU_IOAS_MAP_FILE`), and only for a device that the guest trusts. That does not depend on
    /// the BAR, so the answer here is no.
    pub const fn dma_mappable(self) -> bool {
        matches!(self.access, Access::Shared)
    }
}

/// For example `0x2000-0x2fff trap: host page holds the MSI-X table`.
impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.range.dashed(),
            self.access,
            self.reasons
        )
    }
}
