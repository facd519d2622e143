// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI configuration space, as read from sysfs, from VFIO's config region or from a hex dump.
//!
//! It has the number, kind and address of each BAR, and the places of the MSI-X structures. **It does
//! not have the size of a BAR**: a BAR returns its size only after all ones are written to it. The
//! size comes from VFIO's region info, from sysfs or from the output of `lspci`. BARs of the Enhanced
//! Allocation capability are the exception: the capability has their size, and they have no register.

mod ea;
mod error;

use alloc::vec::Vec;

use crate::bar::{BarIndex, BarKind};
use crate::bytes::{le16, le32};
use crate::msix::Msix;

pub use ea::{EaEntry, EaResource};
pub use error::ConfigError;

/// Offsets in the header, and bits in its registers (PCI Express Base Specification, section 7.5).
mod header {
    pub(super) const SIZE: usize = 0x40;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const STATUS_CAPABILITIES: u16 = 1 << 4;
    pub(super) const TYPE: usize = 0x0e;
    pub(super) const TYPE_MASK: u8 = 0x7f;
    pub(super) const BARS: usize = 0x10;
    pub(super) const CAPABILITIES: usize = 0x34;
}

/// Where the capabilities that the header points to can be; what follows is extended space.
const CAPABILITIES_END: usize = 0x100;

/// The capability ID of MSI-X.
const MSIX: u8 = 0x11;

/// A BAR as its register, or an Enhanced Allocation entry, describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BarRegister {
    /// The number of the BAR. The upper half of a 64-bit BAR is not a BAR, but occupies the next
    /// number.
    pub index: BarIndex,
    /// Memory or I/O.
    pub kind: BarKind,
    /// A memory BAR of 64 bits, which takes two registers, or one whose Enhanced Allocation entry
    /// has fields of 64 bits.
    pub is_64bit: bool,
    /// Reads have no side effects.
    pub prefetchable: bool,
    /// The address of the BAR on its bus; 0 if it has none.
    pub address: u64,
    /// The size in bytes, which only an Enhanced Allocation entry has. Such a BAR has no register.
    pub size: Option<u64>,
}

impl BarRegister {
    /// Whether the BAR takes the next number too. A 64-bit BAR does, for the upper half of its
    /// register; a BAR of Enhanced Allocation does not.
    pub const fn takes_next(&self) -> bool {
        self.is_64bit && self.size.is_none()
    }

    fn takes(&self, index: BarIndex) -> bool {
        let upper = self.takes_next() && self.index.get() + 1 == index.get();
        self.index == index || upper
    }
}

/// A capability of the chain in the first 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capability {
    /// The capability ID, for example 0x11 for MSI-X.
    pub id: u8,
    /// Where it starts, in bytes from the start of configuration space.
    pub offset: u8,
}

/// The configuration space of a device with a type 0 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigSpace<'a> {
    bytes: &'a [u8],
}

