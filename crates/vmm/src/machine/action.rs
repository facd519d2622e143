// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The actions of a script, which the VMM performs while its guest runs: plain data.

/// An action of the VMM, and the error that it is expected to fail with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The action.
    pub what: ActionKind,
    /// The expected error.
    pub fails: Option<ErrorCode>,
}

/// Why an action can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The guest has accepted the private MMIO.
    Accepted,
    /// The pages are not of the kind that it needs.
    WrongKind,
    /// The addresses are not multiples of the page size.
    Unaligned,
    /// The bytes have no host address.
    NoHostAddress,
    /// This kernel does not support it.
    Unsupported,
    /// The kernel does not have as many memslots.
    TooManySlots,
    /// It is beyond the guest's physical addresses.
    OutOfReach,
    /// Rendering the regions would take too long.
    TooComplex,
    /// The region tree does not allow it.
    Tree,
    /// KVM refused.
    Kvm,
    /// The device refused.
    Device,
    /// The state of the TEE device interface does not allow it.
    Tdi,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 12] = [
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
        Self::Tdi,
    ];

    /// Its word in machine files and reports.
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
            Self::Tdi => "tdi",
        }
    }
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// Moves a region to another offset in its parent.
    Move {
        /// The region.
        region: usize,
        /// The new offset.
        to: u64,
    },
    /// Enables or disables a region.
    Enable {
        /// The region.
        region: usize,
        /// Whether it is enabled.
        on: bool,
    },
    /// Forbids or allows guest writes to a region's memory.
    ReadOnly {
        /// The region.
        region: usize,
        /// Whether they are forbidden.
        on: bool,
    },
    /// Makes a flash chip's reads direct, or trap.
    DirectReads {
        /// The region.
        region: usize,
        /// Whether they are direct.
        on: bool,
    },
    /// The guest accepts private MMIO.
    Accept(GpaRange),
    /// The guest returns accepted private MMIO.
    GiveBack(GpaRange),
    /// The device revokes accepted private MMIO.
    Revoke(GpaRange),
    /// The guest switches the memory decoding of the device that the BAR belongs to.
    Decode {
        /// The region.
        region: usize,
        /// Whether it is switched on.
        on: bool,
    },
    /// Resets the device that the BAR belongs to.
    Reset {
        /// The region.
        region: usize,
    },
    /// Changes the state of the TEE device interface that the BAR belongs to.
    Tdi {
        /// The region.
        region: usize,
        /// How.
        change: TdiChange,
    },
    /// Converts pages to private or shared.
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

/// A change of a TEE device interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdiChange {
    /// The host locks it, and the guest gets the report.
    Lock,
    /// The guest starts it.
    Start,
    /// The host unlocks it. What the guest has accepted of it is revoked.
    Stop,
    /// It fails: the interface enters `ERROR`.
    Break,
}

impl TdiChange {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lock, Self::Start, Self::Stop, Self::Break];

    /// Its word in machine files and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Break => "break",
        }
    }
}

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange {
    /// The first.
    pub gpa: u64,
    /// How many, at least one and not past 2^64.
    pub size: u64,
}
