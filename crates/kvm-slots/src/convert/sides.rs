// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory with a private side: where its two sides are, and how the bytes of
//! one of them go.

use crate::discard::Discard;
use crate::range::{Backing, SlotRange};
use guest_ranges::{GuestMemfdSides, PageRange, PageState};

/// Where the private and the shared bytes of a stretch of memory are.
///
/// Plain numbers. The holder of the stretch keeps addresses and descriptors
/// valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Private pages are in a guest_memfd, shared ones in host memory beside
    /// it: what changes sides leaves stale bytes behind.
    Split {
        /// The guest_memfd.
        fd: i32,
        /// Where in the file the stretch starts.
        offset: u64,
        /// The host address where it starts.
        host: u64,
    },
    /// There is a guest_memfd and nothing beside it: no page can be shared.
    PrivateOnly {
        /// The guest_memfd.
        fd: i32,
        /// Where in the file the stretch starts.
        offset: u64,
    },
    /// One guest_memfd holds both, in place: a page changes hands and keeps
    /// its bytes, so nothing is stale.
    InPlace {
        /// The host's mapping of the file.
        host: Option<u64>,
    },
    /// Private MMIO: registers of a device, of which the host has nothing.
    /// Private means accepted.
    PrivateMmio,
}

impl Sides {
    /// The same memory, `bytes` further on.
    pub(super) fn advanced(self, bytes: u64) -> Self {
        // Wrapping cannot happen in a stretch: its ends were checked.
        match self {
            Self::Split { fd, offset, host } => Self::Split {
                fd,
                offset: offset.wrapping_add(bytes),
                host: host.wrapping_add(bytes),
            },
            Self::PrivateOnly { fd, offset } => Self::PrivateOnly {
                fd,
                offset: offset.wrapping_add(bytes),
            },
            Self::InPlace { host } => Self::InPlace {
                host: host.map(|host| host.wrapping_add(bytes)),
            },
            Self::PrivateMmio => self,
        }
    }
}

/// Pages that lie next to each other on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The guest-physical addresses.
    pub range: PageRange,
    /// What is there.
    pub sides: Sides,
}

impl Stretch {
    /// The part of the stretch that lies in `range`.
    pub(super) fn within(&self, range: PageRange) -> Option<Self> {
        let part = self.range.intersect(range)?;
        Some(Self {
            range: part,
            sides: self.sides.advanced(part.start() - self.range.start()),
        })
    }

    /// Where the host reaches these pages while they are shared. Private MMIO
    /// has no such place.
    pub fn host(&self) -> Option<u64> {
        match self.sides {
            Sides::Split { host, .. } => Some(host),
            Sides::InPlace { host } => host,
            Sides::PrivateOnly { .. } | Sides::PrivateMmio => None,
        }
    }

    /// What becomes stale when the pages change to this state.
    pub(super) fn stale(&self, to: PageState) -> Option<Discard> {
        let size = self.range.size();
        match (self.sides, to) {
            (Sides::Split { host, .. }, PageState::Private) => Some(Discard::Host {
                address: host,
                size,
            }),
            (Sides::Split { fd, offset, .. }, PageState::Shared)
            | (Sides::PrivateOnly { fd, offset }, PageState::Shared) => {
                Some(Discard::File { fd, offset, size })
            }
            (Sides::PrivateOnly { .. }, PageState::Private)
            | (Sides::InPlace { .. } | Sides::PrivateMmio, _) => None,
        }
    }
}

/// Memory with a private side, and what keeps it valid.
#[derive(Clone, Debug)]
pub struct ConvertibleRange {
    pub(super) stretch: Stretch,
    /// What is there, with its owners.
    pub(super) backing: Backing,
}

impl ConvertibleRange {
    /// What of a slot's range can be converted; `None` for memory without a
    /// private side, and for less than a page. `sides` says which pages a
    /// guest_memfd holds.
    pub fn new(range: &SlotRange, sides: GuestMemfdSides) -> Option<Self> {
        let pages = PageRange::inside(range.range())?;
        let skipped = pages.start() - range.gpa();
        let backing = range.backing().slice(skipped, pages.size())?;
        let host = backing.host().map(|host| host.address());
        let sides = match (&backing, sides, host) {
            (Backing::Host(_), ..) => return None,
            (Backing::FdOffset(_), ..) => Sides::PrivateMmio,
            (Backing::GuestMemfd { .. }, GuestMemfdSides::Shared, _) => return None,
            (Backing::GuestMemfd { .. }, GuestMemfdSides::Both, host) => Sides::InPlace { host },
            (Backing::GuestMemfd { file, .. }, GuestMemfdSides::Private, host) => {
                let (fd, offset) = (file.fd(), file.offset());
                match host {
                    Some(host) => Sides::Split { fd, offset, host },
                    None => Sides::PrivateOnly { fd, offset },
                }
            }
        };
        Some(Self {
            stretch: Stretch {
                range: pages,
                sides,
            },
            backing,
        })
    }

    /// The pages and where they are.
    pub fn stretch(&self) -> Stretch {
        self.stretch
    }
}
