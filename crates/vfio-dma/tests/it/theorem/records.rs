// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the platforms were asked to do, recorded independently of the code under test,
//! and the theorem about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_slots::convert::{Discard, Home};

use super::PAGE;

/// A memslot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Memslot {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    /// The host address of the first byte, or 0.
    pub(crate) host: u64,
    /// The descriptor and the offset, for memory with a guest_memfd.
    pub(crate) file: Option<(i32, u64)>,
}

/// A page that a memslot shows.
#[derive(Clone, Copy, Debug)]
struct Shown {
    gpa: u64,
    host: u64,
    file: Option<(i32, u64)>,
}

#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) home: Home,
    /// The number of pages that anything is at.
    pub(crate) window: u64,
    /// The guest_memfds that have both sides of their pages, and where the host has
    /// mapped them.
    pub(crate) in_place: BTreeMap<i32, u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The private pages of the VM or of the platform.
    pub(crate) private: BTreeSet<u64>,
    /// The private pages of files: a descriptor and an offset.
    pub(crate) private_in_files: BTreeSet<(i32, u64)>,
    pub(crate) memslots: BTreeMap<u32, Memslot>,
    /// For each device, the IOVAs of mapped pages, and the host addresses.
    pub(crate) mapped: BTreeMap<usize, BTreeMap<u64, u64>>,
    /// Broken promises.
    pub(crate) broken: Vec<String>,
}

impl Records {
    pub(crate) fn new(home: Home, window: u64, in_place: BTreeMap<i32, u64>) -> Self {
        Self {
            home,
            window,
            in_place,
            state: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether KVM has the page at `gpa` as private.
    pub(crate) fn is_private(&self, gpa: u64) -> bool {
        self.has_private(&self.state(), gpa)
    }

    /// Whether a memslot shows a page of a guest_memfd at `gpa`.
    pub(crate) fn shows_file(&self, gpa: u64) -> bool {
        let state = self.state();
        let mut shown = shown(&state).filter(|page| page.gpa == gpa);
        shown.any(|page| page.file.is_some())
    }

    fn has_private(&self, state: &State, gpa: u64) -> bool {
        match self.home {
            Home::FileAttributes => {
                let mut shown = shown(state).filter(|page| page.gpa == gpa);
                let file = shown.find_map(|page| page.file);
                file.is_some_and(|page| state.private_in_files.contains(&page))
            }
            _ => state.private.contains(&gpa),
        }
    }

    /// The host addresses of pages in place that are private now.
    fn private_hosts(&self, state: &State) -> BTreeSet<u64> {
        let mut hosts = BTreeSet::new();
        let base = |(fd, offset): (i32, u64)| Some(self.in_place.get(&fd)? + offset);
        if self.home == Home::FileAttributes {
            hosts.extend(state.private_in_files.iter().copied().filter_map(base));
        } else {
            let private = shown(state).filter(|page| state.private.contains(&page.gpa));
            hosts.extend(private.filter_map(|page| base(page.file?)));
        }
        hosts
    }

    /// The theorem: no device reaches a page that is private, neither at its address nor
    /// by its memory.
    pub(crate) fn check(&self, when: &str) {
        let state = &mut *self.state();
        let hosts = self.private_hosts(state);
        let mut broken = Vec::new();
        for (device, mapped) in &state.mapped {
            for (iova, host) in mapped {
                if self.has_private(state, *iova) {
                    broken.push(format!(
                        "after {when}: device {device} reaches private {iova:#x}"
                    ));
                }
                if hosts.contains(host) {
                    broken.push(format!(
                        "after {when}: device {device} reaches private memory at {iova:#x}"
                    ));
                }
            }
        }
        state.broken.extend(broken);
    }

    /// No one is asked to make a page private that a device reaches.
    pub(crate) fn becomes_private(&self, gpa: u64, size: u64) {
        let state = &mut *self.state();
        for (device, mapped) in &state.mapped {
            if let Some((iova, _)) = mapped.range(gpa..gpa + size).next() {
                let asked =
                    format!("asked to make {iova:#x} private, which device {device} reaches");
                state.broken.push(asked);
            }
        }
    }

    /// The same for a page of a file, at all of its addresses.
    pub(crate) fn becomes_private_in_file(&self, fd: i32, offset: u64, size: u64) {
        let pages: Vec<u64> = shown(&self.state())
            .filter(|page| {
                let file = page.file.filter(|(of, _)| *of == fd);
                file.is_some_and(|(_, at)| (offset..offset + size).contains(&at))
            })
            .map(|page| page.gpa)
            .collect();
        for gpa in pages {
            self.becomes_private(gpa, PAGE);
        }
    }

    /// No one is asked to map a page that is private.
    pub(crate) fn becomes_mapped(&self, device: usize, pages: &[(u64, u64)]) {
        let state = &mut *self.state();
        let hosts = self.private_hosts(state);
        for (iova, host) in pages {
            if self.has_private(state, *iova) || hosts.contains(host) {
                let asked = format!("asked to map private {iova:#x} for device {device}");
                state.broken.push(asked);
            }
        }
    }

    /// No live byte is discarded: neither what the guest has, nor what a device reaches.
    pub(crate) fn discarded(&self, what: Discard) {
        let state = &mut *self.state();
        let live = match what {
            Discard::Host { address, size } => {
                let bytes = address..address + size;
                let mut all = state.mapped.values().flat_map(BTreeMap::values);
                let mut in_place = self.in_place.values();
                all.any(|host| bytes.contains(host))
                    || in_place.any(|base| (*base..*base + self.window * PAGE).contains(&address))
                    || shown(state).any(|page| {
                        bytes.contains(&page.host) && !self.has_private(state, page.gpa)
                    })
            }
            Discard::File { fd, offset, size } => {
                let bytes = offset..offset + size;
                self.in_place.contains_key(&fd)
                    || shown(state).any(|page| {
                        let file = page.file.filter(|(of, at)| *of == fd && bytes.contains(at));
                        file.is_some() && self.has_private(state, page.gpa)
                    })
            }
            _ => true,
        };
        if live {
            state
                .broken
                .push(format!("live bytes are discarded: {what}"));
        }
    }
}

fn shown(state: &State) -> impl Iterator<Item = Shown> + '_ {
    state.memslots.values().flat_map(|slot| {
        (0..slot.size / PAGE).map(|page| Shown {
            gpa: slot.gpa + page * PAGE,
            host: match slot.host {
                0 => 0,
                host => host + page * PAGE,
            },
            file: slot.file.map(|(fd, offset)| (fd, offset + page * PAGE)),
        })
    })
}
