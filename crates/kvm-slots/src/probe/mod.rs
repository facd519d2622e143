// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks whether a kernel has a profile's ABI for memory without a host address.
//!
//! A probe creates slots, and tries slots that must be refused, with the expected
//! errors. No capability number could show that. It also recognizes a kernel that
//! uses the profile's flag for something else.

mod checks;
mod outcome;
mod pushed;
mod sample;

pub use outcome::{ProbeCheck, ProbeError, Probed};

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::abi::AbiProfile;
use crate::slots::slot::SlotId;
use crate::slots::table::SlotTable;
use crate::unsupported::{Unsupported, check_flag};
use crate::vm::Vm;
use crate::vm::caps::Capabilities;
use checks::Checks;
use pushed::pushed;
use sample::{Sample, raw};

/// Checks whether the kernel of `vm` has the ABI `abi`, with slots at `gpa`, where
/// `table` has none.
///
/// `file` is of the kind that the ABI is for: a dma-buf of a device. Without one, the
/// probe shows less: see [`Probed`]. The probe creates a slot of one page on it, or
/// of the whole file if the profile requires that. The next page must be free as
/// well.
///
/// The probe also tries slots that must be refused with certain errors. So it
/// recognizes a kernel that ignores unknown fields, or that uses the flag for
/// something else. Afterwards the VM has its previous slots. The probe uses no
/// [reserved](crate::SlotRules::reserving) numbers.
///
/// # Errors
/// [`ProbeError`].
///
/// # Safety
/// No vCPU of the VM runs before this returns, or at all after
/// [`ProbeError::LeftBehind`]: a kernel with another ABI could interpret one of the
/// slots as host memory of this process.
///
/// `table` must have followed all operations on `vm` so far, and its rules must
/// reserve the numbers of all other slots of `vm`.
pub unsafe fn probe_abi(
    vm: &impl Vm,
    table: &SlotTable,
    abi: AbiProfile,
    gpa: u64,
    file: Option<BorrowedFd<'_>>,
) -> Result<Probed, ProbeError> {
    check_flag(abi)?;
    let capabilities = Capabilities::probe(vm);
    let page = capabilities.page_size.bytes();
    let sample = match file {
        None => None,
        Some(fd) => Some(Sample::new(fd, page)?),
    };
    let size = match (&sample, abi) {
        (Some(sample), AbiProfile::RfcDmaBuf { .. }) => sample.size,
        _ => page,
    };
    // A slot that is one page too large must fit too.
    let [slot, other] = room(table, &capabilities, gpa, size.saturating_add(page))?;
    let stranger = UnixDatagram::unbound().map_err(|error| ProbeError::File(error.into()))?;

    match abi {
        AbiProfile::None => Err(Unsupported::NoHostAddress.into()),
        AbiProfile::Push => {
            let push = vm.push_map().ok_or(Unsupported::NoPushMap)?;
            pushed(push, gpa, size, sample, stranger.as_fd())
        }
        AbiProfile::FdOffset { flag } | AbiProfile::RfcDmaBuf { flag } => {
            let checks = Checks {
                vm,
                abi,
                flag,
                page,
                slots: [slot, other],
                gpa,
                size,
                sample,
                stranger: raw(stranger.as_fd()),
                made: Default::default(),
            };
            // SAFETY: the caller guarantees that no vCPU runs meanwhile; the
            // numbers and addresses are in no slot of the table, and the numbers are
            // not reserved.
            unsafe { checks.run() }
        }
    }
}

/// Two slot numbers that are neither used nor reserved, if the addresses are unused
/// too.
fn room(
    table: &SlotTable,
    capabilities: &Capabilities,
    gpa: u64,
    size: u64,
) -> Result<[SlotId; 2], ProbeError> {
    let none = ProbeError::NoRoom { gpa, size };
    let last = gpa.checked_add(size - 1).ok_or(none.clone())?;
    let occupied = |slot: &crate::Slot| slot.gpa() <= last && gpa <= slot.last();
    if !capabilities.page_size.is_aligned(gpa) || table.slots().any(occupied) {
        return Err(none);
    }
    let limit = capabilities.nr_memslots.min(1 << SlotId::BITS);
    let ids = (0..limit).rev().filter_map(|id| SlotId::try_from(id).ok());
    // Slots with reserved numbers are not in the table.
    let mut free = ids.filter(|id| table.get(*id).is_none() && !table.rules().is_reserved(*id));
    match (free.next(), free.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(none),
    }
}
