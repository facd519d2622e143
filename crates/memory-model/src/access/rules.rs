// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules for accesses to a trapped region.

use core::fmt;

/// The size of the widest access, in bytes.
pub(super) const WIDEST: u8 = 8;

/// A range of access sizes. The smallest and the largest are 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sizes {
    min: u8,
    max: u8,
}

impl Sizes {
    /// 1, 2, 4 and 8 bytes.
    pub const ALL: Self = Self {
        min: 1,
        max: WIDEST,
    };

    /// `min` to `max` bytes; `None` unless both are 1, 2, 4 or 8 and in order.
    ///
    /// ```
    /// use memory_model::Sizes;
    ///
    /// const REGISTERS: Sizes = Sizes::new(4, 8).unwrap();
    /// assert_eq!((REGISTERS.min(), REGISTERS.max()), (4, 8));
    /// assert_eq!(Sizes::new(4, 2), None);
    /// assert_eq!(Sizes::new(1, 3), None);
    /// ```
    pub const fn new(min: u8, max: u8) -> Option<Self> {
        let powers = min.is_power_of_two() && max.is_power_of_two();
        if powers && min <= max && max <= WIDEST {
            Some(Self { min, max })
        } else {
            None
        }
    }

    /// The smallest size, in bytes.
    pub const fn min(self) -> u8 {
        self.min
    }

    /// The largest size, in bytes.
    pub const fn max(self) -> u8 {
        self.max
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

impl fmt::Debug for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sizes({self})")
    }
}

/// The byte order of a device's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endianness {
    /// The lowest byte is at the lowest address.
    Little,
    /// The highest byte is at the lowest address.
    Big,
}

impl Endianness {
    /// Converts up to 8 bytes, by address, to a number.
    pub fn value(self, bytes: &[u8]) -> u64 {
        let append = |value, &byte: &u8| value << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, append),
            Self::Big => bytes.iter().fold(0, append),
        }
    }

    /// Converts the lowest bytes of a number to `bytes`, by address.
    pub fn fill(self, bytes: &mut [u8], value: u64) {
        let lowest_first = value.to_le_bytes().into_iter().chain(core::iter::repeat(0));
        match self {
            Self::Little => bytes.iter_mut().zip(lowest_first).for_each(|(b, v)| *b = v),
            Self::Big => bytes
                .iter_mut()
                .rev()
                .zip(lowest_first)
                .for_each(|(b, v)| *b = v),
        }
    }
}

/// The rules for accesses to the device of a trapped region.
///
/// *Valid* accesses are those that the guest may make. Others are errors.
/// *Implemented* accesses are those that the device's code supports. A valid access
/// that is wider is split, a smaller one is carried out by a wider one, and an
/// unaligned one by several. An access is **aligned** if its size is a power of two
/// and divides its offset in the region.
///
/// # Sizes that are not a power of two
///
/// KVM can deliver any size from 1 to 8. It splits what an instruction accesses into
/// parts of up to 8 bytes that cross no page (`emulator_read_write` and
/// `complete_emulated_mmio` in arch/x86/kvm/x86.c). For 8 bytes that start 3 bytes
/// before the end of a page, it delivers 3 bytes and then 5.
///
/// Here, an access whose size is not a power of two is unaligned. The default rules
/// refuse it ([`AccessRule::Aligned`]). If unaligned accesses are valid, pieces of 1, 2,
/// 4 and 8 bytes carry it out. QEMU refuses no such size: before it checks validity, it
/// splits an access into powers of two, aligned unless the device implements unaligned
/// accesses. [`with_valid_unaligned`](Self::with_valid_unaligned) gives the same
/// result.
///
/// # The region's end
///
/// The rules do not know the size of the region. If that is no multiple of the
/// smallest implemented size, a widened access passes the end of the region. In a
/// region of 6 bytes whose device implements 4-byte accesses, the bytes at 4 and 5 are
/// part of an access of 4 bytes at 4. No bit of a [mask](crate::Piece::mask) is ever
/// outside of the guest's access. The device gets this offset and size, and may answer
/// anything for bytes that it does not have. QEMU passes the end in the same way, and
/// also in regions of a round size, because it widens an access without aligning it.
///
/// # Default
///
/// Aligned accesses of 1 to 8 bytes are valid, aligned accesses of 1 to 4 bytes are
/// implemented, and the byte order is little endian. No aligned load or store fails,
/// and a device with 32-bit registers sees no wider access. QEMU's defaults have the
/// same sizes. To refuse wide accesses instead of splitting them, use
/// [`with_valid`](Self::with_valid).
///
/// # Where to keep the rules
///
/// Regions and views do not store rules. A lookup in a [`FlatView`](crate::FlatView)
/// returns the caller's handle. Keep the rules there, next to the device. The code
/// that answers the exit calls [`plan`](Self::plan).
///
/// ```
/// use memory_model::{AccessRules, Endianness, Sizes};
///
/// // A device with big endian registers of 4 bytes, which contain their offset.
/// let rules = AccessRules::new()
///     .with_implemented(Sizes::new(4, 4).unwrap())
///     .with_endianness(Endianness::Big);
/// let register = |offset: u64| 0x4142_4300 + offset;
///
/// // The guest reads 8 bytes: two registers.
/// let mut data = [0; 8];
/// let plan = rules.plan(0x10, data.len())?;
/// let value = plan.combine_read(|piece| register(piece.offset()));
/// rules.endianness().fill(&mut data, value);
/// assert_eq!(&data, b"ABC\x10ABC\x14");
///
/// // The guest writes the second byte of a register.
/// let value = rules.endianness().value(b"x");
/// for (piece, bits) in rules.plan(0x11, 1)?.split_write(value) {
///     assert_eq!((piece.offset(), piece.size()), (0x10, 4));
///     assert_eq!((bits, piece.mask()), (0x0078_0000, 0x00ff_0000));
///     assert_eq!(piece.merge(register(0x10), bits), 0x4178_4310);
/// }
///
/// // Two bytes at an odd offset are not valid here.
/// let error = rules.plan(0x11, 2).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "an access of 2 bytes at offset 0x11: only aligned accesses are valid"
/// );
/// # Ok::<(), memory_model::AccessError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccessRules {
    valid: Sizes,
    valid_unaligned: bool,
    implemented: Sizes,
    implemented_unaligned: bool,
    endianness: Endianness,
}

