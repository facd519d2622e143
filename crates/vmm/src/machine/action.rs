// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM does while its guest runs: plain data.

/// Something that the VMM does, and the error it is to fail with, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What it does.
    pub what: ActionKind,
    /// The expected error.
    pub fails: Option<ErrorCode>,
}

/// Why an action can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// It concerns private MMIO that the guest has accepted.
    Accepted,
    /// The pages are of another kind than it needs.
    WrongKind,
    /// It concerns parts of pages.
    Unaligned,
    /// There is no host address to reach the bytes through.
    NoHostAddress,
    /// This kernel cannot do it.
    Unsupported,
    /// There would be more memslots than the kernel has.
    TooManySlots,
    /// It lies beyond the guest's physical addresses.
    OutOfReach,
    /// Rendering the regions would not end.
    TooComplex,
    /// The region tree does not allow it.
    Tree,
    /// KVM refused.
    Kvm,
    /// The device refused.
    Device,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::WrongKind,
        Self::Unaligned,
        Self::NoHostAddress,
        Self::Unsupported,
        Self::TooManySlots,
        Self::OutOfReach,
        Self::TooComplex,
        Self::Tree,
        Self::Kvm,
        Self::Device,
    ];

    /// The word that machine files and reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::WrongKind => "wrong-kind",
            Self::Unaligned => "unaligned",
            Self::NoHostAddress => "no-host-address",
            Self::Unsupported => "unsupported",
            Self::TooManySlots => "too-many-slots",
            Self::OutOfReach => "out-of-reach",
            Self::TooComplex => "too-complex",
            Self::Tree => "tree",
            Self::Kvm => "kvm",
            Self::Device => "device",
        }
    }
}

/// What a VMM does while its guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// A region goes to another offset in its parent.
    Move {
        /// The region.
        region: usize,
        /// The new offset.
        to: u64,
    },
    /// A region comes or goes.
    Enable {
        /// The region.
        region: usize,
        /// Whether it comes.
        on: bool,
    },
    /// Guest writes to a region's memory are forbidden or allowed.
    ReadOnly {
        /// The region.
        region: usize,
        /// Whether they are forbidden.
        on: bool,
    },
    /// A flash chip's reads are direct or trap.
    DirectReads {
        /// The region.
        region: usize,
        /// Whether they are direct.
        on: bool,
    },
    /// The guest accepts private MMIO.
    Accept(GpaRange),
    /// The guest gives accepted private MMIO back.
    GiveBack(GpaRange),
    /// The device takes accepted private MMIO back.
    Revoke(GpaRange),
    /// The guest switches the memory decoding of the device whose BAR the
    /// region is.
    Decode {
        /// The region.
        region: usize,
        /// Whether it is on then.
        on: bool,
    },
    /// The device whose BAR the region is gets reset.
    Reset {
        /// The region.
        region: usize,
    },
    /// Pages become private or shared.
    Convert {
        /// The pages.
        span: GpaRange,
        /// Whether they become private.
        private: bool,
    },
    /// The VMM reads memory through its host address, and expects a value.
    HostRead {
        /// The guest-physical address.
        gpa: u64,
        /// Bytes: 1, 2, 4 or 8.
        size: usize,
        /// The expected value.
        expect: Option<u64>,
    },
    /// The VMM writes memory through its host address.
    HostWrite {
        /// The guest-physical address.
        gpa: u64,
        /// Bytes: 1, 2, 4 or 8.
        size: usize,
        /// The value.
        value: u64,
    },
}

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange {
    /// The first.
    pub gpa: u64,
    /// How many, at least one and not past 2^64.
    pub size: u64,
}
