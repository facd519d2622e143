// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ioeventfds and coalesced ranges: attachments of a trapped region with which some
//! writes to it do not stop the vCPU.

pub(crate) mod active;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::any::Any;
use core::cmp::Ordering;
use core::fmt;

use guest_ranges::{AddrRange, Owner};

use crate::region::Kind;

/// An eventfd: a file descriptor and the owner that keeps it open.
#[derive(Clone)]
pub struct EventFd {
    fd: i32,
    owner: Owner,
}

impl EventFd {
    /// The eventfd with the descriptor `fd`, which stays open while `owner` lives.
    pub fn new<O: Any + Send + Sync>(fd: i32, owner: Arc<O>) -> Self {
        Self { fd, owner }
    }

    /// The file descriptor.
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// The owner that keeps the descriptor open.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// Two are equal if their descriptors are.
impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        self.fd == other.fd
    }
}
impl Eq for EventFd {}

impl PartialOrd for EventFd {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for EventFd {
    fn cmp(&self, other: &Self) -> Ordering {
        self.fd.cmp(&other.fd)
    }
}

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eventfd {}", self.fd)
    }
}

/// The writes that signal an [`IoEventFd`]: all, those of one size, or those of one
/// size and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Exhaustive: a listener has to register each of them.
pub enum Trigger {
    /// Any write that starts at the address.
    AnyWrite,
    /// Writes of 1 byte, only of this value if one is given. Likewise below.
    U8(Option<u8>),
    /// Writes of 2 bytes.
    U16(Option<u16>),
    /// Writes of 4 bytes.
    U32(Option<u32>),
    /// Writes of 8 bytes.
    U64(Option<u64>),
}

impl Trigger {
    pub(crate) const FIRST: Self = Self::AnyWrite;
    pub(crate) const LAST: Self = Self::U64(Some(u64::MAX));

    /// The number of bytes of the write: 1, 2, 4 or 8. 0 for any number.
    pub fn size(self) -> u64 {
        match self {
            Self::AnyWrite => 0,
            Self::U8(_) => 1,
            Self::U16(_) => 2,
            Self::U32(_) => 4,
            Self::U64(_) => 8,
        }
    }

    /// The value of the write. `None` for any value.
    pub fn value(self) -> Option<u64> {
        match self {
            Self::AnyWrite => None,
            Self::U8(value) => value.map(u64::from),
            Self::U16(value) => value.map(u64::from),
            Self::U32(value) => value.map(u64::from),
            Self::U64(value) => value,
        }
    }

    /// Whether one write could match both.
    pub(crate) fn meets(self, other: Self) -> bool {
        let (a, b) = (self.value(), other.value());
        let any = self == Self::AnyWrite || other == Self::AnyWrite;
        any || self.size() == other.size() && (a.is_none() || b.is_none() || a == b)
    }
}

/// An eventfd that writes to an address signal, without an exit to the VMM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoEventFd {
    /// Where the writes start: the offset in the region for an attachment, and the
    /// guest's address for a listener.
    pub at: u64,
    /// The writes that signal the eventfd.
    pub trigger: Trigger,
    /// The eventfd.
    pub event: EventFd,
}

impl IoEventFd {
    /// The bytes of a matching write, at least the first byte. `None` if it wraps.
    pub fn range(&self) -> Option<AddrRange> {
        AddrRange::new(self.at, self.trigger.size().max(1).into())
    }

    pub(crate) fn key(&self) -> IoEventKey {
        (self.at, self.trigger)
    }
}

/// What identifies an ioeventfd: its address and its trigger.
pub(crate) type IoEventKey = (u64, Trigger);

/// The attachments of one region, by offset.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    ioeventfds: BTreeMap<IoEventKey, EventFd>,
    /// By first offset, without overlap.
    coalesced: BTreeMap<u64, AddrRange>,
}

impl Attachments {
    pub(crate) fn is_empty(&self) -> bool {
        self.ioeventfds.is_empty() && self.coalesced.is_empty()
    }

    /// The ioeventfds that start in `offsets`.
    pub(crate) fn ioeventfds(&self, offsets: AddrRange) -> impl Iterator<Item = IoEventFd> + '_ {
        let range = (offsets.start(), Trigger::FIRST)..=(offsets.last(), Trigger::LAST);
        let ioeventfds = self.ioeventfds.range(range);
        ioeventfds.map(|(&(at, trigger), event)| IoEventFd {
            at,
            trigger,
            event: event.clone(),
        })
    }

    /// The coalesced ranges that share an offset with `offsets`.
    pub(crate) fn coalesced(&self, offsets: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        let before = self.coalesced.range(..offsets.start()).next_back();
        let inside = self.coalesced.range(offsets.start()..=offsets.last());
        let ranges = before.into_iter().chain(inside).map(|(_, &range)| range);
        ranges.filter(move |range| range.intersect(offsets).is_some())
    }

    pub(crate) fn ioeventfd(&self, key: IoEventKey) -> Option<IoEventFd> {
        let event = self.ioeventfds.get(&key)?.clone();
        let (at, trigger) = key;
        Some(IoEventFd { at, trigger, event })
    }

    /// Whether exactly this ioeventfd is attached.
    pub(crate) fn has_ioeventfd(&self, ioeventfd: &IoEventFd) -> bool {
        self.ioeventfds.get(&ioeventfd.key()) == Some(&ioeventfd.event)
    }

    pub(crate) fn has_coalesced(&self, range: AddrRange) -> bool {
        self.coalesced.get(&range.start()) == Some(&range)
    }

    /// Attaches or removes an ioeventfd. Returns the previous eventfd.
    pub(crate) fn set_ioeventfd(
        &mut self,
        key: IoEventKey,
        to: Option<EventFd>,
    ) -> Option<EventFd> {
        match to {
            Some(event) => self.ioeventfds.insert(key, event),
            None => self.ioeventfds.remove(&key),
        }
    }

    /// Attaches or removes a coalesced range. Returns whether it was attached.
    pub(crate) fn set_coalesced(&mut self, range: AddrRange, to: bool) -> bool {
        let before = match to {
            true => self.coalesced.insert(range.start(), range),
            false => self.coalesced.remove(&range.start()),
        };
        before.is_some()
    }
}

impl Kind {
    /// Whether writes can trap to a device, so that an attachment can take effect.
    pub(crate) fn takes_attachments(&self) -> bool {
        matches!(self, Kind::Mmio | Kind::RomDevice(_))
    }
}
