// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--regions`: what VFIO would say, as JSON.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use vfio_private::{Region, SparseArea};

use super::error::{BarsError, Fault, said};

/// What VFIO says of one region.
#[derive(Debug)]
pub(super) struct RegionFact {
    pub(super) index: u32,
    pub(super) size: u64,
    pub(super) region: Region,
}

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

/// A number of up to 64 bits. JSON's own are only good for 53 of them
/// everywhere, so that text in hexadecimal is taken as well.
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

/// Reads the file, of which errors call the name.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Vec<RegionFact>, BarsError> {
    let file = path.display().to_string();
    parse(bytes).map_err(|fault| fault.in_file(&file))
}

fn parse(bytes: &[u8]) -> Result<Vec<RegionFact>, Fault> {
    let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|error| {
        // It says the line itself, at the end.
        Fault::whole(said(&error.to_string()))
    })?;
    let mut regions: Vec<RegionFact> = Vec::with_capacity(entries.len());
    for entry in entries {
        let index = entry.index;
        // Beyond the BARs are the ROM, configuration space and the device's own regions.
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
        Self {
            index: entry.index,
            size: entry.size.0,
            region: Region {
                mmap: entry.flags.contains(&Flag::Mmap),
                sparse: entry
                    .sparse
                    .map(|areas| areas.into_iter().map(area).collect()),
                msix_mappable: entry.msix_mappable,
            },
        }
    }
}
