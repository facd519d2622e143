// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The size of this process's page tables.

use std::fs;

use super::at;

const STATUS: &str = "/proc/self/status";

/// The bytes of this process's page tables.
///
/// # Errors
/// The kernel does not report them.
pub(super) fn page_tables() -> Result<u64, String> {
    let status = fs::read_to_string(STATUS).map_err(at(STATUS))?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    let number = field.and_then(|field| field.trim().strip_suffix("kB"));
    let number = number.and_then(|number| number.trim().parse::<u64>().ok());
    let kib = number.ok_or_else(|| format!("{STATUS} has no VmPTE"))?;
    Ok(kib << 10)
}