impl Default for AccessRules {
    fn default() -> Self {
        Self::new()
    }
}

impl AccessRules {
    /// The default rules.
    pub const fn new() -> Self {
        Self {
            valid: Sizes::ALL,
            valid_unaligned: false,
            implemented: Sizes { min: 1, max: 4 },
            implemented_unaligned: false,
            endianness: Endianness::Little,
        }
    }

    /// The same rules with other valid sizes.
    #[must_use]
    pub const fn with_valid(self, valid: Sizes) -> Self {
        Self { valid, ..self }
    }

    /// The same rules with unaligned accesses valid or not.
    #[must_use]
    pub const fn with_valid_unaligned(self, valid_unaligned: bool) -> Self {
        Self {
            valid_unaligned,
            ..self
        }
    }

    /// The same rules with other implemented sizes.
    #[must_use]
    pub const fn with_implemented(self, implemented: Sizes) -> Self {
        Self {
            implemented,
            ..self
        }
    }

    /// The same rules for a device that implements unaligned accesses or does not.
    #[must_use]
    pub const fn with_implemented_unaligned(self, implemented_unaligned: bool) -> Self {
        Self {
            implemented_unaligned,
            ..self
        }
    }

    /// The same rules with another byte order.
    #[must_use]
    pub const fn with_endianness(self, endianness: Endianness) -> Self {
        Self { endianness, ..self }
    }

    /// The valid sizes.
    pub const fn valid(&self) -> Sizes {
        self.valid
    }

    /// Whether unaligned accesses are valid.
    pub const fn valid_unaligned(&self) -> bool {
        self.valid_unaligned
    }

    /// The implemented sizes.
    pub const fn implemented(&self) -> Sizes {
        self.implemented
    }

    /// Whether the device implements unaligned accesses.
    pub const fn implemented_unaligned(&self) -> bool {
        self.implemented_unaligned
    }

    /// The byte order of the device's numbers.
    pub const fn endianness(&self) -> Endianness {
        self.endianness
    }
}

/// An access that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access of {size} bytes at offset {offset:#x}: {rule}")]
pub struct AccessError {
    /// The offset in the region, in bytes.
    pub offset: u64,
    /// The number of bytes.
    pub size: usize,
    /// The rule that the access breaks.
    pub rule: AccessRule,
}

/// A rule for accesses. The variants are in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessRule {
    /// An access has 1 to 8 bytes.
    #[error("accesses have 1 to 8 bytes")]
    OneToEight,
    /// No access reaches past offset 2^64 - 1.
    #[error("it reaches past 2^64")]
    Wraps,
    /// Only these sizes are valid.
    #[error("only accesses of {0} bytes are valid")]
    Sizes(Sizes),
    /// Only aligned accesses are valid.
    #[error("only aligned accesses are valid")]
    Aligned,
}
