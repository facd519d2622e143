// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Refuses ranges that a VM cannot have slots for.

use super::cut;
use super::error::{PlanError, UnsupportedRange};
use super::pages::Attributes;
use crate::abi::AbiProfile;
use crate::range::SlotRange;
use crate::unsupported::{self, Unsupported};
use crate::vm::address_bits::AddressBits;
use crate::vm::caps::Capabilities;

impl Capabilities {
    /// Checks whether a VM with these capabilities can give the guest `range`
    /// without exits. The check ignores the range's address and the number of
    /// slots; planning checks those.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn check(&self, range: &SlotRange, abi: AbiProfile) -> Result<(), Unsupported> {
        // A range without a whole page needs no slot.
        let pages = cut::whole_pages(std::slice::from_ref(range), self.page_size);
        let mut ranges = pages.into_iter().flat_map(|pages| pages.ranges);
        ranges.try_for_each(|range| unsupported::check(&range, self, abi))
    }
}

/// Refuses the first range beyond the guest's physical addresses.
pub(super) fn reachable(
    ranges: &[SlotRange],
    capabilities: &Capabilities,
) -> Result<(), PlanError> {
    let Some(bits) = capabilities.address_bits.map(AddressBits::bits) else {
        return Ok(());
    };
    let beyond = |range: &&SlotRange| range.last().checked_shr(bits).is_some_and(|high| high != 0);
    match ranges.iter().find(beyond) {
        None => Ok(()),
        Some(range) => Err(PlanError::BeyondAddresses {
            gpa: range.gpa(),
            size: range.size(),
            bits,
        }),
    }
}

/// Refuses ranges and pages that the kernel does not support. The error lists
/// all of them.
pub(super) fn supported(
    ranges: &[SlotRange],
    attributes: &Attributes,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), PlanError> {
    let refused = ranges.iter().filter_map(|range| {
        let why = unsupported::check(range, capabilities, abi).err()?;
        Some(UnsupportedRange {
            gpa: range.gpa(),
            size: range.size(),
            why,
        })
    });
    let refused: Vec<_> = refused
        .chain(attributes.unsupported(capabilities))
        .collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(PlanError::Unsupported(refused)),
    }
}
