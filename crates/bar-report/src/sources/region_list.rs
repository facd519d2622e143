// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The regions of a device that VFIO lets userspace map, and the source of that
//! list.

use vfio_private::Region;

use crate::report::note::{Note, Topic};
use crate::wording::Wording;

/// VFIO's description of one region.
#[derive(Clone, Debug)]
pub struct RegionFact {
    /// The region's number. Numbers below 6 are those of BARs.
    pub index: u32,
    /// The number of bytes; 0 if the region does not exist.
    pub size: u64,
    /// The areas that userspace may map.
    pub region: Region,
}

/// The source of a list of regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// No source: each memory BAR counts as mappable.
    Unknown,
    /// VFIO was queried but did not answer: each memory BAR counts as mappable.
    Refused(String),
    /// A list in a file.
    File,
    /// VFIO.
    Vfio,
}

/// The regions of a device that VFIO lets userspace map, if they are known.
#[derive(Clone, Debug)]
pub struct RegionList {
    pub(crate) source: RegionSource,
    /// The file that errors name; none if the list is not from a file.
    pub(crate) file: Option<String>,
    pub(crate) regions: Option<Vec<RegionFact>>,
}

impl RegionList {
    /// Creates an unknown list: each memory BAR counts as mappable, and a note
    /// states this.
    pub const fn unknown() -> Self {
        Self {
            source: RegionSource::Unknown,
            file: None,
            regions: None,
        }
    }

    /// Creates an unknown list because VFIO did not answer. The note contains
    /// `why`.
    pub fn refused(why: impl Into<String>) -> Self {
        Self {
            source: RegionSource::Refused(why.into()),
            file: None,
            regions: None,
        }
    }

    /// Creates a list from VFIO's description of each region.
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
