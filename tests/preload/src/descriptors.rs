// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program's descriptors that the simulation answers for.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use kvm_slots::Errno;
use kvm_slots::sim::SimVm;

/// What a descriptor is.
#[derive(Clone, Debug)]
pub(crate) enum Descriptor {
    /// `/dev/kvm`.
    Device,
    /// A VM.
    Vm(SimVm),
    /// A guest_memfd of the VM.
    GuestMemfd(SimVm),
}

/// All such descriptors. Duplicates of them are unknown.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(BTreeMap<RawFd, Descriptor>);

impl Descriptors {
    /// A new descriptor for `/dev/kvm` or a VM. The real kernel refuses to read, write,
    /// map and control it (`O_PATH`), so no call that is not interposed succeeds.
    pub(crate) fn open(&mut self, descriptor: Descriptor) -> Result<RawFd, Errno> {
        let path_only = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/dev/null")?;
        let fd = path_only.into_raw_fd();
        self.0.insert(fd, descriptor);
        Ok(fd)
    }

    /// Registers a guest_memfd's own descriptor.
    pub(crate) fn insert(&mut self, fd: RawFd, descriptor: Descriptor) {
        self.0.insert(fd, descriptor);
    }

    pub(crate) fn get(&self, fd: RawFd) -> Option<Descriptor> {
        self.0.get(&fd).cloned()
    }

    /// The VM of a guest_memfd.
    pub(crate) fn guest_memfd(&self, fd: RawFd) -> Option<SimVm> {
        match self.0.get(&fd) {
            Some(Descriptor::GuestMemfd(vm)) => Some(vm.clone()),
            _ => None,
        }
    }

    /// Forgets a descriptor that is about to be closed.
    pub(crate) fn close(&mut self, fd: RawFd) {
        self.0.remove(&fd);
    }
}
