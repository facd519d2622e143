// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Machine files that expand to very much.

use super::bomb::{Bomb, bad, each, fine, region, step};
use super::taken::{as_large_as_may_be, scripts};

/// Machine files.
pub fn machines() -> Vec<Bomb> {
    let mut all = names();
    all.extend(impossible());
    all.extend(expanded());
    all.extend(nested());
    all.extend(toml());
    all.extend(scripts());
    all.extend(as_large_as_may_be());
    all
}

fn names() -> Vec<Bomb> {
    let repeated = "kind = \"mmio\"; device = \"counter\"; at = 0; size = 8; repeat = { count = 19999, stride = \"4K\" }";
    let long = "n".repeat(3_900_000);
    let mut all = vec![
        bad(
            "long name, repeated",
            region(&("n".repeat(25_000) + "{}"), repeated),
            "': field 'name': a name has at most 255 bytes; this one has 25001\n",
        ),
        bad(
            "numbers, repeated",
            region(&"{}".repeat(12_500), repeated),
            "': field 'name': a name has at most 255 bytes; this one has 12500\n",
        ),
        bad(
            "long name of a machine",
            format!("name = \"{long}\""),
            "1: field 'name': a name has at most 255 bytes; this one has 3900000",
        ),
    ];
    // Errors quote long words in part: the error's length is checked.
    for (name, text) in [
        (
            "kind",
            region("r", &format!("kind = \"{long}\"; at = 0; size = 1")),
        ),
        (
            "in",
            region(
                "r",
                &format!("kind = \"ram\"; in = \"{long}\"; at = 0; size = \"4K\""),
            ),
        ),
        (
            "target",
            region(
                "r",
                &format!("kind = \"alias\"; target = \"{long}\"; size = \"4K\""),
            ),
        ),
        (
            "device",
            region(
                "r",
                &format!("kind = \"mmio\"; device = \"{long}\"; size = \"4K\""),
            ),
        ),
        (
            "backing",
            region(
                "r",
                &format!("kind = \"ram\"; backing = \"{long}\"; size = \"4K\""),
            ),
        ),
        (
            "size",
            region("r", &format!("kind = \"ram\"; size = \"{long}\"")),
        ),
        ("do", step(&format!("do = \"{long}\""))),
        (
            "how",
            step(&format!("do = \"read\"; at = 0; how = \"{long}\"")),
        ),
        (
            "region",
            step(&format!("do = \"reset\"; region = \"{long}\"")),
        ),
        (
            "fails",
            step(&format!(
                "do = \"accept\"; at = 0; size = 1; fails = \"{long}\""
            )),
        ),
        (
            "state",
            step(&format!(
                "do = \"convert\"; at = 0; size = 1; state = \"{long}\""
            )),
        ),
        (
            "value",
            step(&format!(
                "do = \"write\"; at = 0; how = \"mmio\"; value = \"{long}\""
            )),
        ),
        ("key", format!("{long} = 1")),
    ] {
        all.push(bad(name, text, "nnnnn"));
    }
    all
}

/// What no machine can be made of.
fn impossible() -> Vec<Bomb> {
    vec![bad(
        "more memslots than there are",
        region("r", "kind = \"ram\"; at = 0; size = \"4K\"")
            + &region(
                "a{}",
                "kind = \"alias\"; target = \"r\"; at = \"4K\"; size = \"4K\"; repeat = { count = 19000, stride = \"8K\" }",
            )
            + &region("twice", "kind = \"container\"; size = \"512M\"")
            + &region(
                "b{}",
                "kind = \"ram\"; in = \"twice\"; at = 0; size = \"4K\"; repeat = { count = 900, stride = \"8K\" }",
            )
            + &region(
                "c{}",
                "kind = \"alias\"; target = \"twice\"; at = \"1T\"; size = \"512M\"; repeat = { count = 16, stride = \"1G\" }",
            ),
        ": the memslots cannot be set up: ",
    )]
}

