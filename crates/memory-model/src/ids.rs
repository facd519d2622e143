// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ids of models, regions and address spaces.
//!
//! # Why an id is never reused
//!
//! A caller that keeps the id of a removed region or space could otherwise reach
//! another one. Region ids and space ids both contain the model's id, so an id of
//! another model does not match either. A lookup compares the id anyway, so finding an
//! invalid one costs nothing.

use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering};

/// The id of a model, which is part of the ids of its regions and spaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelId(pub(crate) u16);

impl ModelId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The id of a region of one [`MemoryModel`](crate::MemoryModel).
///
/// An id is never reused. Once its region is removed, every use of the id is an
/// error. So is its use with another model, unless 65 535 models were created between
/// the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId {
    pub(crate) index: u32,
    /// The model's id, and the number of earlier regions with this index.
    pub(crate) generation: u32,
}

impl RegionId {
    /// The number of low bits that count the regions with the same index.
    pub(crate) const GENERATION_BITS: u32 = 16;
    /// Those bits.
    pub(crate) const GENERATIONS: u32 = (1 << Self::GENERATION_BITS) - 1;
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation & Self::GENERATIONS;
        write!(f, "region {}.{generation}", self.index)
    }
}

/// The id of an address space of one [`MemoryModel`](crate::MemoryModel). Earlier
/// spaces have lower ids.
///
/// An id is never reused, and is invalid once its space is removed. It is also
/// invalid in another model, unless 65 535 models were created between the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(u64);

impl fmt::Debug for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space {}", self.0 & SpaceIds::NUMBERS)
    }
}

/// The generator of a model's space ids.
#[derive(Debug)]
pub(crate) struct SpaceIds(u64);

impl SpaceIds {
    /// The bits that number the space. Those above identify the model.
    const NUMBERS: u64 = (1 << 48) - 1;

    pub(crate) fn of(model: ModelId) -> Self {
        Self(u64::from(model.0) << 48)
    }

    pub(crate) fn next(&mut self) -> SpaceId {
        let id = SpaceId(self.0);
        // 2^48 spaces cannot be added one by one.
        self.0 = self.0.wrapping_add(1);
        id
    }
}
