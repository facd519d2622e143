// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of BAR areas.

use std::path::Path;

use super::{NO_VALGRIND, NotCounted, count, line};

/// How often each thing is done.
const TIMES: u64 = 10_000;

/// What is done, its function, and its name in the table.
const ROWS: [(&str, &str, &str); 4] = [
    (
        "classify",
        "classify_bar",
        "`classify`, which returns a `Vec`",
    ),
    ("carve", "carve_areas", "`BarAreas::carve`"),
    ("find", "find_area", "`DeviceAreas::find`, 4 bytes anywhere"),
    (
        "move",
        "move_areas",
        "`DeviceAreas::moved`, and all four lists of the change",
    ),
];

/// Instructions of each.
pub fn table(program: &Path) -> Result<String, String> {
    let mut table = String::from(
        "A BAR with MSI-X and four sparse-mmap areas\n\n| what | instructions |\n| --- | ---: |\n",
    );
    for (what, function, name) in ROWS {
        eprintln!("xtask: counting instructions of {what}");
        let times = TIMES.to_string();
        // `run` carves once more, which adds a ten-thousandth.
        match count(program, function, &["areas", what, &times], TIMES) {
            Ok(instructions) => line(&mut table, &format!("| {name} | {instructions} |")),
            Err(NotCounted::NoValgrind) => return Ok(NO_VALGRIND.into()),
            Err(NotCounted::Failed(why)) => return Err(why),
        }
    }
    Ok(table)
}