fn expanded() -> Vec<Bomb> {
    let values = "{at=0,value=1},".repeat(149_000);
    let some_values = each(0..16, |n| format!("{{at={},value=1}},", n * 4096));
    let spans = each(0..50_000, |n| format!("{{at={},size=4096}},", n * 8192));
    let some_spans = each(0..8, |n| format!("{{at={},size=4096}},", n * 8192));
    vec![
        bad(
            "values",
            region(
                "r{}",
                &format!(
                    "kind = \"ram\"; at = 0; size = \"4K\"; init = [{values}]; repeat = {{ count = 500, stride = \"4K\" }}"
                ),
            ),
            "6: region 'r0': field 'init': there are more than 20000 initial values",
        ),
        bad(
            "values, repeated",
            region(
                "r{}",
                &format!(
                    "kind = \"ram\"; at = 0; size = \"64K\"; init = [{some_values}]; repeat = {{ count = 19999, stride = \"64K\" }}"
                ),
            ),
            "6: region 'r1250': field 'init': there are more than 20000 initial values",
        ),
        bad(
            "private ranges",
            region(
                "r{}",
                &format!(
                    "kind = \"bar\"; at = 0; size = \"1G\"; private = [{spans}]; repeat = {{ count = 200, stride = \"1G\" }}"
                ),
            ),
            "6: region 'r0': field 'private': there are more than 20000 private and shared ranges of BARs",
        ),
        bad(
            "shared ranges, repeated",
            region(
                "r{}",
                &format!(
                    "kind = \"bar\"; at = 0; size = \"64K\"; shared = [{some_spans}]; repeat = {{ count = 19999, stride = \"64K\" }}"
                ),
            ),
            "6: region 'r2500': field 'shared': there are more than 20000 private and shared ranges of BARs",
        ),
        bad(
            "regions, written out",
            each(0..25_000, |n| {
                region(&format!("r{n}"), "kind = \"container\"; size = 1")
            }),
            "79998: region 'r19999': field 'name': there are more than 20000 regions",
        ),
        bad(
            "steps, repeated",
            step("do = \"read\"; at = 0; expect = 0; how = \"mmio\"; repeat = { count = 50001 }")
                .repeat(2),
            "8: step 2 (read): field 'do': there are more than 100000 steps",
        ),
        bad(
            "tries",
            step(
                "do = \"read\"; at = 0; expect = 0; how = \"mmio\"; tries = 65535; repeat = { count = 50000 }",
            ),
            "6: step 1 (read): field 'tries': there are more than 1000000 tries of reads",
        ),
        bad(
            "pages",
            step(
                "do = \"write\"; at = 0; value = 0; how = \"mmio\"; repeat = { count = 50001, stride = \"2M\" }",
            ),
            "3: step 1 (write): field 'at': there are more than 50000 pages that steps touch",
        ),
        bad(
            "pages converted at once",
            region(
                "r",
                "kind = \"ram\"; backing = \"private\"; at = 0; size = \"4T\"",
            ) + &step("do = \"convert\"; at = 0; size = \"4T\"; state = \"private\""),
            "10: step 1 (convert): field 'size': there are more than 16777216 pages that steps convert",
        ),
        bad(
            "pages accepted again and again",
            step("do = \"accept\"; at = 0; size = \"2M\"; repeat = { count = 32769 }"),
            "4: step 1 (accept): field 'size': there are more than 16777216 pages that steps convert",
        ),
        bad(
            "a repetition of a repetition",
            region(
                "r{}",
                "kind = \"container\"; size = 1; repeat = { count = 2, repeat = { count = 3 } }",
            ),
            "5: unknown field `repeat`",
        ),
    ]
}

