// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decides whether a guest validates what the VMM offers.

use std::collections::BTreeMap;

use super::PushedRange;
use super::request::ValidateRequest;

/// A range of a device that the guest may validate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The device, by the number that the VMM gave it.
    pub vdev_id: u64,
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes, not zero.
    pub size: u64,
    /// The physical address of the first byte, if the VMM knows it. If not, the first
    /// accepted request determines it. The platform checks that it is the device's.
    pub pa: Option<u64>,
}

impl Offer {
    /// An offer of a pushed range. Its physical address is unknown.
    pub fn of(range: &PushedRange, vdev_id: u64) -> Self {
        Self {
            vdev_id,
            gpa: range.gpa,
            size: range.size,
            pa: None,
        }
    }

    /// The guest-physical address after the last one. Only for valid offers.
    fn end(&self) -> u64 {
        self.gpa + self.size
    }

    fn is_valid(&self) -> bool {
        let ends = |start: u64| start.checked_add(self.size).is_some();
        self.size > 0 && ends(self.gpa) && self.pa.is_none_or(ends)
    }
}

/// The reason why a range cannot be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// The range is empty, or its addresses wrap around.
    #[error("the range is empty or wraps around")]
    Impossible,
    /// The range overlaps an offered range.
    #[error("the range overlaps the offer at {0:#x}")]
    Overlaps(u64),
}

/// The reason why a request is not what the VMM offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// Nothing is offered at the first address.
    #[error("nothing is offered at {0:#x}")]
    NotOffered(u64),
    /// The request goes beyond the offered range. Adjacent ranges are validated one
    /// by one.
    #[error("the offered range ends at {0:#x}")]
    Beyond(u64),
    /// The range is another device's.
    #[error("the range belongs to device {0:#x}")]
    OtherDevice(u64),
    /// The VMM has withdrawn the range and waits for its release.
    #[error("the range is being released")]
    Withdrawn,
    /// The physical addresses of the range would not fit into 64 bits.
    #[error("the range cannot be at that physical address")]
    ImpossibleAddress,
    /// The physical address differs from that of an accepted part of the range, or
    /// from the one that the VMM knows.
    #[error("the physical address there is {0:#x}")]
    OtherAddress(u64),
}

/// The ranges that a VMM offers, by guest-physical address. A pure decision: no call
/// of the platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    offers: BTreeMap<u64, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offer: Offer,
    withdrawn: bool,
}

impl Offers {
    /// No offers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a range.
    ///
    /// # Errors
    /// [`OfferError`]. Nothing has changed. A withdrawn range still occupies its
    /// addresses.
    pub fn offer(&mut self, offer: Offer) -> Result<(), OfferError> {
        if !offer.is_valid() {
            return Err(OfferError::Impossible);
        }
        let below = self.offers.range(..offer.end()).next_back();
        let overlapping = below.filter(|(_, entry)| offer.gpa < entry.offer.end());
        if let Some((&gpa, _)) = overlapping {
            return Err(OfferError::Overlaps(gpa));
        }
        let withdrawn = false;
        self.offers.insert(offer.gpa, Entry { offer, withdrawn });
        Ok(())
    }

    /// Rejects new requests for the range at `gpa`, so that its release can complete.
    /// `false` if no offer starts there.
    pub fn withdraw(&mut self, gpa: u64) -> bool {
        self.set_withdrawn(gpa, true)
    }

    /// Offers a withdrawn range again, for a VMM that does not release it after all.
    /// `false` if no offer starts there.
    pub fn reinstate(&mut self, gpa: u64) -> bool {
        self.set_withdrawn(gpa, false)
    }

    fn set_withdrawn(&mut self, gpa: u64, withdrawn: bool) -> bool {
        let entry = self.offers.get_mut(&gpa);
        entry.map(|entry| entry.withdrawn = withdrawn).is_some()
    }

    /// Removes the offer that starts at `gpa`, after
    /// [`Released::Done`](super::Released::Done).
    pub fn remove(&mut self, gpa: u64) -> Option<Offer> {
        self.offers.remove(&gpa).map(|entry| entry.offer)
    }

    /// All offers, with the physical addresses known so far.
    pub fn iter(&self) -> impl Iterator<Item = &Offer> {
        self.offers.values().map(|entry| &entry.offer)
    }

    /// Decides whether the VMM offers exactly this mapping. Repetitions are accepted:
    /// the guest may have released the addresses since.
    ///
    /// # Errors
    /// The first reason that applies, in the order of [`Rejected`].
    pub fn check(&self, request: &ValidateRequest) -> Result<(), Rejected> {
        self.find(request).map(|_| ())
    }

    /// Records an accepted request. Later requests for the range must have consistent
    /// physical addresses. Call it after the platform has mapped the pages.
    ///
    /// # Errors
    /// As for [`check`](Self::check). Nothing has changed.
    pub fn accept(&mut self, request: &ValidateRequest) -> Result<(), Rejected> {
        let (gpa, pa) = self.find(request)?;
        if let Some(entry) = self.offers.get_mut(&gpa) {
            entry.offer.pa = Some(pa);
        }
        Ok(())
    }

    /// The guest-physical address of the matching offer, and the physical address of
    /// its first byte.
    fn find(&self, request: &ValidateRequest) -> Result<(u64, u64), Rejected> {
        let below = self.offers.range(..=request.gpa()).next_back();
        let entry = below.map(|(_, entry)| entry);
        let Some(Entry { offer, withdrawn }) = entry.filter(|e| request.gpa() < e.offer.end())
        else {
            return Err(Rejected::NotOffered(request.gpa()));
        };
        if offer.end() < request.end() {
            return Err(Rejected::Beyond(offer.end()));
        }
        if offer.vdev_id != request.vdev_id() {
            return Err(Rejected::OtherDevice(offer.vdev_id));
        }
        if *withdrawn {
            return Err(Rejected::Withdrawn);
        }
        let inside = request.gpa() - offer.gpa;
        let first = request.pa().checked_sub(inside);
        let first = first.filter(|first| first.checked_add(offer.size).is_some());
        let first = first.ok_or(Rejected::ImpossibleAddress)?;
        match offer.pa {
            Some(known) if known != first => Err(Rejected::OtherAddress(known + inside)),
            _ => Ok((offer.gpa, first)),
        }
    }
}
