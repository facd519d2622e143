// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is done to both VMs, as plain data, and what they answer.

use std::fmt;

use kvm_slots::Errno;
use kvm_slots::sim::{FileCall, PreFault, Sharing};
use vmm::guest::GuestError;

use crate::subject::HostChange;

/// One thing that a VMM, its host or its guest does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A memslot ioctl.
    Set(Region),
    /// `KVM_CREATE_GUEST_MEMFD`; the file takes that place.
    Create { at: usize, size: u64, flags: u64 },
    /// The only descriptor of the file at that place is closed.
    Close(usize),
    /// A system call on the file at that place.
    Call(usize, FileCall),
    /// The file is mapped; its first bytes are read, or written; it is unmapped.
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
    /// The device that a slot can be on answers, or no more.
    Answering(bool),
    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    Attributes {
        gpa: u64,
        size: u64,
        attributes: u64,
    },
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

/// What a memslot ioctl is given.
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
    /// What the padding is filled with, but for the file and the offset that
    /// are there with [`BACKING_FD`].
    pub padding: u64,
}

/// A host address.
#[derive(Clone, Copy, PartialEq)]
pub enum Host {
    /// So far into the memory that the host keeps for the guest.
    Arena(u64),
    /// That number, which is none that a guest could touch.
    Raw(u64),
}

/// A file descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum File {
    /// Of the guest_memfd at that place.
    At(usize),
    /// Of the device's dma-buf, where there is one.
    Device,
    /// Of nothing.
    Closed,
    /// Of something that is no guest_memfd of this VM.
    Wrong(usize),
}

impl Default for Region {
    /// One page of the host's memory at 0.
    fn default() -> Self {
        Self {
            v1: false,
            slot: 0,
            flags: 0,
            gpa: 0,
            size: 4096,
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

/// What was to be seen of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing, or an error.
    Done(Result<(), Errno>),
    /// A value.
    Value(Result<[u8; 8], Errno>),
    /// How far it came.
    PreFault(Result<(), Errno>, PreFault),
    /// What the guest loaded, and every exit meanwhile.
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
