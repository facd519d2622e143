// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a kernel takes memory without a host address in the way that a
//! profile says: found out by slots made and refused, never by a number.

mod checks;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use crate::abi::{self, AbiProfile, Unsupported};
use crate::caps::Capabilities;
use crate::errno::Errno;
use crate::file_size::file_size;
use crate::push::{PushMap, PushedRange};
use crate::slot::SlotId;
use crate::table::SlotTable;
use crate::vm::Vm;
use checks::Checks;
use guest_ranges::FileSlice;

/// How much a successful probe has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probed {
    /// Slots were made on the file that was given, and all that must be refused
    /// was.
    Made,
    /// No file of the right kind was given: the kernel looks for the descriptor
    /// where the profile has it, and refuses what it must.
    Refusals,
}

/// What a check does that a probe is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeCheck {
    /// A slot on a descriptor that does not exist, where other ABIs would find
    /// a good one.
    BadDescriptor,
    /// A slot on a file that is no device's.
    WrongKind,
    /// The profile's flag and another one that it excludes.
    FlagBeside(u32),
    /// The profile's flag in `KVM_SET_USER_MEMORY_REGION`.
    OldIoctl,
    /// A slot that also has a host address.
    HostAddress,
    /// A slot that starts within a page of the file.
    UnalignedOffset,
    /// A slot from the file's end on, or with fewer bytes than must be.
    WrongBytes,
    /// A slot on the file.
    Create,
    /// The same slot once more.
    CreateAgain,
    /// Another slot at the same place.
    SamePlace,
    /// The slot elsewhere.
    Move,
    /// A plain slot of the same number.
    OtherKind,
    /// The slot goes.
    Delete,
    /// The slot goes once more.
    DeleteAgain,
    /// A slot on the second page of the file.
    Slice,
}

/// Why a probe did not find the ABI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The profile can do nothing on any kernel, or on none with this VM.
    #[error(transparent)]
    Profile(#[from] Unsupported),
    /// The place for the probe is in use, wraps, or there is no number left.
    #[error("there is no room for a slot of {size:#x} bytes at {gpa:#x} to probe with")]
    NoRoom {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// The file that was given has no size, or not of whole pages, or there
    /// are no descriptors left to try with.
    #[error("the file to probe with is none of whole pages: {0}")]
    File(Errno),
    /// Even a plain slot is refused at the place: it says nothing of the ABI.
    /// ENOTTY stands for a kernel without `KVM_SET_USER_MEMORY_REGION2`.
    #[error("a plain slot is refused where the probe should be: {0}")]
    Plain(Errno),
    /// The kernel refuses the flag whatever comes with it.
    #[error("the kernel does not know the flag {flag:#x}, or not for this type of VM")]
    UnknownFlag {
        /// The profile's flag.
        flag: u32,
    },
    /// The kernel takes the flag, and it means something else: it does not look
    /// for the descriptor where the profile has it.
    #[error("the flag {flag:#x} means something else to this kernel")]
    OtherMeaning {
        /// The profile's flag.
        flag: u32,
    },
    /// The kernel has something alike, but not this ABI.
    #[error("{check:?}: {} where the profile has {}", said(*.seen), said(*.expected))]
    Differs {
        /// What was tried.
        check: ProbeCheck,
        /// What the ABI comes to.
        expected: Result<(), Errno>,
        /// What this kernel does.
        seen: Result<(), Errno>,
    },
    /// A slot of the probe could not be taken away. No vCPU may run on the VM.
    #[error("slot {slot} of the probe could not be deleted: {errno}; the VM is not to be used")]
    LeftBehind {
        /// The slot's number; 0 for what was mapped push-style.
        slot: SlotId,
        /// What the kernel said.
        errno: Errno,
    },
}

fn said(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "success".into(),
        Err(errno) => errno.to_string(),
    }
}

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
    abi::check_flag(abi)?;
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

/// A file of the right kind.
#[derive(Clone, Copy, Debug)]
struct Sample {
    fd: u32,
    size: u64,
}

impl Sample {
    fn new(fd: BorrowedFd<'_>, page: u64) -> Result<Self, ProbeError> {
        let size = file_size(fd.as_raw_fd()).filter(|size| size % page == 0);
        Ok(Self {
            fd: raw(fd),
            size: size.ok_or(ProbeError::File(Errno::EINVAL))?,
        })
    }
}

/// The kernel's structs carry descriptors as unsigned numbers.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::from_ne_bytes(fd.as_raw_fd().to_ne_bytes())
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
    let taken = |slot: &crate::Slot| slot.gpa <= last && gpa <= slot.last();
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

/// The same for a platform that has no memslot to probe.
fn pushed(
    push: &dyn PushMap,
    gpa: u64,
    size: u64,
    sample: Option<Sample>,
    stranger: BorrowedFd<'_>,
) -> Result<Probed, ProbeError> {
    // SAFETY: the caller's borrows keep the descriptors open, -1 names no file, and
    // what is mapped is unmapped before this returns.
    let slice = |fd: i32, offset| unsafe { FileSlice::from_raw_fd(fd, offset, size, Arc::new(())) };
    let range = |fd: i32, offset| {
        // Sizes of files are below 2^63.
        let file = slice(fd, offset).ok_or(ProbeError::File(Errno::EINVAL))?;
        Ok::<_, ProbeError>(PushedRange { gpa, size, file })
    };
    // Which error it is, is the platform's affair.
    let refused = |check, range: PushedRange| match push.map(&range) {
        Err(_) => Ok(()),
        Ok(()) => {
            let errno = push.unmap(&range).err();
            let left = errno.map(|errno| ProbeError::LeftBehind { slot: 0, errno });
            Err(left.unwrap_or(ProbeError::Differs {
                check,
                expected: Err(Errno::EINVAL),
                seen: Ok(()),
            }))
        }
    };
    let done = |check, seen: Result<(), Errno>| match seen {
        Ok(()) => Ok(()),
        Err(_) => Err(ProbeError::Differs {
            check,
            expected: Ok(()),
            seen,
        }),
    };
    refused(ProbeCheck::BadDescriptor, range(-1, 0)?)?;
    refused(ProbeCheck::WrongKind, range(stranger.as_raw_fd(), 0)?)?;
    let Some(sample) = sample else {
        return Ok(Probed::Refusals);
    };
    let fd = i32::from_ne_bytes(sample.fd.to_ne_bytes());
    refused(ProbeCheck::UnalignedOffset, range(fd, 1)?)?;
    refused(ProbeCheck::WrongBytes, range(fd, sample.size)?)?;
    let right = range(fd, 0)?;
    done(ProbeCheck::Create, push.map(&right))?;
    // The place is taken; if it is not refused, it is there twice.
    let again = refused(ProbeCheck::SamePlace, right.clone());
    let gone = push.unmap(&right);
    again?;
    gone.map_err(|errno| ProbeError::LeftBehind { slot: 0, errno })?;
    match push.unmap(&right) {
        Err(_) => Ok(Probed::Made),
        Ok(()) => Err(ProbeError::Differs {
            check: ProbeCheck::DeleteAgain,
            expected: Err(Errno::ENOENT),
            seen: Ok(()),
        }),
    }
}
