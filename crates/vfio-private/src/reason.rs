// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a piece is what it is.

use core::fmt;
use core::ops::BitOr;

/// One reason for the access of a piece. `Display` says it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Reason {
    /// Shared: there is no TDISP report, so nothing is private.
    NoReport,
    /// Private: a TEE range of the report.
    ReportedTee,
    /// Private: a TEE range that the report marks to hold an MSI-X structure, and the policy is to
    /// leave those to the guest. Always beside [`ReportedTee`](Self::ReportedTee).
    MsixLeftToGuest,
    /// Shared: a NON_TEE range of the report.
    ReportedNonTee,
    /// Blocked, or trapped in a host page of the MSI-X structures: no range of the report has it.
    Unreported,
    /// Trapped: a host page with at least one byte of the MSI-X table. The VMM must see writes to
    /// the table, since the vectors in it are the host's.
    MsixTable,
    /// Trapped: a host page with at least one byte of the MSI-X pending bit array.
    MsixPba,
    /// Trapped: VFIO refuses to map the host pages of the MSI-X table, as its region lacks the
    /// MSI-X-mappable capability. Beside [`MsixTable`](Self::MsixTable), which traps these pages even
    /// where VFIO would map them, unless the policy is to relocate the table.
    MsixNotMappable,
    /// Trapped: the region lacks VFIO's mmap flag.
    RegionNotMappable,
    /// Trapped: VFIO's sparse-mmap areas together do not hold the whole host page.
    OutsideSparseAreas,
    /// Trapped: NON_TEE bytes in a host page that also has unreported ones. Mapping the page would
    /// let the guest reach those too.
    PageHasUnreported,
    /// Trapped: the BAR is smaller than a host page and the policy is to trap it.
    SubPageBar,
    /// Shared: the BAR is smaller than a host page and the policy is to expand it.
    ExpandedBar,
    /// Trapped: I/O ports have no pages to map.
    IoBar,
    /// Trapped: behind the end of the device's BAR, where the VMM emulates the MSI-X structures. Only
    /// in [`BarAreas::enlarged`](crate::areas::BarAreas::enlarged).
    EmulatedMsix,
}

impl Reason {
    /// All reasons, in the order in which [`Reasons`] lists them.
    const ALL: [Self; 15] = [
        Self::NoReport,
        Self::ReportedTee,
        Self::MsixLeftToGuest,
        Self::ReportedNonTee,
        Self::Unreported,
        Self::MsixTable,
        Self::MsixPba,
        Self::MsixNotMappable,
        Self::RegionNotMappable,
        Self::OutsideSparseAreas,
        Self::PageHasUnreported,
        Self::SubPageBar,
        Self::ExpandedBar,
        Self::IoBar,
        Self::EmulatedMsix,
    ];

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoReport => "no TDISP report makes it private",
            Self::ReportedTee => "TDISP report lists it as TEE memory",
            Self::MsixLeftToGuest => "holds MSI-X structures, which are left to the guest",
            Self::ReportedNonTee => "TDISP report lists it as non-TEE memory",
            Self::Unreported => "TDISP report does not list it",
            Self::MsixTable => "host page holds the MSI-X table",
            Self::MsixPba => "host page holds the MSI-X pending bit array (PBA)",
            Self::MsixNotMappable => "VFIO refuses to map the MSI-X table's host page",
            Self::RegionNotMappable => "VFIO does not offer to map the BAR",
            Self::OutsideSparseAreas => "host page is not all inside areas VFIO offers to map",
            Self::PageHasUnreported => "host page also holds bytes the TDISP report does not list",
            Self::SubPageBar => "BAR is smaller than a host page",
            Self::ExpandedBar => "BAR is smaller than a host page and is expanded to one",
            Self::IoBar => "I/O ports cannot be mapped",
            Self::EmulatedMsix => "VMM emulates the relocated MSI-X structures behind the BAR",
        })
    }
}

/// The reasons for the access of a piece: a set, at least one in every piece.
///
/// ```
/// use vfio_private::{Reason, Reasons};
///
/// let reasons = Reasons::from(Reason::MsixPba) | Reason::MsixTable.into();
/// assert!(reasons.contains(Reason::MsixTable));
/// assert!(reasons.iter().eq([Reason::MsixTable, Reason::MsixPba]));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Reasons(u16);

impl Reasons {
    /// No reason.
    pub(crate) const NONE: Self = Self(0);

    /// Whether `reason` is in the set.
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Whether the set has no reason; never so in a [`Piece`](crate::Piece).
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The reasons in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::ALL
            .into_iter()
            .filter(move |&reason| self.contains(reason))
    }

    /// `reason` alone if `holds`, else nothing.
    pub(crate) fn when(holds: bool, reason: Reason) -> Self {
        if holds {
            reason.into()
        } else {
            Self::default()
        }
    }
}

impl From<Reason> for Reasons {
    fn from(reason: Reason) -> Self {
        Self(reason.bit())
    }
}

impl BitOr for Reasons {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The names of the reasons rather than the bits that stand for them.
impl fmt::Debug for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The reasons in words, separated by `; `.
impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, reason) in self.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_list_at_its_own_place() {
        for (n, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason as u8), n);
        }
        // The last variant: adding one behind it must make the list longer.
        assert_eq!(
            usize::from(Reason::EmulatedMsix as u8) + 1,
            Reason::ALL.len()
        );
    }

    #[test]
    fn reasons_read_as_a_list() {
        let reasons = Reasons::from(Reason::MsixPba) | Reason::MsixTable.into();
        assert_eq!(format!("{reasons:?}"), "{MsixTable, MsixPba}");
        let words = "host page holds the MSI-X table; \
                     host page holds the MSI-X pending bit array (PBA)";
        assert_eq!(reasons.to_string(), words);
    }
}
