// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The chain of capabilities behind the fixed part of what VFIO's query ioctls return.

use crate::bytes::{ne16, ne32};

/// The size of `struct vfio_info_cap_header`: ID, version, where the next one is.
pub(crate) const HEADER: usize = 8;
/// The version of all capabilities that are understood here.
const VERSION: u16 = 1;

/// What is wrong with a chain. Offsets are from the start of the info.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainError {
    /// A capability that starts inside the fixed part.
    InsideFixedPart { offset: usize },
    /// A capability that ends past the bytes.
    Truncated { offset: usize, len: usize },
    /// More capabilities than there is room for: the chain loops.
    Cycle { offset: usize },
    /// A capability that matters in a version that is not known.
    Version {
        offset: usize,
        id: u16,
        version: u16,
    },
}

/// The capabilities of an info, whose fixed part has `fixed` bytes. The first one is at `first`; 0
/// stands for none.
pub(crate) fn capabilities(bytes: &[u8], fixed: usize, first: u32) -> Capabilities<'_> {
    Capabilities {
        bytes,
        fixed,
        next: position(first),
        // Each capability has a header of its own, unless the chain comes back to one.
        room: bytes.len() / HEADER,
    }
}

/// An iterator over a chain. An error is its last item.
#[derive(Debug)]
pub(crate) struct Capabilities<'a> {
    bytes: &'a [u8],
    fixed: usize,
    next: usize,
    room: usize,
}

impl<'a> Iterator for Capabilities<'a> {
    type Item = Result<Capability<'a>, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.next;
        if offset == 0 {
            return None;
        }
        let found = self.capability(offset);
        self.next = found.map_or(0, |capability| capability.next);
        Some(found)
    }
}

impl<'a> Capabilities<'a> {
    fn capability(&mut self, offset: usize) -> Result<Capability<'a>, ChainError> {
        if offset < self.fixed {
            return Err(ChainError::InsideFixedPart { offset });
        }
        let room = self.room.checked_sub(1);
        self.room = room.ok_or(ChainError::Cycle { offset })?;
        let len = self.bytes.len();
        Capability::at(self.bytes, offset).ok_or(ChainError::Truncated { offset, len })
    }
}

/// One capability of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability<'a> {
    bytes: &'a [u8],
    /// Where it starts.
    pub(crate) offset: usize,
    pub(crate) id: u16,
    version: u16,
    next: usize,
}

impl<'a> Capability<'a> {
    fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
        Some(Self {
            bytes,
            offset,
            id: ne16(bytes, offset)?,
            version: ne16(bytes, offset.checked_add(2)?)?,
            next: position(ne32(bytes, offset.checked_add(4)?)?),
        })
    }

    /// The 32-bit number at an offset in the capability.
    pub(crate) fn u32_at(&self, within: usize) -> Result<u32, ChainError> {
        ne32(self.bytes, self.offset + within).ok_or(self.truncated())
    }

    /// `count` entries of `size` bytes each, from an offset in the capability on. The count is checked
    /// against the bytes before anything is reserved for it.
    pub(crate) fn entries(
        &self,
        within: usize,
        count: u32,
        size: usize,
    ) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, ChainError> {
        let count = usize::try_from(count).ok();
        let len = count.and_then(|count| count.checked_mul(size));
        let tail = self.bytes.get(self.offset + within..);
        let entries = tail.zip(len).and_then(|(tail, len)| tail.get(..len));
        Ok(entries.ok_or(self.truncated())?.chunks_exact(size))
    }

    /// Refuses a capability of an unknown version.
    pub(crate) fn check_version(&self) -> Result<(), ChainError> {
        if self.version == VERSION {
            return Ok(());
        }
        Err(ChainError::Version {
            offset: self.offset,
            id: self.id,
            version: self.version,
        })
    }

    fn truncated(&self) -> ChainError {
        ChainError::Truncated {
            offset: self.offset,
            len: self.bytes.len(),
        }
    }
}

/// What does not fit an address space is past the end of all bytes.
fn position(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
