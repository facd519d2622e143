// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resolves a guest's loads and stores.
//!
//! Compare `kvm_mmu_faultin_pfn` (arch/x86/kvm/mmu/mmu.c) and
//! `emulator_read_write` (arch/x86/kvm/x86.c), and `kvm_handle_guest_abort`
//! (arch/arm64/kvm/mmu.c). The processor needs every page of an access before it
//! transfers any byte. Without a slot, or for a store to a read-only slot, KVM
//! emulates the access (`ExitBy`). If it decodes the instruction, it emulates all of
//! it, page by page, and uses only host addresses; accesses to other memory exit.

use super::arch::ExitBy;
use super::memslots::{On, Serves, SimSlot};
use super::mmio_entries::Entry;
use super::reach::Bytes;
use super::vm::{SimVm, State};
use crate::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE, MmioHandler};
use crate::vm::errno::Errno;

/// The maximum number of bytes of one MMIO exit.
const MMIO_MAX: usize = 8;

/// The result of the processor's page walk.
pub(super) enum Reached {
    Mapped(Bytes),
    /// No usable page: KVM emulates the instruction.
    Emulated,
}

/// The result of the walks to all pages of an access.
enum Walked {
    /// The bytes in each page.
    Pages(Vec<Bytes>),
    /// KVM emulates the access, because of the piece with this index.
    Emulated(usize),
}

