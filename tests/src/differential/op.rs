// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Operations on both VMs, as plain data, and their answers.

use std::fmt;

use kvm_slots::sim::{FileCall, PreFault, Sharing};
use kvm_slots::{Errno, FileAttributesError};
use vmm::guest::GuestError;

use crate::subject::HostChange;

/// One operation of the VMM, the host or the guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A memslot ioctl.
    Set(Region),
    /// `KVM_CREATE_GUEST_MEMFD`; the file gets this index.
    Create { at: usize, size: u64, flags: u64 },
    /// Closes the only descriptor of the file with this index.
    Close(usize),
    /// A system call on the file with this index.
    Call(usize, FileCall),
    /// Maps the file, reads or writes its first bytes, and unmaps it.
    Map {
        at: usize,
        offset: u64,
        size: u64,
        sharing: Sharing,
        store: Option<u64>,
    },
    /// The host changes a page of its memory.
    Host(usize, HostChange),
    /// The host reads 8 bytes of its memory.
    HostLoad(u64),
    /// The host writes 8 bytes of its memory.
    HostStore(u64, u64),
    /// Switches the device, on which slots can be, on or off.
    Answering(bool),
    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    Attributes {
        gpa: u64,
        size: u64,
        attributes: u64,
    },
    /// `KVM_SET_MEMORY_ATTRIBUTES2` on the file with this index.
    FileAttributes {
        at: usize,
        offset: u64,
        size: u64,
        attributes: u64,
    },
    /// Holds references to pages of the file.
    Pin { at: usize, offset: u64, size: u64 },
    /// Lets go of all references.
    Unpin,
    /// `KVM_PRE_FAULT_MEMORY`.
    PreFault(PreFault),
    /// The guest loads, or stores a value.
    Access {
        gpa: u64,
        size: usize,
        store: Option<u64>,
    },
}

/// The flag for slots without a host address.
pub const BACKING_FD: u32 = 1 << 4;

/// The argument of a memslot ioctl.
#[derive(Clone, Copy, PartialEq)]
pub struct Region {
    /// Whether it is the older ioctl.
    pub v1: bool,
    pub slot: u32,
    pub flags: u32,
    pub gpa: u64,
    pub size: u64,
    pub host: Host,
    pub file: File,
    pub offset: u64,
    /// The value of the padding, apart from the file and the offset that
    /// [`BACKING_FD`] adds.
    pub padding: u64,
}

/// A host address.
#[derive(Clone, Copy, PartialEq)]
pub enum Host {
    /// An offset into the memory that the host keeps for the guest.
    Arena(u64),
    /// This number, at which a guest cannot access anything.
    Raw(u64),
}

/// A file descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum File {
    /// The guest_memfd with this index.
    At(usize),
    /// The device's dma-buf, if there is one.
    Device,
    /// A descriptor that is not open.
    Closed,
    /// A file that is not a guest_memfd of this VM.
    Wrong(usize),
}

impl Region {
    /// A slot of these bytes of the host's memory, at address 0.
    pub fn of_size(size: u64) -> Self {
        Self {
            v1: false,
            slot: 0,
            flags: 0,
            gpa: 0,
            size,
            host: Host::Arena(0),
            file: File::At(0),
            offset: 0,
            padding: 0,
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = if self.v1 { 1 } else { 2 };
        write!(f, "Region {{ v{v}, slot: {:#x}, ", self.slot)?;
        write!(f, "flags: {:#x}, gpa: {:#x}, ", self.flags, self.gpa)?;
        write!(f, "size: {:#x}, host: {:?}, ", self.size, self.host)?;
        write!(f, "file: {:?}, offset: {:#x}, ", self.file, self.offset)?;
        write!(f, "padding: {:#x} }}", self.padding)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(offset) => write!(f, "Arena({offset:#x})"),
            Self::Raw(address) => write!(f, "Raw({address:#x})"),
        }
    }
}

/// The observable result of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing, or an error.
    Done(Result<(), Errno>),
    /// Nothing, or the reason why attributes of a file did not change.
    Converted(Result<(), FileAttributesError>),
    /// A value.
    Value(Result<[u8; 8], Errno>),
    /// How much of the range is left.
    PreFault(Result<(), Errno>, PreFault),
    /// The value that the guest loaded, and the exits of the access.
    Access(Result<u64, GuestError>, Vec<Exit>),
}

/// An exit to the VMM.
#[derive(Clone, PartialEq)]
pub struct Exit {
    pub write: bool,
    pub gpa: u64,
    pub data: Vec<u8>,
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.write { "write" } else { "read" };
        write!(f, "{way} {:x?} at {:#x}", self.data, self.gpa)
    }
}
