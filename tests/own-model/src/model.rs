// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory model: a flat list of regions with priorities.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_slots::{Backing, DeviceFile, FileSlice, SlotAccess, SlotRange};

use crate::Bytes;

/// The size of a guest's page in bytes.
pub const PAGE: u64 = 0x1000;

/// What is in a region.
#[derive(Clone, Debug)]
pub enum What {
    /// Memory that the guest reads and writes.
    Ram(Arc<Bytes>),
    /// Memory that the guest only reads.
    Rom(Arc<Bytes>),
    /// Memory with a private side: shared pages in host memory, private ones
    /// in a guest_memfd.
    Confidential(Arc<Bytes>, Arc<OwnedFd>),
    /// Registers of a device that only the guest touches: a file and no host
    /// address.
    PrivateRegisters(Arc<OwnedFd>),
    /// A device of the VMM: every access exits.
    Trapped,
}

/// A region: whole pages at one place.
#[derive(Clone, Debug)]
pub struct Region {
    /// Which one it is.
    pub name: u32,
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The number of bytes, whole pages.
    pub size: u64,
    /// Which of overlapping regions shows: the highest; among equal ones the
    /// one that was added last.
    pub priority: u8,
    /// Where in its memory or file the region starts, in bytes.
    pub start: u64,
    /// What it is.
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

    /// Takes all regions of that name away.
    pub fn remove(&mut self, name: u32) {
        self.regions.retain(|region| region.name != name);
    }

    /// Moves all regions of that name.
    pub fn move_to(&mut self, name: u32, gpa: u64) {
        for region in self.regions.iter_mut().filter(|r| r.name == name) {
            region.gpa = gpa;
        }
    }

    /// What the guest is to reach directly, by address.
    pub fn shows(&self) -> Vec<SlotRange> {
        let ends = self.regions.iter().flat_map(|r| [r.gpa, r.gpa + r.size]);
        let mut borders: Vec<u64> = ends.collect();
        borders.sort_unstable();
        borders.dedup();
        // From border to border one region shows, or none.
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

    /// The region that shows at an address.
    fn top(&self, gpa: u64) -> Option<&Region> {
        let here = |r: &&Region| (r.gpa..r.gpa + r.size).contains(&gpa);
        self.regions.iter().filter(here).max_by_key(|r| r.priority)
    }
}

impl Region {
    /// The part of it from one address to another, for KVM.
    fn range(&self, from: u64, to: u64) -> Option<SlotRange> {
        let at = self.start + (from - self.gpa);
        let size = to - from;
        let host = |bytes: &Arc<Bytes>| bytes.host_memory().slice(at, size);
        let file = |file: &Arc<OwnedFd>| FileSlice::new(file.clone(), at, size);
        let backing = match &self.what {
            What::Ram(bytes) | What::Rom(bytes) => Backing::Host(host(bytes)?),
            What::Confidential(shared, private) => Backing::GuestMemfd {
                file: file(private)?,
                host: Some(host(shared)?),
            },
            What::PrivateRegisters(registers) => {
                Backing::FdOffset(DeviceFile::new(file(registers)?))
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
