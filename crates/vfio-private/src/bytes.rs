// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers out of bytes from outside, or `None` where the bytes end.

/// The `N` bytes at `offset`.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    let tail = bytes.get(offset..)?;
    tail.first_chunk().copied()
}

/// PCI and TDISP count little-endian, whatever the host does.
pub(crate) fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

pub(crate) fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// The kernel counts as the host does.
pub(crate) fn ne16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_ne_bytes)
}

pub(crate) fn ne32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_ne_bytes)
}

pub(crate) fn ne64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_ne_bytes)
}

/// The `N` bytes at `offset` as they are once `data` is written at `at`.
pub(crate) fn patched<const N: usize>(
    mut bytes: [u8; N],
    offset: usize,
    at: u64,
    data: &[u8],
) -> [u8; N] {
    for (place, byte) in (offset as u64..).zip(&mut bytes) {
        if let Some(new) = written(place, at, data) {
            *byte = new;
        }
    }
    bytes
}

/// The byte for `place`, if it is one of `data` at `at`.
pub(crate) fn written(place: u64, at: u64, data: &[u8]) -> Option<u8> {
    let within = usize::try_from(place.checked_sub(at)?).ok()?;
    data.get(within).copied()
}
