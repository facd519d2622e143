// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Machine files that are within all limits.

use super::bomb::{Bomb, each, fine, region, step};

/// A container that holds 19 990 regions and moves back and forth, endlessly.
pub fn endless_moves() -> String {
    let to = |to| step(&format!("do = \"move\"; region = \"box\"; to = \"{to}\""));
    region("box", "kind = \"container\"; at = 0; size = \"1T\"")
        + &region(
            "r{}",
            "kind = \"ram\"; in = \"box\"; at = 0; size = \"4K\"; repeat = { count = 19990, stride = \"8K\" }",
        )
        + &(to("1T") + &to("0")).repeat(20_000)
}

/// Scripts that do much.
pub fn scripts() -> Vec<Bomb> {
    let private = region(
        "r",
        "kind = \"ram\"; backing = \"private\"; at = 0; size = \"1T\"",
    );
    let convert = |state: &str| {
        step(&format!(
            "do = \"convert\"; at = 0; size = \"400M\"; state = \"{state}\""
        ))
    };
    vec![
        fine("endless moves", endless_moves()),
        fine(
            "100 000 steps",
            region(
                &"n".repeat(255),
                "kind = \"mmio\"; device = \"counter\"; at = 0; size = \"4K\"",
            ) + &step(
                "do = \"read\"; at = 0; expect = 5; how = \"mmio\"; repeat = { count = 50000 }",
            )
            .repeat(2),
        ),
        fine(
            "1 000 000 tries",
            region(
                "r",
                "kind = \"mmio\"; device = \"registers\"; at = 0; size = \"4K\"",
            ) + &step(
                "do = \"read\"; at = 0; expect = 5; how = \"mmio\"; tries = 65535; repeat = { count = 15 }",
            ),
        ),
        fine(
            "as many pages as may be touched",
            region("r", "kind = \"ram\"; at = 0; size = \"1T\"")
                + &step(
                    "do = \"write\"; at = 0; value = 1; how = \"direct\"; repeat = { count = 50000, stride = \"16M\" }",
                ),
        ),
        fine(
            "scattered conversions",
            private
                + &step(
                    "do = \"convert\"; at = 0; size = \"4K\"; state = \"private\"; repeat = { count = 50000, stride = \"8K\" }",
                )
                + &(convert("private") + &convert("shared")).repeat(80),
        ),
    ]
}

/// Files with the largest number of regions that is allowed.
pub fn as_large_as_may_be() -> Vec<Bomb> {
    let nested = |n: u64| {
        let size = (2 * 9990 - 2 * n) * 4096;
        region(
            &format!("o{n}"),
            &format!(
                "kind = \"mmio\"; device = \"counter\"; at = {}; size = {size}; priority = {n}",
                n * 4096
            ),
        )
    };
    let name = "n".repeat(240) + "{}";
    vec![
        fine("overlaps, one in the other", each(0..9990, nested)),
        fine(
            "all in one place",
            region(
                "r{}",
                "kind = \"mmio\"; device = \"counter\"; at = 0; size = \"16E\"; repeat = { count = 19999 }",
            ),
        ),
        fine(
            "9999 under a comb",
            region(
                "r{}",
                "kind = \"reserved\"; at = 0; size = \"16E\"; repeat = { count = 9999 }",
            ) + &region(
                "s{}",
                "kind = \"reserved\"; at = 0; size = 1; priority = 5; repeat = { count = 9999, stride = 2 }",
            ),
        ),
        fine(
            "disabled",
            region(
                "r{}",
                "kind = \"reserved\"; at = \"1T\"; size = \"4K\"; priority = -1; repeat = { count = 9999, stride = \"4K\" }",
            ) + &region(
                "s{}",
                "kind = \"reserved\"; at = 0; size = \"4K\"; enabled = false; repeat = { count = 9999, stride = \"4K\" }",
            ),
        ),
        fine(
            "memslots",
            region(
                &name,
                "kind = \"ram\"; at = 0; size = \"4K\"; repeat = { count = 19999, stride = \"8K\" }",
            ),
        ),
        fine(
            "BARs",
            region(
                &name,
                "kind = \"bar\"; at = 0; size = \"64K\"; repeat = { count = 900, stride = \"64K\" }; msix-table = { at = 0, size = 4096 }",
            ),
        ),
    ]
}
