// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One function for each thing that reads bytes from outside: from a device,
//! from a kernel, from a guest, from files.
//!
//! Each takes any bytes, and panics if an answer is not sound. Whether the bytes
//! made enough sense to be followed to their end is what it returns. Fuzzers call
//! them (`cargo xtask fuzz`), and so do this crate's tests, on the seeds and on
//! pseudo-random bytes, so that no nightly toolchain is needed to find out
//! whether a target still holds.
//!
//! Where bytes are a script, the oracles are those of the libraries' own tests,
//! from the package `support`.

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

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the fuzzer, and of the folder with its seeds.
    pub name: &'static str,
    /// Reads any bytes, and says whether they made enough sense to be followed to
    /// their end; panics if what comes out is not sound.
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
