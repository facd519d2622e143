// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accesses of a device carry out one of the guest's: a pure function.

use core::iter::FusedIterator;

use crate::access::rules::{AccessRules, Endianness};

/// The device accesses that carry out one access of the guest: an iterator
/// over them, by address.
///
/// The guest's access and the device's are numbers here, both in the device's
/// byte order: [`Endianness`] turns the guest's into bytes and back.
#[derive(Clone, Debug)]
pub struct AccessPlan {
    rules: AccessRules,
    offset: u64,
    size: u8,
    /// How many of the bytes earlier pieces have.
    done: u8,
}

impl AccessPlan {
    /// Carries out `size` bytes, 1 to 8, at `offset`, which do not wrap.
    pub(crate) fn new(rules: AccessRules, offset: u64, size: u8) -> Self {
        Self {
            rules,
            offset,
            size,
            done: 0,
        }
    }

    /// The number that the guest reads, of the numbers that `read` returns for
    /// each piece.
    pub fn combine_read(self, mut read: impl FnMut(&Piece) -> u64) -> u64 {
        self.fold(0, |value, piece| value | piece.take(read(&piece)))
    }

    /// Each piece with the number to be written there if the guest writes
    /// `value`. Of a [partial](Piece::is_partial) piece the bits outside its
    /// mask are zero. A device that does not look at the mask wants them
    /// [merged](Piece::merge) with what it holds: whether reading that has side
    /// effects, its author knows.
    pub fn split_write(self, value: u64) -> impl Iterator<Item = (Piece, u64)> {
        self.map(move |piece| (piece, piece.give(value)))
    }

    /// The size and the first offset of the device access that carries out
    /// what it can of `left` bytes (at least 1) at `at`.
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
        // A wider access than was asked for is always aligned: an unaligned
        // one could reach past the end of any region, and not only of one whose
        // size is no multiple of what is implemented.
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
        // The access does not wrap, so this and all it has do not either.
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

/// One access of the device, and the part that it has in the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    offset: u64,
    size: u8,
    /// How many bytes it has in common with the guest's access.
    covered: u8,
    /// The lowest of these in the device's number.
    device_byte: u8,
    /// The lowest of these in the guest's number.
    guest_byte: u8,
}

impl Piece {
    /// Where in the region it starts, in bytes. A [partial](Self::is_partial)
    /// one can end past the [region's end](AccessRules#the-regions-end).
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of bytes: 1, 2, 4 or 8.
    pub fn size(&self) -> u8 {
        self.size
    }

    /// The bits of the device's number that are part of the guest's access.
    pub fn mask(&self) -> u64 {
        low_bytes(self.covered) << (8 * self.device_byte)
    }

    /// Whether it is wider than what the guest asked for.
    pub fn is_partial(&self) -> bool {
        self.covered < self.size
    }

    /// What reading `device` adds to the number that the guest reads; bits
    /// outside the mask are ignored.
    pub fn take(&self, device: u64) -> u64 {
        (device & self.mask()) >> (8 * self.device_byte) << (8 * self.guest_byte)
    }

    /// What the device is written if the guest writes `value`; zero outside
    /// the mask.
    pub fn give(&self, value: u64) -> u64 {
        value >> (8 * self.guest_byte) << (8 * self.device_byte) & self.mask()
    }

    /// The number with the bits of `new` where the guest's access is, and
    /// those of `old` where it is not.
    pub fn merge(&self, old: u64, new: u64) -> u64 {
        (old & !self.mask() | new & self.mask()) & low_bytes(self.size)
    }
}

/// Ones in the lowest `bytes`, 1 to 8.
fn low_bytes(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(bytes))
}
