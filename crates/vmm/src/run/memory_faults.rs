// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory faults: the guest accesses a page as private that is shared, or the other
//! way round. The VMM converts the page, and the guest retries the access.

use kvm_slots::Vm;
use kvm_slots::convert::Request;
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use memory_model::{AddrRange, PAGE_SIZE};

use crate::backend::Platform;
use crate::board::Board;
use crate::board::actions::ActionError;
use crate::guest::{Guest, GuestError};
use crate::machine::{Access, OnMemoryFault};
use crate::run::Run;

/// The most pages that an access touches.
const MAX_PAGES: usize = 2;

impl<P: Platform> Run<P> {
    /// Makes an access, and retries it after each conversion that it requests.
    /// Returns the result of the last try, and notes on the conversions.
    pub(crate) fn access_and_convert(
        &mut self,
        access: &Access,
        on_fault: OnMemoryFault,
    ) -> (Result<u64, GuestError>, Vec<String>) {
        let mut notes = Vec::new();
        loop {
            // Exits of an earlier try do not belong to this one.
            self.board.exits.clear();
            let result = match self.board.mismatch(access) {
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

/// The outcome of a memory fault.
struct Resolved {
    /// How many bytes were converted.
    bytes: u64,
    /// The same in words.
    note: String,
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// The memory fault of an access with a private bit in the guest's page table,
    /// at the first page whose state differs from it.
    ///
    /// For SNP and TDX this comes from KVM (`kvm_mmu_faultin_pfn` in
    /// arch/x86/kvm/mmu/mmu.c). Software-protected VMs have no such bit: to KVM,
    /// each of their accesses matches its page. So the VMM compares, on the real and
    /// on the simulated KVM. The conversion and the retry are the same for all VMs.
    fn mismatch(&self, access: &Access) -> Option<GuestFault> {
        let private = access.private?;
        let (first, last) = (access.gpa / PAGE_SIZE, access.last() / PAGE_SIZE);
        let pages = (first..=last).map(|page| page * PAGE_SIZE);
        let is_private = |gpa| {
            let page = AddrRange::new(gpa, PAGE_SIZE.into());
            page.is_some_and(|page| self.model.private(self.space).covers(page))
        };
        let mut mismatches = pages.filter(|&gpa| is_private(gpa) != private);
        mismatches.next().map(|gpa| GuestFault::Memory {
            flags: if private { MEMORY_EXIT_FLAG_PRIVATE } else { 0 },
            gpa,
            size: PAGE_SIZE,
        })
    }

    /// Converts the pages of a memory fault.
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
            // No other vCPU converted it: a retry would fault for ever.
            0 => format!("it is {state} already"),
            _ => format!("{bytes:#x} bytes at {gpa:#x} became {state} at a memory fault"),
        };
        Ok(Resolved { bytes, note })
    }
}
