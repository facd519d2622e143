// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The Enhanced Allocation capability: BARs with a fixed place and size, whose registers are zero
//! (PCI Express Base Specification, section 7.8.5).

use alloc::vec::Vec;
use core::fmt;

use super::{BarRegister, CAPABILITIES_END, Capability, ConfigError, ConfigSpace};
use crate::bar::{BarIndex, BarKind};
use crate::bytes::le32;

/// The capability ID of Enhanced Allocation.
const ID: u8 = 0x14;
/// The size of the capability's first register, which has the number of entries.
const HEADER: usize = 4;
/// The number of entries, in the third byte.
const COUNT: u8 = 0x3f;
/// The largest host page. Offsets in a BAR tell which bytes share a host page only if the BAR
/// starts at a multiple of the page size; ordinary BARs of a page or more always do.
const LARGEST_PAGE: u64 = 0x1_0000;

/// An entry of the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EaEntry {
    /// Where the entry starts, in bytes from the start of configuration space.
    pub offset: usize,
    /// What it allocates.
    pub resource: EaResource,
}

/// What an entry allocates, by its BAR equivalent indicator (BEI) and its properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EaResource {
    /// A BAR (BEI 0 to 5). Its size is always known.
    Bar(BarRegister),
    /// A BAR whose entry is disabled: the device does not decode it.
    Disabled(BarIndex),
    /// A resource that is unavailable for use (properties 0xfd to 0xff).
    Unavailable,
    /// A resource behind a bridge (BEI 6).
    BehindBridge,
    /// A resource that is equivalent to no BAR (BEI 7, and 15, which is reserved).
    NoEquivalent,
    /// The expansion ROM (BEI 8).
    Rom,
    /// A BAR of the device's virtual functions (BEI 9 to 14).
    VfBar(BarIndex),
}

/// For example `BAR 0 of virtual functions`.
impl fmt::Display for EaResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(bar) => write!(f, "{}", bar.index),
            Self::Disabled(bar) => write!(f, "{bar}, disabled"),
            Self::Unavailable => f.write_str("unavailable for use"),
            Self::BehindBridge => f.write_str("a resource behind a bridge"),
            Self::NoEquivalent => f.write_str("a resource without a BAR"),
            Self::Rom => f.write_str("the expansion ROM"),
            Self::VfBar(bar) => write!(f, "{bar} of virtual functions"),
        }
    }
}

/// The entries, in their own order; none without the capability.
pub(super) fn entries(config: ConfigSpace<'_>) -> Result<Vec<EaEntry>, ConfigError> {
    let chain = config.capabilities()?;
    let Some(found) = chain.iter().find(|capability| capability.id == ID) else {
        return Ok(Vec::new());
    };
    let offset = usize::from(found.offset);
    let [_, _, count, _] = config.capability_bytes(offset)?;
    let end = end(config, &chain, *found);
    let mut entries: Vec<EaEntry> = Vec::new();
    let mut at = offset + HEADER;
    for _ in 0..count & COUNT {
        let entry = Raw::read(config, at, end)?;
        let resource = entry.resource()?;
        if let Some(first) = entries
            .iter()
            .find(|other| same_bar(resource, other.resource))
        {
            return Err(ConfigError::EaTwice {
                offset: at,
                first: first.offset,
            });
        }
        if let Some(first) = entries
            .iter()
            .find(|other| overlap(resource, other.resource))
        {
            return Err(ConfigError::EaOverlap {
                offset: at,
                first: first.offset,
            });
        }
        entries.push(EaEntry {
            offset: at,
            resource,
        });
        at += entry.words.len();
    }
    Ok(entries)
}

/// Where the capability must end: at the next one, or with the bytes.
fn end(config: ConfigSpace<'_>, chain: &[Capability], ea: Capability) -> usize {
    let starts = chain.iter().map(|capability| capability.offset);
    let next = starts.filter(|&start| start > ea.offset).min();
    let len = config.bytes.len().min(CAPABILITIES_END);
    next.map_or(len, usize::from)
}

fn same_bar(one: EaResource, other: EaResource) -> bool {
    match (one, other) {
        (EaResource::Bar(one), EaResource::Bar(other)) => one.index == other.index,
        _ => false,
    }
}

