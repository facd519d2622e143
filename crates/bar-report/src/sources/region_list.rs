// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What VFIO lets userspace map of a device, and who says so.

use vfio_private::Region;

use crate::report::note::{Note, Topic};
use crate::wording::Wording;

/// What VFIO says of one region.
#[derive(Clone, Debug)]
pub struct RegionFact {
    /// The region's number: that of a BAR if it is below 6.
    pub index: u32,
    /// Its number of bytes; 0 if there is no such region.
    pub size: u64,
    /// What userspace may map of it.
    pub region: Region,
}

/// Who said what VFIO lets userspace map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// No source: each memory BAR counts as mappable.
    Unknown,
    /// VFIO was asked but did not answer: each memory BAR counts as mappable.
    Refused(String),
    /// A list in a file.
    File,
    /// VFIO.
    Vfio,
}

/// What VFIO lets userspace map of a device, if that is known.
#[derive(Clone, Debug)]
pub struct RegionList {
    pub(crate) source: RegionSource,
    /// The file to blame; none if the list is from none.
    pub(crate) file: Option<String>,
    pub(crate) regions: Option<Vec<RegionFact>>,
}

impl RegionList {
    /// No list: each memory BAR counts as mappable, which a note says.
    pub const fn unknown() -> Self {
        Self {
            source: RegionSource::Unknown,
            file: None,
            regions: None,
        }
    }

    /// No list either, because VFIO did not say: `why` is in the note.
    pub fn refused(why: impl Into<String>) -> Self {
        Self {
            source: RegionSource::Refused(why.into()),
            file: None,
            regions: None,
        }
    }

    /// What VFIO itself says of each region.
    pub const fn of_vfio(regions: Vec<RegionFact>) -> Self {
        Self {
            source: RegionSource::Vfio,
            file: None,
            regions: Some(regions),
        }
    }
}

impl RegionSource {
    pub(crate) fn note(&self, wording: &Wording) -> Note {
        let taken = "each memory BAR is taken as mappable";
        let text = match self {
            Self::File => format!("what {} says", wording.regions),
            Self::Vfio => "what it says itself".to_string(),
            Self::Unknown => format!("not known ({}): {taken}", wording.no_regions),
            Self::Refused(why) => format!("not known ({why}): {taken}"),
        };
        Note::new(Topic::Regions, text)
    }
}
