// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One function for each fuzz target: parsers of untrusted input from a device, a
//! kernel, a guest, or files, and scripts that are compared with oracles.
//!
//! Each takes any bytes, and panics if a result is not sound. It returns
//! whether the bytes were valid to their end. Fuzzers call the functions
//! (`cargo xtask fuzz`), and so do this crate's tests, on the seeds and on
//! pseudo-random bytes. So a broken target is found without a nightly
//! toolchain.
//!
//! Targets that interpret the bytes as a script use the oracles of the
//! libraries' own tests, from the package `support`.

mod bar_space;
mod bars;
mod conversions;
mod input;
mod machine;
mod model;
mod mtree;
mod page_sets;
mod slots;

pub use bar_space::{config_space, region_info, report};
pub use bars::{lspci, regions};
pub use conversions::conversions;
pub use machine::machine;
pub use model::model;
pub use mtree::mtree;
pub use page_sets::page_sets;
pub use slots::slots;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the fuzzer and of the folder with its seeds.
    pub name: &'static str,
    /// Reads any bytes, and returns whether they were valid to their end.
    /// Panics if a result is not sound.
    pub run: fn(&[u8]) -> bool,
}

/// All targets, by name.
pub const TARGETS: [Target; 11] = [
    target("config_space", config_space),
    target("conversions", conversions),
    target("lspci", lspci),
    target("machine", machine),
    target("model", model),
    target("mtree", mtree),
    target("page_sets", page_sets),
    target("region_info", region_info),
    target("regions", regions),
    target("report", report),
    target("slots", slots),
];

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}