/// Whether both are BARs, and at the same addresses of one kind.
fn overlap(one: EaResource, other: EaResource) -> bool {
    let (EaResource::Bar(one), EaResource::Bar(other)) = (one, other) else {
        return false;
    };
    let last = |bar: BarRegister| bar.address + (bar.size.unwrap_or(1) - 1);
    one.kind == other.kind && one.address <= last(other) && other.address <= last(one)
}

/// An entry as its bytes have it.
struct Raw<'a> {
    offset: usize,
    /// One register and up to 7 more.
    words: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The entry at `offset`, all of which must be below `end`.
    fn read(config: ConfigSpace<'a>, offset: usize, end: usize) -> Result<Self, ConfigError> {
        let space = config.bytes.get(..end).unwrap_or_default();
        let cut = ConfigError::EaCut { offset, end };
        let first = le32(space, offset).ok_or(cut)?;
        let more = usize::from(first.to_le_bytes()[0] & 7);
        let words = space.get(offset..offset + 4 * (1 + more)).ok_or(cut)?;
        Ok(Self { offset, words })
    }

    fn word(&self, n: usize) -> u32 {
        le32(self.words, 4 * n).unwrap_or_default()
    }

    fn resource(&self) -> Result<EaResource, ConfigError> {
        let [low, primary, secondary, _] = self.word(0).to_le_bytes();
        let bei = low >> 4;
        let is_enabled = self.word(0) >> 31 != 0;
        Ok(match (bei, BarIndex::new(bei)) {
            _ if primary == 0xff => EaResource::Unavailable,
            (_, Ok(bar)) if !is_enabled => EaResource::Disabled(bar),
            (_, Ok(bar)) => self.bar(bar, primary, secondary)?,
            (6, _) => EaResource::BehindBridge,
            (8, _) => EaResource::Rom,
            (9.., _) => match BarIndex::new(bei - 9) {
                Ok(bar) => EaResource::VfBar(bar),
                Err(_) => EaResource::NoEquivalent,
            },
            _ => EaResource::NoEquivalent,
        })
    }

    fn bar(&self, bar: BarIndex, primary: u8, secondary: u8) -> Result<EaResource, ConfigError> {
        let offset = self.offset;
        // A reserved primary value is for newer software; the secondary one is for older.
        let properties = match primary {
            0x08..0xfd => secondary,
            _ => primary,
        };
        let (kind, prefetchable) = match properties {
            0 => (BarKind::Memory, false),
            1 => (BarKind::Memory, true),
            2 => (BarKind::Io, false),
            0xfd | 0xfe => return Ok(EaResource::Unavailable),
            _ => {
                return Err(ConfigError::EaProperties {
                    offset,
                    bar,
                    primary,
                    secondary,
                });
            }
        };
        let (base, size, is_64bit) = self.extent(bar)?;
        if !size.is_power_of_two() {
            return Err(ConfigError::EaBarSize { offset, bar, size });
        }
        if kind == BarKind::Memory && base % size.min(LARGEST_PAGE) != 0 {
            return Err(ConfigError::EaUnaligned { offset, bar, base });
        }
        Ok(EaResource::Bar(BarRegister {
            index: bar,
            kind,
            is_64bit,
            prefetchable,
            address: base,
            size: Some(size),
        }))
    }

    /// Base, size, and whether either has 64 bits. Base and MaxOffset come first, then the upper
    /// halves of those that have one. The two low bits of an address are 0, those of an offset 1,
    /// whatever the registers have there.
    fn extent(&self, bar: BarIndex) -> Result<(u64, u64, bool), ConfigError> {
        let offset = self.offset;
        let [low_base, low_max] = [self.word(1), self.word(2)];
        let is_wide = |register: u32| register & 2 != 0;
        let upper = usize::from(is_wide(low_base)) + usize::from(is_wide(low_max));
        let (found, due) = (self.words.len() / 4 - 1, 2 + upper);
        if found != due {
            return Err(ConfigError::EaEntrySize {
                offset,
                bar,
                found,
                due,
            });
        }
        let base_high = if is_wide(low_base) { self.word(3) } else { 0 };
        let max_high = if is_wide(low_max) { self.word(due) } else { 0 };
        let base = u64::from(base_high) << 32 | u64::from(low_base & !3);
        let max = u64::from(max_high) << 32 | u64::from(low_max | 3);
        match (base.checked_add(max), max.checked_add(1)) {
            (Some(_), Some(size)) => Ok((base, size, upper > 0)),
            _ => Err(ConfigError::EaWraps {
                offset,
                bar,
                base,
                max,
            }),
        }
    }
}
