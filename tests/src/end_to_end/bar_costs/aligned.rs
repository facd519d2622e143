// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings of BARs at addresses that allow the largest pages.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use memory_model::HostMemory;
use vfio_private::device::Device;
use vfio_private::region_info::RegionInfo;

use super::at;

/// The largest pages.
const ALIGNMENT: usize = 1 << 30;

/// Maps a whole region of a device at a multiple of 1 GiB.
///
/// # Errors
/// A message that says what the kernel refused.
pub(super) fn map(device: &Device, info: &RegionInfo) -> Result<HostMemory, String> {
    let size = usize::try_from(info.size).map_err(at("a size"))?;
    let mut reserve = MmapOptions::new();
    let reserve = reserve.len(size + ALIGNMENT).no_reserve_swap();
    let reserved = MmapRaw::from(reserve.map_anon().map_err(at("a reservation"))?);
    let start = reserved.as_mut_ptr();
    let start = start.wrapping_add(start.align_offset(ALIGNMENT));
    let offset = libc::off_t::try_from(info.offset).map_err(at("an offset"))?;
    let fd = device.as_fd().as_raw_fd();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: the range is in `reserved`, whose bytes nothing refers to.
    let mapped = unsafe { libc::mmap(start.cast(), size, access, flags, fd, offset) };
    if mapped == libc::MAP_FAILED {
        return Err(format!("a mapping: {}", kvm_slots::Errno::last()));
    }
    let address = start.expose_provenance() as u64;
    // SAFETY: the range is mapped until `reserved` is dropped, which unmaps all
    // of it, and there are no references to its bytes.
    let memory = unsafe { HostMemory::new(address, info.size, Arc::new(reserved)) };
    memory.ok_or_else(|| "a mapping without bytes".into())
}
