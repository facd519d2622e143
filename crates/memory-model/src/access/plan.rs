// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans the device accesses that carry out a guest access. A pure function.

use core::iter::FusedIterator;

use crate::access::rules::{AccessError, AccessRule, AccessRules, Endianness, WIDEST};

impl AccessRules {
    /// Plans the 1 to 8 device accesses that carry out a guest access of `size` bytes
    /// at `offset` in the region.
    ///
    /// # Errors
    /// [`AccessError`] if the access is not valid. The caller decides what the guest
    /// gets then: all ones, or an exception.
    pub fn plan(&self, offset: u64, size: usize) -> Result<AccessPlan, AccessError> {
        let broken = |rule| AccessError { offset, size, rule };
        let bytes = match u8::try_from(size) {
            Ok(bytes @ 1..=WIDEST) => bytes,
            _ => return Err(broken(AccessRule::OneToEight)),
        };
        if offset.checked_add(u64::from(bytes) - 1).is_none() {
            return Err(broken(AccessRule::Wraps));
        }
        let valid = self.valid();
        if bytes < valid.min() || valid.max() < bytes {
            return Err(broken(AccessRule::Sizes(valid)));
        }
        let aligned = bytes.is_power_of_two() && offset % u64::from(bytes) == 0;
        if !aligned && !self.valid_unaligned() {
            return Err(broken(AccessRule::Aligned));
        }
        Ok(AccessPlan::new(*self, offset, bytes))
    }
}

/// An iterator over the device accesses that carry out one guest access, by address.
///
/// The values of the guest's access and of the device's are numbers in the device's
/// byte order. [`Endianness`] converts the guest's number from and to bytes.
#[derive(Clone, Debug)]
pub struct AccessPlan {
    rules: AccessRules,
    offset: u64,
    size: u8,
    /// How many of the bytes the earlier pieces cover.
    done: u8,
}

impl AccessPlan {
    /// Plans an access of `size` bytes, 1 to 8, at `offset`, which does not wrap.
    fn new(rules: AccessRules, offset: u64, size: u8) -> Self {
        Self {
            rules,
            offset,
            size,
            done: 0,
        }
    }

    /// Combines the numbers that `read` returns for the pieces into the number that
    /// the guest reads.
    pub fn combine_read(self, mut read: impl FnMut(&Piece) -> u64) -> u64 {
        self.fold(0, |value, piece| value | piece.take(read(&piece)))
    }

    /// Splits `value`, which the guest writes, into the number to write for each
    /// piece. In a [partial](Piece::is_partial) piece the bits outside the mask are
    /// zero. For a device that ignores the mask, [merge](Piece::merge) them with the
    /// device's current number, if reading that has no side effects.
    pub fn split_write(self, value: u64) -> impl Iterator<Item = (Piece, u64)> {
        self.map(move |piece| (piece, piece.give(value)))
    }

    /// The size and the offset of the next device access, for `left` bytes (at least
    /// 1) at `at`.
    fn access(&self, at: u64, left: u8) -> (u8, u64) {
        let implemented = self.rules.implemented();
        let largest = 1_u8 << left.ilog2();
        let mut size = largest.min(implemented.max());
        if !self.rules.implemented_unaligned() {
            let alignment = 1_u8 << at.trailing_zeros().min(3);
            size = size.min(alignment);
        }
        if size >= implemented.min() {
            return (size, at);
        }
        // An access that is widened is also aligned. Otherwise it could reach past the
        // end of any region, not only of one whose size is no multiple of the
        // implemented size.
        let size = implemented.min();
        (size, at - at % u64::from(size))
    }
}

impl Iterator for AccessPlan {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = self.size - self.done;
        if left == 0 {
            return None;
        }
        // The access does not wrap, so neither does this part of it.
        let at = self.offset + u64::from(self.done);
        let (size, offset) = self.access(at, left);
        let before = u8::try_from(at - offset).unwrap_or(0);
        let covered = left.min(size - before);
        let (device_byte, guest_byte) = match self.rules.endianness() {
            Endianness::Little => (before, self.done),
            Endianness::Big => (size - before - covered, left - covered),
        };
        self.done += covered;
        Some(Piece {
            offset,
            size,
            covered,
            device_byte,
            guest_byte,
        })
    }
}

impl FusedIterator for AccessPlan {}

/// One device access, and the part of the guest access that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    offset: u64,
    size: u8,
    /// The number of bytes of the guest's access that it covers.
    covered: u8,
    /// The lowest covered byte in the device's number.
    device_byte: u8,
    /// The lowest covered byte in the guest's number.
    guest_byte: u8,
}

impl Piece {
    /// The offset in the region, in bytes. A [partial](Self::is_partial) piece can
    /// end past the [region's end](AccessRules#the-regions-end).
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of bytes: 1, 2, 4 or 8.
    pub fn size(&self) -> u8 {
        self.size
    }

    /// The bits of the device's number that belong to the guest's access.
    pub fn mask(&self) -> u64 {
        low_bytes(self.covered) << (8 * self.device_byte)
    }

    /// Whether the piece is wider than the part of the guest's access that it covers.
    pub fn is_partial(&self) -> bool {
        self.covered < self.size
    }

    /// The bits that reading `device` contributes to the number that the guest reads.
    /// Bits outside the mask are ignored.
    pub fn take(&self, device: u64) -> u64 {
        (device & self.mask()) >> (8 * self.device_byte) << (8 * self.guest_byte)
    }

    /// The number to write to the device if the guest writes `value`. Bits outside
    /// the mask are zero.
    pub fn give(&self, value: u64) -> u64 {
        value >> (8 * self.guest_byte) << (8 * self.device_byte) & self.mask()
    }

    /// The number with the bits of `new` inside the mask and those of `old` outside.
    pub fn merge(&self, old: u64, new: u64) -> u64 {
        (old & !self.mask() | new & self.mask()) & low_bytes(self.size)
    }
}

/// Ones in the lowest `bytes`, 1 to 8.
fn low_bytes(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(bytes))
}
