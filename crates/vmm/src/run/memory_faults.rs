// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory faults: a guest takes a page for what it is not, and the VMM converts
//! the page and lets the guest try again.

use kvm_slots::sim::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::{Request, Vm};
use memory_model::{AddrRange, PAGE_SIZE};

use crate::backend::Platform;
use crate::board::Board;
use crate::board::actions::ActionError;
use crate::guest::{Guest, GuestError};
use crate::machine::{Access, OnMemoryFault};
use crate::run::Run;

/// How many pages an access can touch.
const MAX_PAGES: usize = 2;

impl<P: Platform> Run<P> {
    /// Makes an access, and makes it again after each conversion that it asks
    /// for. Returns what it came to at last, and what happened before, in words.
    pub(crate) fn access_at_last(
        &mut self,
        access: &Access,
        on_fault: OnMemoryFault,
    ) -> (Result<u64, GuestError>, Vec<String>) {
        let mut notes = Vec::new();
        loop {
            // What an earlier try came to is no part of this one.
            self.board.exits.clear();
            let result = match self.board.mistaken(access) {
                Some(fault) => Err(fault.into()),
                None => self.guest.access(access, &mut self.board),
            };
            let Err(GuestError::Fault(fault @ GuestFault::Memory { .. })) = result else {
                return (result, notes);
            };
            let may_convert = on_fault == OnMemoryFault::Convert && notes.len() < MAX_PAGES;
            let (again, note) = match may_convert.then(|| self.board.resolve(fault)) {
                Some(Ok(done)) => (done.bytes > 0, Some(done.note)),
                Some(Err(error)) => (false, Some(error.to_string())),
                None => (false, None),
            };
            notes.extend(note);
            if !again {
                let given_up = self.guest.skip().and(Err(fault.into()));
                return (given_up, notes);
            }
        }
    }
}

/// What a memory fault led to.
struct Resolved {
    /// How many bytes changed hands.
    bytes: u64,
    /// The same in words.
    note: String,
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// The fault of an access that says by the guest's page table what it takes
    /// its pages for, at the first page that is something else.
    ///
    /// For SNP and TDX this comes from KVM (`kvm_mmu_faultin_pfn` in
    /// arch/x86/kvm/mmu/mmu.c). Software-protected VMs have no such bit: KVM
    /// takes each of their accesses for what the page is. So the VMM compares.
    fn mistaken(&self, access: &Access) -> Option<GuestFault> {
        let private = access.private?;
        let last = access.gpa.saturating_add(access.size as u64 - 1);
        let (first, last) = (access.gpa / PAGE_SIZE, last / PAGE_SIZE);
        let pages = (first..=last).map(|page| page * PAGE_SIZE);
        let is_private = |gpa| {
            let page = AddrRange::new(gpa, PAGE_SIZE.into());
            page.is_some_and(|page| self.model.private(self.space).covers(page))
        };
        let mut mistaken = pages.filter(|&gpa| is_private(gpa) != private);
        mistaken.next().map(|gpa| GuestFault::Memory {
            flags: if private { MEMORY_EXIT_FLAG_PRIVATE } else { 0 },
            gpa,
            size: PAGE_SIZE,
        })
    }

    /// Converts what a memory fault asks for.
    fn resolve(&mut self, fault: GuestFault) -> Result<Resolved, ActionError> {
        let GuestFault::Memory { flags, gpa, size } = fault else {
            let note = String::new();
            return Ok(Resolved { bytes: 0, note });
        };
        let bytes = self.convert(Request::memory_fault(flags, gpa, size)?)?;
        let state = match flags {
            0 => "shared",
            _ => "private",
        };
        let note = match bytes {
            // There is one vCPU: nobody was faster, it would fault for ever.
            0 => format!("it is {state} already"),
            _ => format!("{bytes:#x} bytes at {gpa:#x} became {state} at a memory fault"),
        };
        Ok(Resolved { bytes, note })
    }
}
