// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parts of an access that came to the VMM, each with who answers it.

use core::iter::FusedIterator;

use guest_ranges::{AddrRange, HostMemory};

use crate::access::responder::Responder;
use crate::view::FlatView;

/// Whether the guest loads or stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessDirection {
    /// The guest loads.
    Read,
    /// The guest stores.
    Write,
}

/// The parts of an access, by address: an iterator that
/// [`FlatView::access_parts`] returns.
#[derive(Debug)]
pub struct AccessParts<'a, H> {
    view: &'a FlatView<H>,
    address: u64,
    left: usize,
    direction: AccessDirection,
}

/// The bytes of an access that one run answers, or that lie in one hole.
#[derive(Debug)]
#[non_exhaustive]
pub struct AccessPart<'a, H> {
    /// The address of the first byte.
    pub address: u64,
    /// How many bytes: at least 1. They do not pass 2^64.
    pub size: usize,
    /// Who answers.
    pub responder: Responder<'a, H>,
}

impl<H> FlatView<H> {
    /// Who answers an access of `size` bytes at `address` that came to the VMM,
    /// such as an MMIO exit of a vCPU.
    ///
    /// An access that spans several runs or holes has a part for each. One that
    /// passes 2^64 continues at address 0. If carrying out a part changes the
    /// view, look the rest up in the new view.
    ///
    /// ```
    /// use memory_model::{AccessDirection, MemoryModel, Region, Responder};
    ///
    /// let mut model: MemoryModel = MemoryModel::new();
    /// let mut t = model.transaction();
    /// let memory = t.add(Region::container("memory", 1 << 64))?;
    /// let uart = t.add(Region::mmio("uart", 0x100))?;
    /// t.place(uart, memory, 0x1000, 0)?;
    /// t.commit()?;
    /// let space = model.add_space("memory", memory)?;
    ///
    /// // A load of 8 bytes: the last 4 of the device, and nothing behind it.
    /// let mut data = [0xff; 8];
    /// let mut rest = &mut data[..];
    /// let view = model.view(space);
    /// for part in view.access_parts(0x10fc, 8, AccessDirection::Read) {
    ///     let (bytes, behind) = rest.split_at_mut(part.size);
    ///     rest = behind;
    ///     match part.responder {
    ///         // In a VMM: the device behind the region's handle.
    ///         Responder::Device { run, offset } => {
    ///             assert_eq!((run.id(), offset), (uart, 0xfc));
    ///             bytes.fill(1);
    ///         }
    ///         Responder::Memory { .. } => unreachable!("there is no memory"),
    ///         // Loads that no one answers give all ones.
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(data, [1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn access_parts(
        &self,
        address: u64,
        size: usize,
        direction: AccessDirection,
    ) -> AccessParts<'_, H> {
        AccessParts {
            view: self,
            address,
            left: size,
            direction,
        }
    }
}

impl<'a, H> Iterator for AccessParts<'a, H> {
    type Item = AccessPart<'a, H>;

    #[inline]
    fn next(&mut self) -> Option<AccessPart<'a, H>> {
        let most = self.left.checked_sub(1)?;
        let address = self.address;
        let run = self.view.find(address);
        let last = match run {
            Some(run) => run.range().last(),
            None => self.hole_end(most as u64),
        };
        // The part has `most` more bytes than one, or fewer if the run ends before.
        let more = usize::try_from(last - address).map_or(most, |more| more.min(most));
        let size = more + 1;
        self.address = address.wrapping_add(size as u64);
        self.left -= size;
        Some(AccessPart {
            address,
            size,
            responder: Responder::of(run, address, self.direction),
        })
    }
}

impl<H> FusedIterator for AccessParts<'_, H> {}

impl<H> AccessParts<'_, H> {
    /// The last address without a run, of those from here up to `most` bytes on.
    fn hole_end(&self, most: u64) -> u64 {
        let last = self.address.saturating_add(most);
        let range = AddrRange::from_bounds(self.address, last);
        let next = range.and_then(|range| self.view.intersecting(range).next());
        // It is not at the address itself, so something lies before it.
        next.map_or(last, |run| run.range().start() - 1)
    }
}

impl<H> Clone for AccessParts<'_, H> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<H> AccessPart<'_, H> {
    /// For [`Responder::Memory`]: where exactly these bytes are in the host.
    pub fn host(&self) -> Option<HostMemory> {
        let Responder::Memory { run, .. } = self.responder else {
            return None;
        };
        let range = AddrRange::new(self.address, self.size as u128)?;
        run.backing_of(range)?.host().cloned()
    }
}

impl<H> Clone for AccessPart<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H> Copy for AccessPart<'_, H> {}
