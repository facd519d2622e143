// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest's loads and stores come to.
//!
//! Compare `kvm_mmu_faultin_pfn` (arch/x86/kvm/mmu/mmu.c) and
//! `emulator_read_write` (arch/x86/kvm/x86.c): an access is resolved page by
//! page; where no slot answers, or a read-only one is written, it exits.

use std::os::unix::fs::FileExt;

use super::files::FileKind;
use super::memslots::{PAGE, SimSlot};
use super::{SimVm, State, host};
use crate::{Errno, GuestMemfdFlags};

/// `KVM_MEMORY_EXIT_FLAG_PRIVATE`.
pub const MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;

/// The most bytes of one MMIO exit.
const MMIO_MAX: usize = 8;

/// Why a guest's access did not complete: what `KVM_RUN` would return with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// `KVM_EXIT_MEMORY_FAULT`: the VMM can resolve it, by a conversion.
    #[error("memory fault at {gpa:#x}, {size:#x} bytes, flags {flags:#x}")]
    Memory {
        /// [`MEMORY_EXIT_FLAG_PRIVATE`] if the access was private.
        flags: u64,
        /// The page's guest-physical address.
        gpa: u64,
        /// The page's size in bytes.
        size: u64,
    },
    /// `KVM_EXIT_DIRTY_RING_FULL`: nothing was accessed, and the guest goes on
    /// only after the ring was harvested and reset.
    #[error("the vCPU's dirty ring is full")]
    DirtyRingFull,
    /// `KVM_RUN` fails and says no more than this.
    #[error("KVM_RUN failed with {0}")]
    Failed(Errno),
}

/// Answers the accesses that exit to the VMM.
pub trait MmioHandler {
    /// The guest loads `data.len()` bytes, 1 to 8, at `gpa`.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);
    /// The guest stores `data`, 1 to 8 bytes, at `gpa`.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);
}

/// Where the bytes of one access to one page are.
enum Target {
    Mmio,
    Host(u64),
    File(super::host::FileId, u64),
}

impl SimVm {
    /// The guest loads `data.len()` bytes at `gpa`.
    ///
    /// # Errors
    /// [`GuestFault`] at the first page that cannot be loaded from.
    pub fn guest_load(
        &self,
        gpa: u64,
        data: &mut [u8],
        vmm: &mut dyn MmioHandler,
    ) -> Result<(), GuestFault> {
        self.state().enter_guest()?;
        let mut at = gpa;
        for piece in pages(gpa, data.len()).scan(data, split_front_mut) {
            let state = self.state();
            match state.resolve(at, false)? {
                Target::Mmio => {
                    // The VMM may change the slots while it answers.
                    drop(state);
                    for (n, part) in piece.chunks_mut(MMIO_MAX).enumerate() {
                        vmm.mmio_read(at + (n * MMIO_MAX) as u64, part);
                    }
                }
                Target::Host(address) => {
                    // SAFETY: who made the slot promised that the guest may
                    // read this memory for as long as the slot is there.
                    unsafe { host::load(address, piece) }.map_err(GuestFault::Failed)?;
                }
                Target::File(id, offset) => {
                    let file = state.files.get(id).ok_or(GuestFault::Failed(Errno::EIO))?;
                    let read = file.file.read_exact_at(piece, offset);
                    read.map_err(|e| GuestFault::Failed(e.into()))?;
                }
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// The guest stores `data` at `gpa`.
    ///
    /// # Errors
    /// [`GuestFault`] at the first page that cannot be stored to.
    pub fn guest_store(
        &self,
        gpa: u64,
        data: &[u8],
        vmm: &mut dyn MmioHandler,
    ) -> Result<(), GuestFault> {
        self.state().enter_guest()?;
        let mut at = gpa;
        for piece in pages(gpa, data.len()).scan(data, split_front) {
            let mut state = self.state();
            match state.resolve(at, true)? {
                Target::Mmio => {
                    drop(state);
                    for (n, part) in piece.chunks(MMIO_MAX).enumerate() {
                        vmm.mmio_write(at + (n * MMIO_MAX) as u64, part);
                    }
                }
                Target::Host(address) => {
                    // SAFETY: who made the slot promised that the guest may
                    // write this memory for as long as the slot is there.
                    unsafe { host::store(address, piece) }.map_err(GuestFault::Failed)?;
                    state.mark_dirty(at);
                }
                Target::File(id, offset) => {
                    let file = state.files.get(id).ok_or(GuestFault::Failed(Errno::EIO))?;
                    let written = file.file.write_all_at(piece, offset);
                    written.map_err(|e| GuestFault::Failed(e.into()))?;
                }
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }
}

impl State {
    fn enter_guest(&mut self) -> Result<(), GuestFault> {
        self.dirty.has_vcpu = true;
        match &self.dirty.ring {
            Some(ring) if ring.is_full() => Err(GuestFault::DirtyRingFull),
            _ => Ok(()),
        }
    }

    fn mark_dirty(&mut self, gpa: u64) {
        if let Some((key, page)) = self.memslots.page_at(gpa) {
            self.dirty.mark(key, page);
        }
    }

    fn resolve(&self, gpa: u64, write: bool) -> Result<Target, GuestFault> {
        let page = gpa & !(PAGE - 1);
        let private = self.private.contains(&page);
        let memory_fault = GuestFault::Memory {
            flags: if private { MEMORY_EXIT_FLAG_PRIVATE } else { 0 },
            gpa: page,
            size: PAGE,
        };
        let Some(slot) = self.pushed.find(gpa).or(self.memslots.find(gpa)) else {
            // A private page without a slot is no MMIO.
            return if private {
                Err(memory_fault)
            } else {
                Ok(Target::Mmio)
            };
        };
        // A private access faults before anyone asks whether it is a store.
        if write && slot.is_readonly() && !private {
            return Ok(Target::Mmio);
        }
        let in_slot = gpa - slot.gpa;
        match self.file_kind(slot) {
            Some((FileKind::DmaBuf { revoked: true }, ..)) => Err(GuestFault::Failed(Errno::EIO)),
            Some((FileKind::DmaBuf { .. }, id, offset)) => Ok(Target::File(id, offset + in_slot)),
            Some((FileKind::GuestMemfd(flags), id, offset))
                if private || flags.contains(GuestMemfdFlags::MMAP) =>
            {
                Ok(Target::File(id, offset + in_slot))
            }
            _ if private => Err(memory_fault),
            _ => Ok(Target::Host(slot.userspace_addr + in_slot)),
        }
    }

    fn file_kind(&self, slot: &SimSlot) -> Option<(FileKind, super::host::FileId, u64)> {
        let file = slot.file?;
        Some((self.files.get(file.id)?.kind, file.id, file.offset))
    }
}

/// The lengths into which page borders cut an access.
fn pages(gpa: u64, len: usize) -> impl Iterator<Item = usize> {
    let to_border = usize::try_from(PAGE - gpa % PAGE).unwrap_or(usize::MAX);
    let first = to_border.min(len);
    let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let rest = len - first;
    let whole = std::iter::repeat_n(page, rest / page);
    let lengths = std::iter::once(first)
        .chain(whole)
        .chain(std::iter::once(rest % page));
    lengths.filter(|&length| length > 0)
}

fn split_front<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, back) = rest.split_at_checked(length)?;
    *rest = back;
    Some(front)
}

fn split_front_mut<'a>(rest: &mut &'a mut [u8], length: usize) -> Option<&'a mut [u8]> {
    let (front, back) = std::mem::take(rest).split_at_mut_checked(length)?;
    *rest = back;
    Some(front)
}
