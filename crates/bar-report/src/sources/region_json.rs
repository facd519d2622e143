// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses a list of VFIO's regions from JSON.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use vfio_private::{Region, SparseArea};

use crate::error::{BarReportError, Fault};
use crate::quote::quoted_message;
use crate::sources::file;
use crate::sources::region_list::{RegionFact, RegionList, RegionSource};

/// One entry of the file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    index: u32,
    size: Number,
    flags: Vec<Flag>,
    #[serde(default)]
    msix_mappable: bool,
    sparse: Option<Vec<Area>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    offset: Number,
    size: Number,
}

#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flag {
    Read,
    Write,
    Mmap,
    Caps,
}

/// A number of up to 64 bits. Not all JSON parsers handle more than 53 bits, so a string in
/// hexadecimal is also accepted.
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as \"0x4000\" or 16384")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                let (digits, radix) = match text.strip_prefix("0x") {
                    Some(digits) => (digits, 16),
                    None => (text, 10),
                };
                let number = match digits.starts_with('+') {
                    true => None,
                    false => u64::from_str_radix(digits, radix).ok(),
                };
                number
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

impl RegionList {
    /// Parses a list in JSON. Errors call it `name`:
    ///
    /// ```
    /// # use bar_report::RegionList;
    /// let json = br#"[{"index": 0, "size": "0x4000", "flags": ["read", "write", "mmap"],
    ///     "msix_mappable": true, "sparse": [{"offset": "0x0", "size": "0x2000"}]}]"#;
    /// assert!(RegionList::parse("regions.json", json).is_ok());
    /// ```
    ///
    /// # Errors
    /// [`BarReportError::File`] if the list is invalid.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, BarReportError> {
        let regions = parse(bytes).map_err(|fault| fault.in_file(name))?;
        Ok(Self {
            source: RegionSource::File,
            file: Some(name.to_string()),
            regions: Some(regions),
        })
    }

    /// Reads a file of up to 1 MiB.
    ///
    /// # Errors
    /// The errors of [`RegionList::parse`]; also if the file cannot be read or is larger.
    pub fn read(path: &Path) -> Result<Self, BarReportError> {
        let bytes = file::whole(path, file::MAX_LIST)?;
        Self::parse(&path.display().to_string(), &bytes)
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<RegionFact>, Fault> {
    let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|error| {
        // The message of the JSON parser ends with the line.
        Fault::whole(quoted_message(&error.to_string()))
    })?;
    let mut regions: Vec<RegionFact> = Vec::with_capacity(entries.len());
    for entry in entries {
        let index = entry.index;
        // Regions after the BARs are the ROM, configuration space and the device's own regions.
        let is_bar = index < u32::from(vfio_private::BarIndex::COUNT);
        if is_bar && regions.iter().any(|region| region.index == index) {
            return Err(Fault::whole(format!("region {index} is there twice")));
        }
        if is_bar {
            regions.push(entry.into());
        }
    }
    Ok(regions)
}

impl From<Entry> for RegionFact {
    fn from(entry: Entry) -> Self {
        let area = |area: Area| SparseArea {
            offset: area.offset.0,
            size: area.size.0,
        };
        let mut region = Region::default();
        region.mmap = entry.flags.contains(&Flag::Mmap);
        region.sparse = entry
            .sparse
            .map(|areas| areas.into_iter().map(area).collect());
        region.msix_mappable = entry.msix_mappable;
        Self {
            index: entry.index,
            size: entry.size.0,
            region,
        }
    }
}