impl<'a> ConfigSpace<'a> {
    /// A reader of these bytes of configuration space.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Length`] unless there are 64 bytes (the header), 256 or 4096;
    /// [`ConfigError::NoDevice`] and [`ConfigError::HeaderType`] for a function without BARs.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ConfigError> {
        if !Self::has_length(bytes) {
            return Err(ConfigError::Length { len: bytes.len() });
        }
        // A virtual function has no vendor ID of its own; only a whole header tells it from nothing.
        if bytes.iter().take(header::SIZE).all(|&byte| byte == 0xff) {
            return Err(ConfigError::NoDevice);
        }
        let kind = bytes.get(header::TYPE).map(|byte| byte & header::TYPE_MASK);
        match kind {
            Some(0) => Ok(Self { bytes }),
            kind => Err(ConfigError::HeaderType {
                kind: kind.unwrap_or_default(),
            }),
        }
    }

    /// Whether the number of bytes is that of configuration space or of its header.
    pub const fn has_length(bytes: &[u8]) -> bool {
        matches!(bytes.len(), 64 | 256 | 4096)
    }

    /// The BARs whose registers are not zero, and those of Enhanced Allocation, in ascending order.
    ///
    /// A zero is an unimplemented BAR, or a 32-bit memory BAR that was given no place, or any BAR
    /// of a virtual function: its sizes then say which. The header alone has no capabilities; of
    /// its 64 bytes only the registers are read.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BarType`] and [`ConfigError::NoUpperHalf`]; if there is more than the header,
    /// also those of [`enhanced_allocation`](Self::enhanced_allocation), and
    /// [`ConfigError::EaBarInUse`].
    pub fn bars(self) -> Result<Vec<BarRegister>, ConfigError> {
        let mut bars = self.registers()?;
        if self.bytes.len() > header::SIZE {
            for EaEntry { offset, resource } in self.enhanced_allocation()? {
                let EaResource::Bar(fixed) = resource else {
                    continue;
                };
                if bars.iter().any(|bar| bar.takes(fixed.index)) {
                    let bar = fixed.index;
                    return Err(ConfigError::EaBarInUse { offset, bar });
                }
                bars.push(fixed);
            }
        }
        bars.sort_unstable_by_key(|bar| bar.index);
        Ok(bars)
    }

    /// The entries of the Enhanced Allocation capability, in their own order; none without the
    /// capability. If there are several such capabilities, the first counts, as in Linux.
    ///
    /// # Errors
    ///
    /// Those of [`capabilities`](Self::capabilities), and the `Ea…` variants of [`ConfigError`] for
    /// an entry that cannot be parsed to its end, or for a BAR that is not understood in full: such
    /// a BAR is never left out.
    pub fn enhanced_allocation(self) -> Result<Vec<EaEntry>, ConfigError> {
        ea::entries(self)
    }

    /// The BARs whose registers are not zero.
    fn registers(self) -> Result<Vec<BarRegister>, ConfigError> {
        let mut bars = Vec::new();
        let mut numbers = 0..BarIndex::COUNT;
        while let Some(number) = numbers.next() {
            let Ok(index) = BarIndex::new(number) else {
                continue;
            };
            let (offset, low) = self.bar_register(number);
            if low == 0 {
                continue;
            }
            if low & 1 != 0 {
                bars.push(BarRegister {
                    index,
                    kind: BarKind::Io,
                    is_64bit: false,
                    prefetchable: false,
                    address: u64::from(low & !0x3),
                    size: None,
                });
                continue;
            }
            let is_64bit = match low >> 1 & 3 {
                2 => true,
                3 => return Err(ConfigError::BarType { bar: index, offset }),
                // 1 is an address below 1 MiB, which only old devices ask for.
                _ => false,
            };
            let mut address = u64::from(low & !0xf);
            if is_64bit {
                let Some(upper) = numbers.next() else {
                    return Err(ConfigError::NoUpperHalf { bar: index, offset });
                };
                address |= u64::from(self.bar_register(upper).1) << 32;
            }
            bars.push(BarRegister {
                index,
                kind: BarKind::Memory,
                is_64bit,
                prefetchable: low & 8 != 0,
                address,
                size: None,
            });
        }
        Ok(bars)
    }

    /// Where the register of a BAR is, and what it holds.
    fn bar_register(self, number: u8) -> (usize, u32) {
        let offset = header::BARS + 4 * usize::from(number);
        (offset, le32(self.bytes, offset).unwrap_or_default())
    }

    /// The chain of capabilities, in its own order.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the chain enters the header, leaves the bytes, loops, or reads as all ones. A
    /// chain that cannot be followed to its end is an error: an overlooked MSI-X table would be handed
    /// to the guest.
    pub fn capabilities(self) -> Result<Vec<Capability>, ConfigError> {
        let mut chain: Vec<Capability> = Vec::new();
        if le16(self.bytes, header::STATUS).unwrap_or_default() & header::STATUS_CAPABILITIES == 0 {
            return Ok(chain);
        }
        let mut from = header::CAPABILITIES;
        // The two low bits of a pointer are reserved.
        while let Some(start @ 4..) = self.bytes.get(from).map(|pointer| pointer & !3) {
            let offset = usize::from(start);
            if offset < header::SIZE {
                return Err(ConfigError::PointerIntoHeader {
                    offset: from,
                    pointer: offset,
                });
            }
            if chain.iter().any(|seen| seen.offset == start) {
                return Err(ConfigError::Cycle {
                    offset: from - 1,
                    pointer: offset,
                });
            }
            let [id, _] = self.capability_bytes(offset)?;
            if id == 0xff {
                return Err(ConfigError::NoCapability { offset });
            }
            chain.push(Capability { id, offset: start });
            from = offset + 1;
        }
        Ok(chain)
    }

    /// Where the MSI-X structures are; `None` for a device without MSI-X. Of several MSI-X
    /// capabilities the first counts, as it does for Linux.
    ///
    /// Whether they fit their BARs is for [`classify`](crate::classify) to check.
    ///
    /// # Errors
    ///
    /// Those of [`capabilities`](Self::capabilities), and [`ConfigError::Msix`] for a reserved BAR
    /// number.
    pub fn msix(self) -> Result<Option<Msix>, ConfigError> {
        let chain = self.capabilities()?;
        let Some(found) = chain.into_iter().find(|capability| capability.id == MSIX) else {
            return Ok(None);
        };
        let offset = usize::from(found.offset);
        let [_, _, c0, c1, table @ .., p0, p1, p2, p3] = self.capability_bytes::<12>(offset)?;
        let control = u16::from_le_bytes([c0, c1]);
        let (table, pba) = (
            u32::from_le_bytes(table),
            u32::from_le_bytes([p0, p1, p2, p3]),
        );
        match Msix::from_registers(control, table, pba) {
            Ok(msix) => Ok(Some(msix)),
            Err(source) => Err(ConfigError::Msix { offset, source }),
        }
    }

    /// The first `N` bytes of a capability, which must be in the first 256.
    fn capability_bytes<const N: usize>(self, offset: usize) -> Result<[u8; N], ConfigError> {
        let len = self.bytes.len().min(CAPABILITIES_END);
        let space = self.bytes.get(..len).unwrap_or_default();
        crate::bytes::array(space, offset).ok_or(ConfigError::Truncated { offset, len })
    }
}
