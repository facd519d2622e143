// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results and errors of a probe.

use crate::slots::slot::SlotId;
use crate::unsupported::Unsupported;
use crate::vm::errno::Errno;

/// The result of a successful probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probed {
    /// The kernel created slots on the given file, and refused all slots that it must
    /// refuse.
    Made,
    /// No file was given. The kernel reads the descriptor from the profile's field, and
    /// refused all slots that it must refuse.
    Refusals,
}

/// The checks of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeCheck {
    /// A slot on a descriptor that does not exist, with a valid one in the fields of
    /// other ABIs.
    BadDescriptor,
    /// A slot on a file that is not a device's.
    WrongKind,
    /// The profile's flag together with a flag that it excludes.
    FlagBeside(u32),
    /// The profile's flag in `KVM_SET_USER_MEMORY_REGION`.
    OldIoctl,
    /// A slot that also has a host address.
    HostAddress,
    /// A slot that starts inside a page of the file.
    UnalignedOffset,
    /// A slot beyond the file's end, or with too few bytes.
    WrongBytes,
    /// A slot on the file.
    Create,
    /// The same slot again.
    CreateAgain,
    /// Another slot at the same address.
    SamePlace,
    /// A move of the slot.
    Move,
    /// A plain slot of the same number.
    OtherKind,
    /// The deletion of the slot.
    Delete,
    /// A second deletion of the slot.
    DeleteAgain,
    /// A slot on the second page of the file.
    Slice,
}

/// The reason why a probe did not find the ABI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The profile works on no kernel, or on no kernel with this VM.
    #[error(transparent)]
    Profile(#[from] Unsupported),
    /// The addresses of the probe are in use or wrap, or all slot numbers but one are in
    /// use or reserved.
    #[error("there is no room for a slot of {size:#x} bytes at {gpa:#x} to probe with")]
    NoRoom {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// The given file does not have a size of whole pages, or the process has no free
    /// descriptors.
    #[error("the file to probe with is none of whole pages: {0}")]
    File(Errno),
    /// The kernel refuses even a plain slot at these addresses, so the probe shows
    /// nothing about the ABI. ENOTTY is a kernel without
    /// `KVM_SET_USER_MEMORY_REGION2`.
    #[error("a plain slot is refused where the probe should be: {0}")]
    Plain(Errno),
    /// The kernel refuses the flag in every slot.
    #[error("the kernel does not know the flag {flag:#x}, or not for this type of VM")]
    UnknownFlag {
        /// The profile's flag.
        flag: u32,
    },
    /// The kernel uses the flag for something else: it does not read the descriptor
    /// from the profile's field.
    #[error("the flag {flag:#x} means something else to this kernel")]
    OtherMeaning {
        /// The profile's flag.
        flag: u32,
    },
    /// The kernel has a similar ABI, but not this one.
    #[error("{check:?}: {} where the profile has {}", said(*.seen), said(*.expected))]
    Differs {
        /// The check.
        check: ProbeCheck,
        /// The expected result.
        expected: Result<(), Errno>,
        /// This kernel's result.
        seen: Result<(), Errno>,
    },
    /// A slot of the probe could not be deleted. No vCPU may run on the VM.
    #[error("slot {slot} of the probe could not be deleted: {errno}; the VM is not to be used")]
    LeftBehind {
        /// The slot's number; 0 for a push-style mapping.
        slot: SlotId,
        /// The kernel's error.
        errno: Errno,
    },
}

fn said(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "success".into(),
        Err(errno) => errno.to_string(),
    }
}
