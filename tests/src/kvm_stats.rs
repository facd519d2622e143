// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The statistics that KVM keeps of a vCPU (`KVM_GET_STATS_FD`, Linux 5.14 and
//! newer).

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

use crate::check::at;

/// `_IO(KVMIO, 0xce)`: kvm-ioctls 0.25 lacks it.
const KVM_GET_STATS_FD: libc::Ioctl = 0xaece_u32 as libc::Ioctl;

/// The counters of a vCPU.
#[derive(Debug)]
pub(crate) struct Stats {
    file: File,
    /// Name and offset in the file.
    counters: Vec<(String, u64)>,
}

impl Stats {
    /// Opens the counters of this vCPU.
    ///
    /// # Errors
    /// KVM has none, or their format is not as documented.
    pub(crate) fn of(vcpu: &VcpuFd) -> Result<Self, String> {
        // SAFETY: the vCPU is open, and the ioctl takes no argument.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return Err(format!("statistics: {}", kvm_slots::Errno::last()));
        }
        // SAFETY: the kernel has just created the descriptor, so no one else owns it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // struct kvm_stats_header: flags, name_size, num_desc, id_offset,
        // desc_offset, data_offset.
        let word = |at_byte: u64| -> Result<u64, String> {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, at_byte)
                .map_err(at("statistics"))?;
            Ok(u32::from_ne_bytes(bytes).into())
        };
        let (name_size, count) = (word(4)?, word(8)?);
        let (descriptors, data) = (word(16)?, word(20)?);
        // struct kvm_stats_desc: flags, exponent and size, offset, bucket_size,
        // and the name.
        let mut counters = Vec::new();
        for number in 0..count {
            let start = descriptors + number * (16 + name_size);
            let mut name = vec![0; usize::try_from(name_size).map_err(at("a name"))?];
            file.read_exact_at(&mut name, start + 16)
                .map_err(at("a name"))?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            counters.push((name, data + word(start + 8)?));
        }
        Ok(Self { file, counters })
    }

    /// Reads a counter by its name.
    ///
    /// # Errors
    /// There is no counter of that name.
    pub(crate) fn get(&self, name: &str) -> Result<u64, String> {
        let found = self.counters.iter().find(|(other, _)| other == name);
        let (_, offset) = found.ok_or_else(|| format!("KVM does not count {name}"))?;
        let mut bytes = [0; 8];
        let read = self.file.read_exact_at(&mut bytes, *offset);
        read.map_err(at(name))?;
        Ok(u64::from_ne_bytes(bytes))
    }
}
