// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rows of a map: plain data, which serializes as it is.

use memory_model::GuestAccess;
use serde::Serialize;

/// A region of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeRow {
    /// How deep it lies: 0 for a root.
    pub depth: usize,
    /// Its name.
    pub name: String,
    /// The word for its kind: [`Kind::word`](memory_model::Kind::word).
    pub kind: &'static str,
    /// Where it would start in the address space, if nothing hid it.
    #[serde(serialize_with = "hex")]
    pub start: u128,
    /// Where it would end; the last byte belongs to it.
    #[serde(serialize_with = "hex")]
    pub last: u128,
    /// Among overlapping siblings the highest wins.
    pub priority: i32,
    /// Whether the region is enabled.
    pub enabled: bool,
    /// Whether guest writes in it are dropped.
    pub readonly: bool,
    /// What an alias shows, that a ROM device's reads trap, or else the
    /// caller's note.
    pub note: String,
}

/// A run of the flat view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlatRow {
    /// The first address.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// The last address: it belongs to the run.
    #[serde(serialize_with = "hex")]
    pub last: u64,
    /// The name of the region that answers.
    pub region: String,
    /// Where in that region the run starts.
    #[serde(serialize_with = "hex")]
    pub offset: u64,
    /// The word for the region's kind: [`Kind::word`](memory_model::Kind::word).
    pub kind: &'static str,
    /// What the guest's loads and stores do.
    #[serde(serialize_with = "shown")]
    pub access: GuestAccess,
    /// Whether the host has an address for these bytes.
    pub host_mapped: bool,
    /// The number of the memslot that makes the run direct: the lowest, if
    /// there are several.
    pub slot: Option<u16>,
    /// The caller's note on the region.
    pub note: String,
}

/// A memslot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotRow {
    /// Its number.
    pub id: u16,
    /// The first guest-physical address.
    #[serde(serialize_with = "hex")]
    pub gpa: u64,
    /// How many bytes.
    #[serde(serialize_with = "hex")]
    pub size: u64,
    /// Flags by the names of the kernel's header, without their prefix.
    pub flags: Vec<&'static str>,
    /// The bytes behind it, with the addresses and descriptors of this run.
    /// Text and JSON show them.
    pub backing: String,
    /// The same in words that are the same in every run. Pictures show them.
    #[serde(skip)]
    pub behind: Vec<String>,
    /// Whether the host has an address for these bytes.
    #[serde(skip)]
    pub host_mapped: bool,
}

fn hex<T: std::fmt::LowerHex, S: serde::Serializer>(n: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{n:#x}"))
}

fn shown<T: std::fmt::Display, S: serde::Serializer>(it: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(it)
}
