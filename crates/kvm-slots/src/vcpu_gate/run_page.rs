// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two bytes of `kvm_run`: `immediate_exit`, which keeps `KVM_RUN` from entering the guest,
//! and the width of an access to an I/O port.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4 as io};
use memmap2::{MmapAsRawDesc, MmapOptions, MmapRaw};

use crate::vm::errno::Errno;

const IMMEDIATE_EXIT: usize = offset_of!(kvm_run, immediate_exit);
const PORT_WIDTH: usize = offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(io, size);
const LEN: usize = PORT_WIDTH + 1;

/// A second mapping of a vCPU's `kvm_run`, separate from the `VcpuFd`'s:
/// `VcpuFd::run` has exclusive references into that one while other threads set
/// `immediate_exit`. To these references the store comes from outside, as the
/// kernel's stores do. The mapping also stays valid without the `VcpuFd`.
#[derive(Debug)]
pub(super) struct RunPage {
    map: MmapRaw,
}

impl RunPage {
    /// Maps the start of `vcpu`'s file, where `kvm_run` is.
    pub(super) fn map(vcpu: impl MmapAsRawDesc) -> Result<Self, Errno> {
        let mut options = MmapOptions::new();
        let map = options.len(LEN).map_raw(vcpu)?;
        Ok(Self { map })
    }

    /// Makes `KVM_RUN` return immediately, or run again.
    pub(super) fn set_immediate_exit(&self, exit: bool) {
        self.immediate_exit().store(exit.into(), Ordering::SeqCst);
    }

    /// The width in bytes of each access of the latest exit on an I/O port.
    pub(super) fn port_width(&self) -> u8 {
        self.byte(PORT_WIDTH).load(Ordering::SeqCst)
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        self.byte(IMMEDIATE_EXIT)
    }

    /// # Panics
    /// If the offset is not below `LEN`.
    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < LEN, "the mapping has this byte");
        // SAFETY: the mapping is readable, writable and long enough for this
        // byte, and lives as long as `self`, which the reference borrows. A
        // byte is always aligned, and any value is valid. No other reference
        // to it exists: the mapping is private to this type, which never makes
        // any but this atomic one. The kernel accesses the byte by its own
        // mapping, in one access.
        unsafe { AtomicU8::from_ptr(self.map.as_mut_ptr().add(offset)) }
    }
}

#[cfg(test)]
impl RunPage {
    /// Stores a width as KVM does.
    pub(super) fn set_port_width(&self, width: u8) {
        self.byte(PORT_WIDTH).store(width, Ordering::SeqCst);
    }

    /// The value that `KVM_RUN` would read.
    pub(super) fn is_immediate_exit(&self) -> bool {
        self.immediate_exit().load(Ordering::SeqCst) != 0
    }
}
