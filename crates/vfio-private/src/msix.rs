// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The MSI-X structures of a device: the vector table and the pending bit array.

use core::fmt;

use crate::bar::{BarIndex, BarRange, InputError};

/// One of the two MSI-X structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: MSI-X has these two structures.
pub enum MsixPart {
    /// The vector table.
    Table,
    /// The pending bit array.
    Pba,
}

impl fmt::Display for MsixPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "MSI-X table",
            Self::Pba => "MSI-X PBA",
        })
    }
}

/// The places of the device's MSI-X structures (PCI capability 0x11).
///
/// Both may be in any memory BAR, not necessarily the same one, at any offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Msix {
    /// The vector table, 16 bytes a vector.
    pub table: BarRange,
    /// The pending bit array, one bit a vector in units of 8 bytes.
    pub pba: BarRange,
}

impl Msix {
    /// The structures for `vectors` vectors, 1 to 2048, each structure at a BAR and an offset in it.
    ///
    /// # Errors
    ///
    /// [`InputError::MsixVectors`] for a number that no device has, [`InputError::MsixOffset`] for
    /// an offset that is no multiple of 8, which the capability cannot express, and
    /// [`InputError::RangeWraps`].
    pub fn with_vectors(
        vectors: u16,
        table: (BarIndex, u64),
        pba: (BarIndex, u64),
    ) -> Result<Self, InputError> {
        if !(1..=2048).contains(&vectors) {
            return Err(InputError::MsixVectors { vectors });
        }
        let place = |(bar, offset): (BarIndex, u64), size| {
            if offset % 8 != 0 {
                return Err(InputError::MsixOffset { bar, offset });
            }
            BarRange::new(bar, offset, size)
        };
        Ok(Self {
            table: place(table, u64::from(vectors) * 16)?,
            pba: place(pba, u64::from(vectors).div_ceil(64) * 8)?,
        })
    }

    /// The structures by the registers of the MSI-X capability: message control, and where the table
    /// and the PBA are. Both of these hold the number of a BAR in their low three bits.
    ///
    /// ```
    /// use vfio_private::Msix;
    ///
    /// let msix = Msix::from_registers(0x8020, 0x2000, 0x2800)?;
    /// assert_eq!(msix.table.to_string(), "0x2000-0x220f of BAR 0");
    /// # Ok::<(), vfio_private::InputError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InputError::NoSuchBar`] for BAR 6 or 7.
    pub fn from_registers(control: u16, table: u32, pba: u32) -> Result<Self, InputError> {
        // The control register has the number of vectors less one.
        let vectors = (control & 0x7ff) + 1;
        let place = |register: u32| -> Result<(BarIndex, u64), InputError> {
            let [low, ..] = register.to_le_bytes();
            Ok((BarIndex::new(low & 7)?, u64::from(register & !7)))
        };
        Self::with_vectors(vectors, place(table)?, place(pba)?)
    }

    /// The bytes of one of the two.
    pub const fn place(&self, part: MsixPart) -> BarRange {
        match part {
            MsixPart::Table => self.table,
            MsixPart::Pba => self.pba,
        }
    }
}

/// None, one or both of the MSI-X structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsixParts {
    /// The vector table.
    pub table: bool,
    /// The pending bit array.
    pub pba: bool,
}

/// For example `MSI-X table and MSI-X PBA`.
impl fmt::Display for MsixParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.table, self.pba) {
            (false, false) => f.write_str("no MSI-X structure"),
            (true, false) => write!(f, "{}", MsixPart::Table),
            (false, true) => write!(f, "{}", MsixPart::Pba),
            (true, true) => write!(f, "{} and {}", MsixPart::Table, MsixPart::Pba),
        }
    }
}

impl MsixParts {
    /// Neither.
    pub const NONE: Self = Self {
        table: false,
        pba: false,
    };

    /// Whether `part` is one of them.
    pub const fn contains(self, part: MsixPart) -> bool {
        match part {
            MsixPart::Table => self.table,
            MsixPart::Pba => self.pba,
        }
    }
}
