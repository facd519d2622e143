// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets the names of inputs and choices in messages.

use vfio_private::OffsetRule;

/// The names of inputs and choices in errors and notes.
///
/// By default the names are those of this crate. A program whose users know the inputs by other
/// names, such as command-line options, passes its own names to
/// [`Reader::with_wording`](crate::Reader::with_wording). The description of each field shows its
/// place in a sentence.
///
/// ```
/// use bar_report::{Reader, RegionList, Wording};
///
/// let wording = Wording { no_regions: "--regions", ..Wording::default() };
/// let text = "\tStatus: Cap- 66MHz-\n\tRegion 0: Memory at f0000000 (32-bit, prefetchable) [size=64M]\n\n";
/// let device = Reader::with_wording(wording).lspci("host.txt", text, None)?;
/// let bars = device.bars(&RegionList::unknown())?;
/// assert_eq!(
///     bars.notes().next().map(|note| note.text.as_str()),
///     Some("not known (--regions): each memory BAR is taken as mappable"),
/// );
/// # Ok::<(), bar_report::BarReportError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wording {
    /// "… does not list it": a [`RegionList`](crate::RegionList).
    pub regions: &'static str,
    /// "give …": a missing [`RegionList`](crate::RegionList).
    pub give_regions: &'static str,
    /// "not known (…)": the reason why there is no [`RegionList`](crate::RegionList).
    pub no_regions: &'static str,
    /// "give the bytes of configuration space…": how to pass them. Empty, or begins with a space.
    pub as_device: &'static str,
    /// "… what `lspci -vv` prints": the input that describes a device.
    pub device_takes: &'static str,
    /// "…: nothing is private": the absence of a [`TdispReport`](crate::TdispReport).
    pub no_report: &'static str,
    /// "the report fits by …": [`OffsetRule::Relative`].
    pub relative: &'static str,
    /// "the report fits by …": [`OffsetRule::Masked`].
    pub masked: &'static str,
    /// "… leaves it to the guest": [`TeeMsixPolicy::Private`](vfio_private::TeeMsixPolicy::Private).
    pub private_msix: &'static str,
}

impl Default for Wording {
    fn default() -> Self {
        Self {
            regions: "the list of regions",
            give_regions: "a list of regions",
            no_regions: "no list of regions",
            as_device: "",
            device_takes: "expected",
            no_report: "no report",
            relative: "OffsetRule::Relative",
            masked: "OffsetRule::Masked",
            private_msix: "TeeMsixPolicy::Private",
        }
    }
}

impl Wording {
    pub(crate) const fn rule(&self, rule: OffsetRule) -> &'static str {
        match rule {
            OffsetRule::Relative => self.relative,
            OffsetRule::Masked => self.masked,
        }
    }
}
