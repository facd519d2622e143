// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls that map and unmap: numbers and structures as in `linux/vfio.h` and `linux/iommufd.h`.

use std::fs::File;
use std::io;

use guest_ranges::{AddrRange, FileSlice, HostMemory};
use vfio_bindings::bindings::vfio as uapi;
use vfio_dma::{DmaAccess, DmaRefusal};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::ioctl_io_nr;

const TYPE: u32 = uapi::VFIO_TYPE as u32;
const BASE: u32 = uapi::VFIO_BASE;

ioctl_io_nr!(VFIO_IOMMU_GET_INFO, TYPE, BASE + 12);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, TYPE, BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, TYPE, BASE + 14);
ioctl_io_nr!(IOMMU_IOAS_IOVA_RANGES, TYPE, 0x84);
ioctl_io_nr!(IOMMU_IOAS_MAP, TYPE, 0x85);
ioctl_io_nr!(IOMMU_IOAS_UNMAP, TYPE, 0x86);
ioctl_io_nr!(IOMMU_IOAS_MAP_FILE, TYPE, 0x8f);

const IOMMU_IOAS_MAP_FIXED_IOVA: u32 = 1;
const IOMMU_IOAS_MAP_WRITEABLE: u32 = 1 << 1;
const IOMMU_IOAS_MAP_READABLE: u32 = 1 << 2;

