// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The outcome of a probe.

use crate::errno::Errno;
use crate::slot::SlotId;
use crate::unsupported::Unsupported;

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
