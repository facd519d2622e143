// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accesses a trapped region takes.

use core::fmt;

use crate::access::plan::AccessPlan;

/// The widest access there is, in bytes.
const WIDEST: u8 = 8;

/// Access sizes from a smallest to a largest, each 1, 2, 4 or 8 bytes.
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

/// Which byte of a device's number lies at the lowest address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endianness {
    /// The lowest.
    Little,
    /// The highest.
    Big,
}

impl Endianness {
    /// The number that `bytes`, by address, stand for: up to 8 of them.
    pub fn value(self, bytes: &[u8]) -> u64 {
        let append = |value, &byte: &u8| value << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, append),
            Self::Big => bytes.iter().fold(0, append),
        }
    }

    /// Fills `bytes`, by address, with the lowest bytes of a number.
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

/// What a trapped region's device makes of accesses.
///
/// *Valid* is what the guest may ask for: anything else is an error.
/// *Implemented* is what the device's code can do: a valid access that is
/// wider is split, one that is smaller is carried out by a wider one, one that
/// is unaligned by several. An access is **aligned** if its size is a power of
/// two and divides its offset in the region.
///
/// # Odd sizes
///
/// KVM can bring any size from 1 to 8. It hands over what an instruction
/// accesses in parts of up to 8 bytes that cross no page
/// (`emulator_read_write` and `complete_emulated_mmio` in arch/x86/kvm/x86.c):
/// of 8 bytes that start 3 before a page's end, it brings 3, and then 5.
///
/// Here an odd size is an unaligned access. By the default rules it is refused
/// ([`AccessRule::Aligned`]); where unaligned accesses are valid, it is carried
/// out by pieces of 1, 2, 4 and 8 bytes. QEMU refuses none of them: before it
/// asks what is valid, it splits what comes into accesses of powers of two,
/// aligned ones unless the device is implemented for others. Who wants that
/// takes [`with_valid_unaligned`](Self::with_valid_unaligned).
///
/// # The region's end
///
/// The rules do not know how large a region is. An access that is carried out
/// by a wider, aligned one passes the end of a region whose size is no multiple
/// of the smallest implemented size: in a region of 6 bytes of which the device
/// implements 4 at a time, the bytes at 4 and 5 are part of 4 bytes at 4. No
/// bit of a [mask](crate::Piece::mask) is ever outside of what the guest asked
/// for. The device sees that offset and size, and answers what it likes for
/// bytes that it does not have. QEMU passes the end alike, and even of regions
/// of a round size, since it widens an access without aligning it.
///
/// # Default
///
/// Aligned accesses of 1 to 8 bytes are valid, aligned ones of 1 to 4
/// implemented, little endian: no aligned load or store fails, and a device
/// with 32-bit registers need not know of wider ones. QEMU's defaults have the
/// same sizes. Whoever wants wide accesses refused rather than split says so
/// with [`with_valid`](Self::with_valid).
///
/// # Where to keep them
///
/// No region and no view knows its rules: a lookup in a
/// [`FlatView`](crate::FlatView) returns the caller's handle, and the handle
/// carries them, next to the device that it stands for. Whoever answers the
/// exit calls [`plan`](Self::plan).
///
/// ```
/// use memory_model::{AccessRules, Endianness, Sizes};
///
/// // A device with big endian registers of 4 bytes, which hold their offset.
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

    /// The same rules, by which the guest may access these sizes.
    #[must_use]
    pub const fn with_valid(self, valid: Sizes) -> Self {
        Self { valid, ..self }
    }

    /// The same rules, by which unaligned accesses are valid, or are not.
    #[must_use]
    pub const fn with_valid_unaligned(self, valid_unaligned: bool) -> Self {
        Self {
            valid_unaligned,
            ..self
        }
    }

    /// The same rules for a device that is accessed in these sizes.
    #[must_use]
    pub const fn with_implemented(self, implemented: Sizes) -> Self {
        Self {
            implemented,
            ..self
        }
    }

    /// The same rules for a device that takes a size it implements at any
    /// offset, or only where it is aligned.
    #[must_use]
    pub const fn with_implemented_unaligned(self, implemented_unaligned: bool) -> Self {
        Self {
            implemented_unaligned,
            ..self
        }
    }

    /// The same rules for a device with this byte order.
    #[must_use]
    pub const fn with_endianness(self, endianness: Endianness) -> Self {
        Self { endianness, ..self }
    }

    /// The sizes that the guest may access.
    pub const fn valid(&self) -> Sizes {
        self.valid
    }

    /// Whether the guest's accesses may be unaligned.
    pub const fn valid_unaligned(&self) -> bool {
        self.valid_unaligned
    }

    /// The sizes in which the device is accessed.
    pub const fn implemented(&self) -> Sizes {
        self.implemented
    }

    /// Whether the device is accessed at any offset.
    pub const fn implemented_unaligned(&self) -> bool {
        self.implemented_unaligned
    }

    /// The byte order of the device's numbers.
    pub const fn endianness(&self) -> Endianness {
        self.endianness
    }

    /// The device accesses that carry out the guest's access of `size` bytes
    /// at `offset` in the region, by address: 1 to 8 of them.
    ///
    /// # Errors
    /// [`AccessError`] if the access is not valid. What the guest gets then,
    /// ones or an exception, is the caller's to say.
    pub fn plan(&self, offset: u64, size: usize) -> Result<AccessPlan, AccessError> {
        let broken = |rule| AccessError { offset, size, rule };
        let bytes = match u8::try_from(size) {
            Ok(bytes @ 1..=WIDEST) => bytes,
            _ => return Err(broken(AccessRule::OneToEight)),
        };
        if offset.checked_add(u64::from(bytes) - 1).is_none() {
            return Err(broken(AccessRule::Wraps));
        }
        if bytes < self.valid.min || self.valid.max < bytes {
            return Err(broken(AccessRule::Sizes(self.valid)));
        }
        let aligned = bytes.is_power_of_two() && offset % u64::from(bytes) == 0;
        if !aligned && !self.valid_unaligned {
            return Err(broken(AccessRule::Aligned));
        }
        Ok(AccessPlan::new(*self, offset, bytes))
    }
}

/// An access that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access of {size} bytes at offset {offset:#x}: {rule}")]
pub struct AccessError {
    /// Where in the region it starts, in bytes.
    pub offset: u64,
    /// The number of bytes.
    pub size: usize,
    /// What it breaks.
    pub rule: AccessRule,
}

/// What an access has to keep to, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessRule {
    /// No access is empty, or wider than 8 bytes.
    #[error("accesses have 1 to 8 bytes")]
    OneToEight,
    /// No access reaches past offset 2^64 - 1.
    #[error("it reaches past 2^64")]
    Wraps,
    /// The region takes these sizes.
    #[error("only accesses of {0} bytes are valid")]
    Sizes(Sizes),
    /// The region takes aligned accesses.
    #[error("only aligned accesses are valid")]
    Aligned,
}