/// `struct vfio_iommu_type1_dma_map`; that of vfio-bindings has fields behind it that have a length
/// of their own.
#[repr(C)]
#[derive(Debug)]
struct Type1Map {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, as above.
#[repr(C)]
#[derive(Debug)]
struct Type1Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Debug)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_map_file`.
#[repr(C)]
#[derive(Debug)]
struct IoasMapFile {
    size: u32,
    flags: u32,
    ioas_id: u32,
    fd: i32,
    start: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Debug)]
struct IoasUnmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
#[derive(Debug)]
struct IoasIovaRanges {
    size: u32,
    ioas_id: u32,
    num_iovas: u32,
    reserved: u32,
    allowed_iovas: u64,
    out_iova_alignment: u64,
}

/// How many bytes; all 2^64 have no number, and the kernel refuses what it gets instead.
fn bytes(iova: AddrRange) -> u64 {
    iova.size_u64().unwrap_or(u64::MAX)
}

/// `size_of` for the fields that say it: the structures have tens of bytes.
#[allow(clippy::cast_possible_truncation)]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Maps host memory in a container.
///
/// # Safety
///
/// The owner of `memory` must live until the IOVAs are unmapped.
pub(super) unsafe fn type1_map(
    container: &File,
    iova: u64,
    memory: &HostMemory,
    access: DmaAccess,
) -> Result<(), DmaRefusal> {
    let map = Type1Map {
        argsz: size::<Type1Map>(),
        flags: match access {
            DmaAccess::Read => uapi::VFIO_DMA_MAP_FLAG_READ,
            DmaAccess::ReadWrite => uapi::VFIO_DMA_MAP_FLAG_READ | uapi::VFIO_DMA_MAP_FLAG_WRITE,
        },
        vaddr: memory.address(),
        iova,
        size: memory.size(),
    };
    // SAFETY: `map` has the layout that the ioctl reads, and says its size. Devices may access the
    // bytes for as long as the owner of `memory` lives, and the caller keeps it.
    done(unsafe { ioctl_with_ref(container, VFIO_IOMMU_MAP_DMA(), &map) })
}

/// Unmaps in a container.
pub(super) fn type1_unmap(container: &File, iova: AddrRange) -> Result<u64, DmaRefusal> {
    let mut unmap = Type1Unmap {
        argsz: size::<Type1Unmap>(),
        flags: 0,
        iova: iova.start(),
        size: bytes(iova),
    };
    // SAFETY: `unmap` has the layout that the ioctl reads and writes, and says its size. Without a
    // flag for it there is no bitmap behind it.
    done(unsafe { ioctl_with_mut_ref(container, VFIO_IOMMU_UNMAP_DMA(), &mut unmap) })?;
    Ok(unmap.size)
}

/// What a container says of itself, in 8-byte words, as many as the caller has; in the first half of
/// the first the kernel says how many bytes it would like to have.
pub(super) fn type1_info(container: &File, words: &mut [u64]) -> Result<(), DmaRefusal> {
    let bytes = u32::try_from(size_of_val(words)).unwrap_or(u32::MAX);
    if let Some(first) = words.first_mut() {
        *first = crate::device::ioctl::pair(bytes, 0);
    }
    // SAFETY: the ioctl reads and writes no more than the size that it is given, which is that of `words`;
    // every bit pattern is a `u64`. What is shorter than its fixed part it refuses.
    done(unsafe { ioctl_with_mut_ptr(container, VFIO_IOMMU_GET_INFO(), words.as_mut_ptr()) })
}

/// Maps host memory in an IOAS.
///
/// # Safety
///
/// As for [`type1_map`].
pub(super) unsafe fn ioas_map(
    iommufd: &File,
    ioas: u32,
    iova: u64,
    memory: &HostMemory,
    access: DmaAccess,
) -> Result<(), DmaRefusal> {
    let mut map = IoasMap {
        size: size::<IoasMap>(),
        flags: ioas_flags(access),
        ioas_id: ioas,
        reserved: 0,
        user_va: memory.address(),
        length: memory.size(),
        iova,
    };
    // SAFETY: as in `type1_map`; the ioctl also writes to `map`.
    done(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_MAP(), &mut map) })
}

/// Maps a file in an IOAS. The kernel holds the file's pages itself.
pub(super) fn ioas_map_file(
    iommufd: &File,
    ioas: u32,
    iova: u64,
    file: &FileSlice,
    access: DmaAccess,
) -> Result<(), DmaRefusal> {
    let mut map = IoasMapFile {
        size: size::<IoasMapFile>(),
        flags: ioas_flags(access),
        ioas_id: ioas,
        fd: file.fd(),
        start: file.offset(),
        length: file.size(),
        iova,
    };
    // SAFETY: `map` has the layout that the ioctl reads and writes, and says its size. No address is
    // named.
    done(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_MAP_FILE(), &mut map) })
}

/// Unmaps in an IOAS.
pub(super) fn ioas_unmap(iommufd: &File, ioas: u32, iova: AddrRange) -> Result<u64, DmaRefusal> {
    let mut unmap = IoasUnmap {
        size: size::<IoasUnmap>(),
        ioas_id: ioas,
        iova: iova.start(),
        length: bytes(iova),
    };
    // SAFETY: `unmap` has the layout that the ioctl reads and writes, and says its size.
    done(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_UNMAP(), &mut unmap) })?;
    Ok(unmap.length)
}

/// The first and last IOVA of each range that can be mapped, as many as there is room for, and how
/// many there are.
pub(super) fn ioas_iova_ranges(
    iommufd: &File,
    ioas: u32,
    ranges: &mut [[u64; 2]],
) -> Result<usize, DmaRefusal> {
    let mut query = IoasIovaRanges {
        size: size::<IoasIovaRanges>(),
        ioas_id: ioas,
        num_iovas: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
        reserved: 0,
        allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
        out_iova_alignment: 0,
    };
    // SAFETY: `query` has the layout that the ioctl reads and writes, and says its size. It writes no
    // more ranges than it is given room for, each of two `u64`s.
    let result = done(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_IOVA_RANGES(), &mut query) });
    match result {
        Err(DmaRefusal::Errno(libc::EMSGSIZE)) | Ok(()) => Ok(query.num_iovas as usize),
        Err(refusal) => Err(refusal),
    }
}

fn ioas_flags(access: DmaAccess) -> u32 {
    IOMMU_IOAS_MAP_FIXED_IOVA
        | IOMMU_IOAS_MAP_READABLE
        | match access {
            DmaAccess::Read => 0,
            DmaAccess::ReadWrite => IOMMU_IOAS_MAP_WRITEABLE,
        }
}

fn done(result: i32) -> Result<(), DmaRefusal> {
    match result {
        0.. => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            Err(DmaRefusal::Errno(error.raw_os_error().unwrap_or(libc::EIO)))
        }
    }
}
