// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory model: a flat list of regions with priorities.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_slots::{Capabilities, DeviceFile, FileSlice, SlotAccess, SlotBacking, SlotRange};

use crate::Bytes;

/// The size of a page in bytes: the host's, of which memslots are made.
pub fn page_size() -> u64 {
    Capabilities::minimal().page_size.bytes()
}

/// The content of a region.
#[derive(Clone, Debug)]
pub enum What {
    /// Memory that the guest reads and writes.
    Ram(Arc<Bytes>),
    /// Memory that the guest only reads.
    Rom(Arc<Bytes>),
    /// Memory whose shared pages are in host memory, and private ones in a
    /// guest_memfd.
    Confidential(Arc<Bytes>, Arc<OwnedFd>),
    /// Registers of a device that only the guest accesses: a file and no host
    /// address.
    PrivateRegisters(Arc<OwnedFd>),
    /// A device of the VMM: every access exits.
    Trapped,
}

/// A region: whole pages at one address.
#[derive(Clone, Debug)]
pub struct Region {
    /// The name.
    pub name: u32,
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The size in bytes, in whole pages.
    pub size: u64,
    /// Of overlapping regions, the one with the highest priority is visible, or
    /// the last added among equals.
    pub priority: u8,
    /// The offset in its memory or file, in bytes.
    pub start: u64,
    /// The content.
    pub what: What,
    /// Whether the guest's writes are logged.
    pub logged: bool,
}

/// A guest's memory.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The regions, in the order in which they were added.
    pub regions: Vec<Region>,
}

impl Model {
    /// Adds a region.
    pub fn add(&mut self, region: Region) {
        self.regions.push(region);
    }

    /// Removes all regions with that name.
    pub fn remove(&mut self, name: u32) {
        self.regions.retain(|region| region.name != name);
    }

    /// Moves all regions with that name.
    pub fn move_to(&mut self, name: u32, gpa: u64) {
        for region in self.regions.iter_mut().filter(|r| r.name == name) {
            region.gpa = gpa;
        }
    }

    /// The ranges that the guest reaches directly, by address.
    pub fn shows(&self) -> Vec<SlotRange> {
        let ends = self.regions.iter().flat_map(|r| [r.gpa, r.gpa + r.size]);
        let mut borders: Vec<u64> = ends.collect();
        borders.sort_unstable();
        borders.dedup();
        // Between two borders, the same region is visible, or none.
        let mut shown: Vec<(&Region, u64, u64)> = Vec::new();
        for border in borders.windows(2) {
            let (from, to) = (border[0], border[1]);
            let Some(top) = self.top(from) else { continue };
            match shown.last_mut() {
                Some((last, _, end)) if std::ptr::eq(*last, top) && *end == from => *end = to,
                _ => shown.push((top, from, to)),
            }
        }
        let ranges = shown
            .into_iter()
            .filter_map(|(r, from, to)| r.range(from, to));
        ranges.collect()
    }

    /// The visible region at an address.
    fn top(&self, gpa: u64) -> Option<&Region> {
        let here = |r: &&Region| (r.gpa..r.gpa + r.size).contains(&gpa);
        self.regions.iter().filter(here).max_by_key(|r| r.priority)
    }
}

impl Region {
    /// The guest's own memory, which covers everything else and never changes.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "there is no guest code to use it")
    )]
    pub(crate) fn code(gpa: u64, code: Arc<Bytes>) -> Self {
        Self {
            name: u32::MAX,
            gpa,
            size: code.host_memory().size(),
            priority: u8::MAX,
            start: 0,
            what: What::Rom(code),
            logged: false,
        }
    }

    /// The part of a region from one address to another, for KVM.
    fn range(&self, from: u64, to: u64) -> Option<SlotRange> {
        let at = self.start + (from - self.gpa);
        let size = to - from;
        let host = |bytes: &Arc<Bytes>| bytes.host_memory().slice(at, size);
        let file = |file: &Arc<OwnedFd>| FileSlice::new(file.clone(), at, size);
        let backing = match &self.what {
            What::Ram(bytes) | What::Rom(bytes) => SlotBacking::Host(host(bytes)?),
            What::Confidential(shared, private) => SlotBacking::GuestMemfd {
                file: file(private)?,
                host: Some(host(shared)?),
            },
            What::PrivateRegisters(registers) => {
                SlotBacking::FdOffset(DeviceFile::new(file(registers)?))
            }
            What::Trapped => return None,
        };
        let access = match self.what {
            What::Rom(_) => SlotAccess::ReadOnly,
            _ => SlotAccess::ReadWrite,
        };
        let range = SlotRange::new(from, access, backing).ok()?;
        Some(range.with_log_dirty(self.logged))
    }
}
