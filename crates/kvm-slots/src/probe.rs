// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a kernel takes memory without a host address in the way that a
//! profile says: found out by slots made and refused, never by a number.

mod checks;
mod outcome;
mod pushed;
mod sample;

pub use outcome::{ProbeCheck, ProbeError, Probed};

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::abi::AbiProfile;
use crate::caps::Capabilities;
use crate::slot::SlotId;
use crate::table::SlotTable;
use crate::unsupported::{Unsupported, check_flag};
use crate::vm::Vm;
use checks::Checks;
use pushed::pushed;
use sample::{Sample, raw};

/// Finds out whether the kernel of `vm` takes memory without a host address in
/// the way that `abi` says, by doing so at `gpa`, where `table` has no slot.
///
/// `file` is one of the kind that the ABI is for: a dma-buf of a device. What
/// can be shown without one is less: see [`Probed`]. A slot of one page is
/// made on it, or of the whole file where the profile wants that; the page
/// behind it must be free as well.
///
/// What must be refused is tried as well, with the error that is due: a kernel
/// that ignores what it does not know, or that has given the flag another
/// meaning, is told apart. Afterwards the VM has the slots that it had.
///
/// # Errors
/// [`ProbeError`].
///
/// # Safety
/// No vCPU of the VM runs until this has returned, nor at all after
/// [`ProbeError::LeftBehind`]: a kernel of another ABI may take one of the
/// slots for host memory that nobody has promised.
///
/// `table` must be the one that followed all operations on `vm` so far.
pub unsafe fn probe_abi(
    vm: &impl Vm,
    table: &SlotTable,
    abi: AbiProfile,
    gpa: u64,
    file: Option<BorrowedFd<'_>>,
) -> Result<Probed, ProbeError> {
    check_flag(abi)?;
    let capabilities = Capabilities::probe(vm);
    let page = capabilities.page_size;
    let sample = match file {
        None => None,
        Some(fd) => Some(Sample::new(fd, page)?),
    };
    let size = match (&sample, abi) {
        (Some(sample), AbiProfile::RfcDmaBuf { .. }) => sample.size,
        _ => page,
    };
    // A slot that is a page too large has to find room, too.
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
            };
            // SAFETY: the caller promises that no vCPU runs meanwhile; the
            // numbers and the place are in no slot of the table.
            unsafe { checks.run() }
        }
    }
}

/// Two numbers that no slot has, if none has the place either.
fn room(
    table: &SlotTable,
    capabilities: &Capabilities,
    gpa: u64,
    size: u64,
) -> Result<[SlotId; 2], ProbeError> {
    let none = ProbeError::NoRoom { gpa, size };
    let last = gpa.checked_add(size - 1).ok_or(none.clone())?;
    let taken = |slot: &crate::Slot| slot.gpa() <= last && gpa <= slot.last();
    if gpa % capabilities.page_size != 0 || table.slots().any(taken) {
        return Err(none);
    }
    let limit = capabilities.nr_memslots.min(1 << SlotId::BITS);
    let ids = (0..limit).rev().filter_map(|id| SlotId::try_from(id).ok());
    let mut free = ids.filter(|id| table.get(*id).is_none());
    match (free.next(), free.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(none),
    }
}