/// A load or a store.
enum Data<'a> {
    Load(&'a mut [u8]),
    Store(&'a [u8]),
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
        self.access(gpa, Data::Load(data), vmm)
    }

    /// The guest stores `data` at `gpa`.
    ///
    /// # Errors
    /// [`GuestFault`] at the first page that cannot be stored to. Nothing is
    /// stored.
    pub fn guest_store(
        &self,
        gpa: u64,
        data: &[u8],
        vmm: &mut dyn MmioHandler,
    ) -> Result<(), GuestFault> {
        self.access(gpa, Data::Store(data), vmm)
    }

    fn access(
        &self,
        gpa: u64,
        mut data: Data<'_>,
        vmm: &mut dyn MmioHandler,
    ) -> Result<(), GuestFault> {
        let mut state = self.state();
        state.enter_guest()?;
        let pieces = pieces(gpa, data.len(), state.page_size());
        let walked = match self.config().emulates_guest {
            true => Walked::Emulated(0),
            false => state.walk(&pieces, data.is_store())?,
        };
        let exits = match (walked, self.config().rules().exit_by) {
            (Walked::Pages(pages), _) => {
                let mut moved = pages.iter().zip(&pieces);
                return moved
                    .try_for_each(|(page, piece)| state.transfer(*page, &mut data, piece))
                    .map_err(GuestFault::Failed);
            }
            (Walked::Emulated(_), ExitBy::Instruction) => state.emulate(&pieces, &mut data),
            (Walked::Emulated(at), ExitBy::Syndrome) => match data.len() {
                1 | 2 | 4 | 8 => vec![Piece {
                    gpa: pieces[at].gpa,
                    bytes: 0..data.len(),
                }],
                // More than one register: the syndrome is not valid.
                _ => return Err(GuestFault::Failed(Errno::ENOSYS)),
            },
        };
        // The VMM may change the slots while it handles the exit.
        drop(state);
        for piece in exits {
            exit(&piece, &mut data, vmm);
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

    /// Walks to each page.
    fn walk(&mut self, pieces: &[Piece], store: bool) -> Result<Walked, GuestFault> {
        let mut pages = Vec::with_capacity(pieces.len());
        for (at, piece) in pieces.iter().enumerate() {
            match self.enter(piece.gpa, store)? {
                Reached::Mapped(page) => pages.push(page),
                Reached::Emulated => return Ok(Walked::Emulated(at)),
            }
            // A later page must not fail after an earlier one was written.
            if let (Some(page), true) = (pages.last(), pieces.len() > 1) {
                let there = page.touch(&self.files, store);
                there.map_err(GuestFault::Failed)?;
            }
        }
        Ok(Walked::Pages(pages))
    }

    /// Resolves an access by its page table entry, or else by KVM.
    fn enter(&mut self, gpa: u64, store: bool) -> Result<Reached, GuestFault> {
        let page = self.page_of(gpa);
        let slot = self.memslots.find(gpa);
        match self.mmio_entries.at(page) {
            Entry::Valid => Ok(Reached::Emulated),
            // The processor makes a shared access.
            Entry::Stale
                if self.is_private(page) && !slot.is_some_and(SimSlot::is_private_only) =>
            {
                Err(GuestFault::Memory {
                    flags: 0,
                    gpa: page,
                    size: self.page_size(),
                })
            }
            Entry::Stale | Entry::None => self.fault(gpa, store),
        }
    }

    /// KVM resolves the fault and records the result.
    pub(super) fn fault(&mut self, gpa: u64, store: bool) -> Result<Reached, GuestFault> {
        let reached = self.reach(gpa, store)?;
        let page = self.page_of(gpa);
        let slot = self.pushed.find(gpa).or(self.memslots.find(gpa));
        match (&reached, slot) {
            (Reached::Mapped(bytes), _) => {
                // A failed mapping leaves the entry unchanged.
                let is_known = self.mmio_entries.at(page) != Entry::None;
                if is_known && bytes.touch(&self.files, store).is_ok() {
                    self.mmio_entries.remove(page);
                }
            }
            (Reached::Emulated, None) => self.mmio_entries.insert(page),
            (Reached::Emulated, Some(_)) => {}
        }
        Ok(reached)
    }

    /// Walks to the page at `gpa`.
    fn reach(&self, gpa: u64, store: bool) -> Result<Reached, GuestFault> {
        let (page, size) = (self.page_of(gpa), self.page_size());
        let private = self.is_private(page);
        let flags = if private { MEMORY_EXIT_FLAG_PRIVATE } else { 0 };
        let granule = self.config.rules().fault_granule.unwrap_or(size);
        let memory_fault = GuestFault::Memory {
            flags,
            gpa: gpa & !(granule - 1),
            size,
        };
        let Some(slot) = self.pushed.find(gpa).or(self.memslots.find(gpa)) else {
            // A private page without a slot is not MMIO.
            return match private {
                true => Err(memory_fault),
                false => Ok(Reached::Emulated),
            };
        };
        if self.is_unvalidated(page) {
            return Err(GuestFault::Unvalidated { gpa: page, size });
        }
        // A private access faults before KVM checks whether it is a store.
        if store && slot.is_readonly() && !private {
            return Ok(Reached::Emulated);
        }
        if slot.is_private_only() && !private {
            return Err(GuestFault::Memory {
                flags: MEMORY_EXIT_FLAG_PRIVATE,
                gpa: page,
                size,
            });
        }
        let in_slot = gpa - slot.gpa;
        let file = slot.file.filter(|file| match file.serves {
            Serves::Private => private,
            Serves::PrivateAndShared | Serves::Device(_) => true,
        });
        match file {
            Some(file) if self.files.is_revoked(file.id) => Err(match file.serves {
                Serves::Device(On::FdOffset { .. }) => GuestFault::Revoked {
                    flags,
                    gpa: page,
                    size,
                },
                _ => GuestFault::Failed(Errno::EIO),
            }),
            Some(file) if self.files.get(file.id).is_some() => {
                let bytes = Bytes::File(file.id, file.offset + in_slot);
                Ok(Reached::Mapped(bytes))
            }
            // Its last descriptor was closed.
            Some(_) => Err(memory_fault),
            None if private => Err(memory_fault),
            None => Ok(Reached::Mapped(Bytes::Host(slot.userspace_addr + in_slot))),
        }
    }

    /// Transfers the pieces that the emulator can reach. Returns the others.
    fn emulate(&mut self, pieces: &[Piece], data: &mut Data<'_>) -> Vec<Piece> {
        let mut exits = Vec::new();
        for piece in pieces {
            let slot = self.memslots.find(piece.gpa);
            let slot = slot.filter(|slot| !(data.is_store() && slot.is_readonly()));
            let host = slot.and_then(|slot| host_bytes(slot, piece.gpa));
            let moved = host.is_some_and(|host| self.transfer(host, data, piece).is_ok());
            if !moved {
                exits.push(piece.clone());
            }
        }
        exits
    }

    fn transfer(&mut self, page: Bytes, data: &mut Data<'_>, piece: &Piece) -> Result<(), Errno> {
        match data {
            Data::Load(data) => page.load(&self.files, &mut data[piece.bytes.clone()]),
            Data::Store(data) => {
                page.store(&self.files, &data[piece.bytes.clone()])?;
                if let (Bytes::Host(_), Some((key, offset))) =
                    (page, self.memslots.offset_at(piece.gpa))
                {
                    self.dirty.mark(key, offset / self.page_size());
                }
                Ok(())
            }
        }
    }
}

/// The memory of a slot for the emulator: only its host address.
fn host_bytes(slot: &SimSlot, gpa: u64) -> Option<Bytes> {
    match slot.file {
        Some(file) if matches!(file.serves, Serves::Device(_)) => None,
        _ => Some(Bytes::Host(slot.userspace_addr + (gpa - slot.gpa))),
    }
}

/// Exits for a piece, a few bytes at a time.
fn exit(piece: &Piece, data: &mut Data<'_>, vmm: &mut dyn MmioHandler) {
    let gpas = (piece.gpa..).step_by(MMIO_MAX);
    match data {
        Data::Load(data) => {
            let parts = data[piece.bytes.clone()].chunks_mut(MMIO_MAX);
            gpas.zip(parts)
                .for_each(|(gpa, part)| vmm.mmio_read(gpa, part));
        }
        Data::Store(data) => {
            let parts = data[piece.bytes.clone()].chunks(MMIO_MAX);
            gpas.zip(parts)
                .for_each(|(gpa, part)| vmm.mmio_write(gpa, part));
        }
    }
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::Load(data) => data.len(),
            Data::Store(data) => data.len(),
        }
    }

    fn is_store(&self) -> bool {
        matches!(self, Data::Store(_))
    }
}

/// The part of an access in one page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    gpa: u64,
    /// The bytes of the access.
    bytes: std::ops::Range<usize>,
}

/// Splits an access at page boundaries.
fn pieces(gpa: u64, len: usize, page_size: u64) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2);
    let mut done = 0;
    while done < len {
        let gpa = gpa.wrapping_add(done as u64);
        let to_border = usize::try_from(page_size - gpa % page_size).unwrap_or(usize::MAX);
        let bytes = done..len.min(done.saturating_add(to_border));
        done = bytes.end;
        pieces.push(Piece { gpa, bytes });
    }
    pieces
}
