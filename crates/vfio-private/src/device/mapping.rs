// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Mappings of regions in this process's address space.

use std::sync::Arc;

use guest_ranges::HostMemory;
use memmap2::MmapRaw;

use super::error::DeviceError;

/// A mapping of a region, until it is dropped.
///
/// There are no references to its bytes, because the device and a guest change them at any time. All
/// accesses are volatile and aligned to their width.
///
/// **While memory decoding is off, or the device is reset or powered down, an access raises SIGBUS**,
/// which ends the process. If a guest accesses the address through a memslot, `KVM_RUN` fails
/// instead.
///
/// Hold a VM's vCPUs while the memslot of registers is added or moved. If a vCPU has just left the
/// guest because the slot was missing, KVM completes the access through this mapping, and not in the
/// width of the guest's access: some devices answer such a read with zero.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    /// All bytes of `map` are there for as long as it is.
    pub(super) fn new(map: MmapRaw) -> Self {
        Self { map }
    }

    /// The host virtual address of the first byte, for a memslot.
    pub fn address(&self) -> u64 {
        self.map.as_mut_ptr().expose_provenance() as u64
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// All bytes of the mapping as host memory, which keeps it mapped.
    pub fn host_memory(self: &Arc<Self>) -> HostMemory {
        let (address, size) = (self.address(), self.size());
        // SAFETY: the bytes are mapped while the owner, this value, lives. There
        // are no references to them: this type only makes volatile accesses.
        let memory = unsafe { HostMemory::new(address, size, self.clone()) };
        // A mapping is never empty, and the kernel maps nothing at address 0.
        memory.expect("a mapping has bytes and an address")
    }

    /// Loads a little-endian register.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Outside`] and [`DeviceError::Misaligned`].
    pub fn read<T: Register>(&self, offset: u64) -> Result<T, DeviceError> {
        let register = self.register::<T>(offset)?;
        // SAFETY: `register` has checked that the register is in the mapping, which is readable for
        // as long as `self`, and that it is aligned. Every bit pattern is a `T`.
        Ok(unsafe { register.read_volatile() }.little_endian())
    }

    /// Stores to a little-endian register.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn write<T: Register>(&self, offset: u64, value: T) -> Result<(), DeviceError> {
        let register = self.register::<T>(offset)?;
        // SAFETY: as above, and the mapping is writable. No one has a reference to its bytes: this
        // type gives out none.
        unsafe { register.write_volatile(value.little_endian()) };
        Ok(())
    }

    fn register<T: Register>(&self, offset: u64) -> Result<*mut T, DeviceError> {
        let len = size_of::<T>() as u64;
        let size = self.size();
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let at = usize::try_from(offset).ok().filter(|_| is_inside);
        let at = at.ok_or(DeviceError::Outside { offset, len, size })?;
        if offset % len != 0 {
            return Err(DeviceError::Misaligned { offset, len });
        }
        // A mapping starts on a page, so that aligned offsets are aligned addresses.
        Ok(self.map.as_mut_ptr().wrapping_add(at).cast())
    }
}

/// A width that registers are accessed in.
pub trait Register: Copy + sealed::Sealed {
    /// Converts from the device's byte order, or to it.
    #[must_use]
    fn little_endian(self) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! registers {
    ($($width:ty)*) => {
        $(
            impl sealed::Sealed for $width {}
            impl Register for $width {
                fn little_endian(self) -> Self {
                    self.to_le()
                }
            }
        )*
    };
}

registers! { u8 u16 u32 u64 }

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn mapping() -> Mapping {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..32).collect();
        file.write_all(&bytes).unwrap();
        let map = memmap2::MmapOptions::new().len(32).map_raw(&file).unwrap();
        Mapping::new(map)
    }

    #[test]
    fn registers_of_all_widths_are_little_endian() {
        let mapping = mapping();
        assert_eq!(mapping.read::<u8>(3), Ok(3));
        assert_eq!(mapping.read::<u16>(2), Ok(0x0302));
        assert_eq!(mapping.read::<u32>(28), Ok(0x1f1e_1d1c));
        assert_eq!(mapping.read::<u64>(8), Ok(0x0f0e_0d0c_0b0a_0908));
        mapping.write(4, 0xaabb_ccdd_u32).unwrap();
        assert_eq!(mapping.read::<u64>(0), Ok(0xaabb_ccdd_0302_0100));
    }

    #[test]
    fn accesses_outside_and_unaligned_ones_are_refused() {
        let mapping = mapping();
        let outside = |offset, len| DeviceError::Outside {
            offset,
            len,
            size: 32,
        };
        assert_eq!(mapping.read::<u8>(32), Err(outside(32, 1)));
        assert_eq!(mapping.write(28, 0_u64), Err(outside(28, 8)));
        assert_eq!(mapping.read::<u64>(u64::MAX), Err(outside(u64::MAX, 8)));
        let misaligned = DeviceError::Misaligned { offset: 2, len: 4 };
        assert_eq!(mapping.write(2, 0_u32), Err(misaligned));
    }
}