fn nested() -> Vec<Bomb> {
    let inside = |n: u64, fields: &str| match n {
        0 => region("c0", fields),
        _ => region(&format!("c{n}"), &format!("{fields}; in = \"c{}\"", n - 1)),
    };
    let mut doubled = region("c0", "kind = \"reserved\"; size = \"4K\"");
    for level in 1..=30 {
        let place = if level == 30 { "; at = 0" } else { "" };
        doubled += &region(
            &format!("c{level}"),
            &format!("kind = \"container\"; size = \"4K\"{place}"),
        );
        let alias = format!(
            "kind = \"alias\"; target = \"c{}\"; in = \"c{level}\"; at = 0; size = \"4K\"; repeat = {{ count = 2 }}",
            level - 1
        );
        doubled += &region(&format!("a{level}-{{}}"), &alias);
    }
    let shown = |count: u64| {
        region(
            "target",
            "kind = \"mmio\"; device = \"counter\"; size = \"4K\"",
        ) + &region(
            "in{}",
            "kind = \"reserved\"; in = \"target\"; at = 1; size = 1; repeat = { count = 2000, stride = 2 }",
        ) + &region(
            "a{}",
            &format!(
                "kind = \"alias\"; target = \"target\"; at = 0; size = \"4K\"; repeat = {{ count = {count}, stride = \"4K\" }}"
            ),
        )
    };
    vec![
        bad(
            "nested containers",
            each(0..19_999, |n| {
                inside(n, "kind = \"container\"; at = 0; size = \"4K\"")
            }),
            "605: region 'c100': field 'in': more than 100 regions lie around it",
        ),
        bad(
            "aliases that double",
            doubled,
            "361: region 'a30-0': field 'target': with all that aliases show there are more than 100000 regions",
        ),
        bad(
            "aliases that multiply",
            shown(1000),
            "16: region 'a0': field 'target': with all that aliases show there are more than 100000 regions",
        ),
        fine("as much as aliases may show", shown(48)),
        fine(
            "a chain of aliases",
            region("c0", "kind = \"reserved\"; size = \"4K\"")
                + &each(1..19_999, |n| {
                    let at = if n == 19_998 { "; at = 0" } else { "" };
                    region(
                        &format!("c{n}"),
                        &format!(
                            "kind = \"alias\"; target = \"c{}\"; size = \"4K\"{at}",
                            n - 1
                        ),
                    )
                }),
        ),
    ]
}

fn toml() -> Vec<Bomb> {
    vec![
        bad(
            "tables",
            format!("x = [{}]", "{a=0},".repeat(690_000)),
            "1: there are more than 150000 tables and arrays",
        ),
        bad(
            "dots",
            each(0..230_000, |n| format!("{n:x}.a.a.a.a=0\n")),
            "37501: there are more than 150000 tables and arrays",
        ),
        bad(
            "dots in a key",
            "\n".to_string() + &"a. \"b\".".repeat(40_000) + "a = 1",
            "2: there are more than 40 dots in a key",
        ),
        bad(
            "headers",
            "[[a]]\nb=0\n".repeat(400_000),
            "300001: there are more than 150000 tables and arrays",
        ),
        bad(
            "arrays in arrays",
            format!("x = {}", "[".repeat(4_000_000)),
            "1: there are more than 150000 tables and arrays",
        ),
        bad(
            "tables in tables",
            format!("x = {}", "{a=".repeat(1_300_000)),
            "1: there are more than 150000 tables and arrays",
        ),
        bad(
            "numbers",
            format!("region = [{}]", "0,".repeat(2_000_000)),
            "1: there are more than 800000 values",
        ),
        bad(
            "wide table",
            "[[region]]\n".to_string() + &each(0..400_000, |n| format!("{n:x}=0\n")),
            "2: unknown field `0`",
        ),
        bad(
            "deep enough to be read",
            format!("x = {}", "[".repeat(140_000)),
            "1: ",
        ),
        bad(
            "strings",
            format!("x = [\"\"\"a\"\"\"\", {}]", "{a=0},".repeat(600_000)),
            "1: there are more than 150000 tables and arrays",
        ),
        bad(
            "empty lines",
            "\n".repeat(4_000_000) + "x = 1",
            "4000001: unknown field `x`",
        ),
    ]
}
