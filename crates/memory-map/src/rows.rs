// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rows of a map: plain data that can be serialized.

use memory_model::GuestAccess;
use serde::Serialize;

/// A region of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeRow {
    /// The depth in the tree: 0 for a root.
    pub depth: usize,
    /// The region's name.
    pub name: String,
    /// The word for the region's kind:
    /// [`Kind::word`](memory_model::Kind::word).
    pub kind: &'static str,
    /// The first address in the address space, visible or not.
    #[serde(serialize_with = "hex")]
    pub start: u128,
    /// The last address, inclusive.
    #[serde(serialize_with = "hex")]
    pub last: u128,
    /// The priority. Among overlapping siblings the highest wins.
    pub priority: i32,
    /// The rank among the siblings: a region hides overlapping siblings of a
    /// higher rank. Pictures depend on it.
    #[serde(skip)]
    pub rank: usize,
    /// Whether the region is enabled.
    pub enabled: bool,
    /// Whether the region drops guest writes.
    pub readonly: bool,
    /// The target of an alias, the fact that a ROM device's reads trap, or else
    /// the caller's note.
    pub note: String,
}

/// A run of the flat view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlatRow {
    /// The first address.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// The last address, inclusive.
    #[serde(serialize_with = "hex")]
    pub last: u64,
    /// The name of the region that answers.
    pub region: String,
    /// The index of that region in [`Map::tree`](crate::Map::tree). Pictures
    /// depend on it, because several regions can have the same name.
    #[serde(skip)]
    pub tree_row: Option<usize>,
    /// The offset of the run in that region.
    #[serde(serialize_with = "hex")]
    pub offset: u64,
    /// The word for the region's kind: [`Kind::word`](memory_model::Kind::word).
    pub kind: &'static str,
    /// The effect of the guest's loads and stores.
    #[serde(serialize_with = "shown")]
    pub access: GuestAccess,
    /// Whether the host has an address for these bytes.
    pub host_mapped: bool,
    /// Whether pages of this memory can be private. The host has no address for a
    /// page while it is private.
    pub private_side: bool,
    /// The number of the memslot that makes the run direct. The lowest, if
    /// there are several.
    pub slot: Option<u16>,
    /// The caller's note on the region.
    pub note: String,
}

/// A memslot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotRow {
    /// The slot number.
    pub id: u16,
    /// The first guest-physical address.
    #[serde(serialize_with = "hex")]
    pub gpa: u64,
    /// The number of bytes.
    #[serde(serialize_with = "hex")]
    pub size: u64,
    /// The names of the flags in the kernel's header, without their prefix.
    pub flags: Vec<&'static str>,
    /// The memory behind the slot, with the addresses and descriptors of this
    /// run. Text and JSON contain it.
    pub backing: String,
    /// The memory behind the slot, in words that are the same in every run.
    /// Pictures contain it.
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
