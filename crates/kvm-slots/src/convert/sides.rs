// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory with a private side: the places of its private and shared bytes.

use crate::range::{SlotBacking, SlotRange};
use crate::vm::discard::Discard;
use guest_ranges::{GuestMemfdSides, PageRange, PageState};

/// The places of the private and the shared bytes of a stretch of memory.
///
/// These are plain numbers. The owner of the stretch keeps addresses and
/// descriptors valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sides {
    /// Private pages are in a guest_memfd, and shared pages in host memory
    /// ([`GuestMemfdSides::Private`] with host memory). A conversion leaves stale bytes on
    /// the other side.
    Split {
        /// The guest_memfd.
        fd: i32,
        /// The offset of the stretch in the file.
        offset: u64,
        /// The host address of the stretch.
        host: u64,
    },
    /// There is only a guest_memfd: no page can be shared.
    PrivateOnly {
        /// The guest_memfd.
        fd: i32,
        /// The offset of the stretch in the file.
        offset: u64,
    },
    /// One guest_memfd has both ([`GuestMemfdSides::Both`]), in place, so an engine
    /// discards nothing. Whether a page keeps its bytes depends on the
    /// [`Home`](super::Home#the-bytes-of-a-converted-page).
    InPlace {
        /// The guest_memfd.
        fd: i32,
        /// The offset of the stretch in the file.
        offset: u64,
        /// The host's mapping of the file. Only shared pages can be accessed there: the
        /// kernel unmaps pages that become private.
        host: Option<u64>,
    },
    /// Private MMIO: registers of a device, without host memory. Private means
    /// accepted.
    PrivateMmio,
}

impl Sides {
    /// The same memory, `bytes` further on.
    pub(super) fn advanced(self, bytes: u64) -> Self {
        // Nothing wraps inside a stretch: its ends were checked.
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
            Self::InPlace { fd, offset, host } => Self::InPlace {
                fd,
                offset: offset.wrapping_add(bytes),
                host: host.map(|host| host.wrapping_add(bytes)),
            },
            Self::PrivateMmio => self,
        }
    }

    /// The guest_memfd, and the offset of the stretch in it.
    pub(super) fn file(self) -> Option<(i32, u64)> {
        match self {
            Self::Split { fd, offset, .. }
            | Self::PrivateOnly { fd, offset }
            | Self::InPlace { fd, offset, .. } => Some((fd, offset)),
            Self::PrivateMmio => None,
        }
    }
}

/// Pages that are adjacent on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The guest-physical addresses.
    pub range: PageRange,
    /// The places of their bytes.
    pub sides: Sides,
}

impl Stretch {
    /// The part of the stretch in `range`.
    pub(super) fn within(&self, range: PageRange) -> Option<Self> {
        let part = self.range.intersect(range)?;
        Some(Self {
            range: part,
            sides: self.sides.advanced(part.start() - self.range.start()),
        })
    }

    /// The host address of these pages while they are shared. Private MMIO has none.
    pub fn host(&self) -> Option<u64> {
        match self.sides {
            Sides::Split { host, .. } => Some(host),
            Sides::InPlace { host, .. } => host,
            Sides::PrivateOnly { .. } | Sides::PrivateMmio => None,
        }
    }

    /// The bytes that become stale when the pages change to this state.
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

/// Memory with a private side, and its owners.
#[derive(Clone, Debug)]
pub struct ConvertibleRange {
    pub(super) stretch: Stretch,
    /// The memory, with its owners.
    pub(super) backing: SlotBacking,
}

impl ConvertibleRange {
    /// The convertible part of a slot's range; `None` for memory without a private
    /// side, and for less than a page. `sides` are the pages that a guest_memfd
    /// contains.
    pub fn new(range: &SlotRange, sides: GuestMemfdSides) -> Option<Self> {
        let pages = PageRange::inside(range.range())?;
        let skipped = pages.start() - range.gpa();
        let backing = range.backing().slice(skipped, pages.size())?;
        let host = backing.host().map(|host| host.address());
        let sides = match (&backing, sides, host) {
            (SlotBacking::Host(_), ..) => return None,
            (SlotBacking::FdOffset(_), ..) => Sides::PrivateMmio,
            (SlotBacking::GuestMemfd { .. }, GuestMemfdSides::Shared, _) => return None,
            (SlotBacking::GuestMemfd { file, .. }, GuestMemfdSides::Both, host) => Sides::InPlace {
                fd: file.fd(),
                offset: file.offset(),
                host,
            },
            (SlotBacking::GuestMemfd { file, .. }, GuestMemfdSides::Private, host) => {
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

    /// The pages and the places of their bytes.
    pub fn stretch(&self) -> Stretch {
        self.stretch
    }
}
