// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dumps of region trees.

use std::fmt::Write;

use super::bomb::{Bomb, bad, each, fine};

/// What QEMU could have printed.
pub fn dumps() -> Vec<Bomb> {
    let line = |depth: usize, first: u64, last: u64, name: &str| {
        let indent = "  ".repeat(depth + 1);
        format!("{indent}{first:016x}-{last:016x} (prio 0, i/o): {name}\n")
    };
    let head = "address-space: memory\n".to_string();
    let all = line(0, 0, u64::MAX, "system");
    let aliases = |count: u64| {
        each(0..count, |n| {
            let shown = "@t 0000000000000000-000000000000ffff";
            line(1, n << 16, n << 16 | 0xffff, &format!("alias a{n} {shown}"))
        })
    };
    let target = |count: u64, more: &str| {
        let inside = each(0..count, |n| line(1, 2 * n, 2 * n, &format!("x{n}{more}")));
        "\nmemory-region: t\n".to_string() + &line(0, 0, 0xffff, "t") + &inside
    };
    let mut deep = head.clone();
    for depth in 0..400 {
        let _ = write!(deep, "{}", line(depth, 0, 4095, "c"));
    }
    let ats = format!(
        "alias {} 0000000000000000-000000000000ffff",
        " @t".repeat(600_000)
    );
    let long_names = head.clone() + &all + &aliases(2000) + &target(15, &"n".repeat(200_000));
    let many_splits = head.clone() + &line(0, 0, 0xffff, &ats) + &target(1, "");
    let quoted = |text: &str| {
        let lines = text.lines().map(|line| format!("> {line}\n"));
        lines.collect::<String>()
    };
    let overflow = head.clone() + "[DETECTED OVERFLOW!] " + &line(0, 0, 4095, &"n".repeat(4 << 20));
    let layers = each(0..16_000, |n| line(1, 0, u64::MAX, &format!("c{n}")));
    vec![
        bad("deep", deep, "130: more than 128 levels"),
        bad(
            "long name, multiplied, quoted",
            quoted(&long_names),
            "2006: 200055 bytes; expected at most 1000",
        ),
        bad(
            "long name, multiplied",
            long_names,
            "2006: 200055 bytes; expected at most 1000",
        ),
        bad(
            "long name behind a mark",
            overflow,
            "2: 4194376 bytes; expected at most 1000",
        ),
        bad(
            "ways to split two names, quoted",
            quoted(&many_splits),
            "2: 1800091 bytes; expected at most 1000",
        ),
        bad(
            "ways to split two names",
            many_splits,
            "2: 1800091 bytes; expected at most 1000",
        ),
        bad(
            "address spaces of one root",
            "address-space: \n".repeat(440_000) + &line(0, 0, 4095, &"n".repeat(900)),
            "16385: more than 16384 address spaces",
        ),
        bad(
            "aliases that multiply",
            head.clone() + &all + &aliases(2000) + &target(2000, ""),
            "2: through aliases, more than 524288 regions are seen",
        ),
        bad(
            "aliases that multiply names",
            head.clone() + &all + &aliases(100) + &target(2000, &"n".repeat(900)),
            "2: through aliases, more than 524288 regions are seen",
        ),
        fine(
            "as much as aliases may show",
            head.clone() + &all + &aliases(120) + &target(2000, &"n".repeat(50)),
        ),
        fine("layers", head + &all + &layers),
        fine(
            "spaces",
            each(0..16_000, |n| {
                format!("address-space: s{n}\n") + &line(0, 0, 4095, "r")
            }),
        ),
    ]
}
