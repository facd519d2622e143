// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges and sets as data (`serde`). Data that would break a type's rules is refused.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::addr_range::AddrRange;
use crate::page_range::{PAGE_SIZE, PageRange};
use crate::page_set::PageSet;

/// A range as data: both ends are included.
#[derive(Serialize, Deserialize)]
#[serde(rename = "AddrRange", deny_unknown_fields)]
struct Bounds {
    start: u64,
    last: u64,
}

impl Serialize for AddrRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (start, last) = (self.start(), self.last());
        Bounds { start, last }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AddrRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bounds { start, last } = Bounds::deserialize(deserializer)?;
        let range = Self::from_bounds(start, last);
        range.ok_or_else(|| {
            de::Error::custom(format_args!("a range from {start:#x} back to {last:#x}"))
        })
    }
}

/// Whole pages as data.
#[derive(Serialize, Deserialize)]
#[serde(rename = "PageRange", deny_unknown_fields)]
struct Pages {
    gpa: u64,
    size: u64,
}

impl Serialize for PageRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (gpa, size) = (self.start(), self.size());
        Pages { gpa, size }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PageRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Pages { gpa, size } = Pages::deserialize(deserializer)?;
        Self::new(gpa, size).map_err(de::Error::custom)
    }
}

/// As its ranges, by address.
impl Serialize for PageSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().collect::<Vec<_>>())
    }
}

/// From ranges of whole pages, by address, of which no two overlap.
impl<'de> Deserialize<'de> for PageSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Ranges)
    }
}

struct Ranges;

impl<'de> de::Visitor<'de> for Ranges {
    type Value = PageSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ranges of whole pages, by address")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> Result<PageSet, A::Error> {
        let mut set = PageSet::new();
        let mut after: Option<u64> = None;
        while let Some(range) = all.next_element::<AddrRange>()? {
            let whole = range.start() % PAGE_SIZE == 0 && range.last() % PAGE_SIZE == PAGE_SIZE - 1;
            if !whole {
                let what = format!("{range} does not consist of whole pages");
                return Err(de::Error::custom(what));
            }
            if after.is_some_and(|last| range.start() <= last) {
                let what = format!("{range} does not follow the range before it");
                return Err(de::Error::custom(what));
            }
            after = Some(range.last());
            set.insert(range);
        }
        Ok(set)
    }
}
