// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hand-written dumps: error messages, and the views of small dumps.

use std::fmt::Write;

const ALL: &str = "0000000000000000-ffffffffffffffff (prio 0, container): ";

/// Returns the line and the message of a dump's error.
fn wrong(text: &str) -> String {
    let error = qemu_mtree::read("a.tree", text).unwrap_err();
    assert_eq!(error.file, "a.tree");
    format!("{}: {}", error.line, error.what)
}

/// Returns the ranges of the first view of a dump.
fn ranges(text: &str) -> Vec<String> {
    let machine = qemu_mtree::read("a.tree", text).unwrap_or_else(|error| panic!("{error}"));
    let flat = machine.flat_text();
    let view = flat.split("FlatView #").nth(1).unwrap();
    let ranges = view.lines().filter(|line| line.starts_with("  "));
    ranges.map(|line| line.trim().to_string()).collect()
}

/// Makes an address space of 2^64 bytes with these lines in it.
fn system(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("address-space: memory\n  {ALL}system\n{lines}\n")
}

/// Makes a target's block with these lines.
fn target(name: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("memory-region: {name}\n{lines}\n")
}

#[test]
fn what_a_terminal_would_act_on_is_refused_in_names() {
    for control in ["\u{1b}[2J", "\u{7}", "\u{9b}2J"] {
        let heading = format!("address-space: a{control}\n  {ALL}a\n\n");
        assert_eq!(
            wrong(&heading),
            "1: a control character at byte 16; expected none"
        );
        let region = wrong(&system(&[&format!("{ALL}a{control}")]));
        assert!(region.starts_with("3: a control character at byte "));
    }
}

/// Without -D, QEMU leaves out a disabled region, and prints what is in it one level
/// deeper than the region before.
#[test]
fn a_region_in_an_alias_asks_for_the_option_that_prints_all() {
    let alias = "0000000000000000-0000000000000fff (prio 0, i/o): alias x @t \
                 0000000000000000-0000000000000fff";
    let inside = "  0000000000000000-0000000000000fff (prio 0, i/o): y";
    let root = "0000000000000000-0000000000000fff (prio 0, i/o): t";
    let text = system(&[alias, inside]) + &target("t", &[root]);
    let error = wrong(&text);
    assert!(error.starts_with("4: a region in an alias") && error.contains("info mtree -D"));
}

#[test]
fn each_error_names_its_line_and_what_was_expected() {
    let cases = [
        ("", "1: no address space; expected the output of"),
        ("\n\n", "2: no address space; expected"),
        ("info mtree -D\n", "1: 0 spaces before a region; expected"),
        (
            "address-space: a\n",
            "1: nothing follows; expected a region",
        ),
        ("address-space: a\n\n", "2: empty line; expected the region"),
        (
            "address-space: a\nmemory-region: b\n",
            "2: memory-region; expected the region",
        ),
        (
            "memory-region: a\naddress-space: b\n",
            "2: address-space; expected the region",
        ),
        ("  {ALL}a\n", "1: expected 'address-space: NAME' or"),
        (
            "address-space: a\n  {ALL}a\n\nmemory-region: b\n  {ALL}b\n\naddress-space: a\n",
            "7: address-space after a memory-region; expected one dump only",
        ),
        (
            "address-space: a\n(qemu) quit\n",
            "2: prompt; expected the region",
        ),
        (
            "address-space: a\n  {ALL}a\n  {ALL}b\n",
            "3: expected 'address-space: NAME' or",
        ),
        (
            "address-space: a\n    {ALL}a\n",
            "2: expected the tree's root",
        ),
        (
            "address-space: a\n   {ALL}a\n",
            "2: 3 spaces before a region",
        ),
        (
            "address-space: a\n  {ALL}a\n      {ALL}b\n",
            "3: 6 spaces; expected at most 4",
        ),
        (
            "memory-region: a\n  {ALL}b\n",
            "2: region 'b'; expected 'a' as the heading says",
        ),
        (
            "address-space: a\n  0-1 (prio 0, ram): a\n",
            "2: expected START-LAST",
        ),
        (
            "address-space: a\n  +000000000000000-0000000000000001 (prio 0, ram): a\n",
            "2: expected START",
        ),
        (
            "address-space: a\n  0000000000000000-0000000000000001 ram\n",
            "2: expected ' (prio '",
        ),
        (
            "address-space: a\n  0000000000000000-0000000000000001 (prio 0)\n",
            "2: expected ', TYPE",
        ),
        (
            "address-space: a\n  0000000000000000-0000000000000001 (prio 0, ram)\n",
            "2: expected '): NAME'",
        ),
        (
            "address-space: a\n  0000000000000000-0000000000000001 (prio 2147483648, ram): a\n",
            "2: priority '2147483648' is no signed 32-bit",
        ),
        (
            "address-space: a\n  0000000000000000-0000000000000001 (prio 0, tape): a\n",
            "2: unknown type 'tape'; expected container,",
        ),
        (
            "address-space: a\n  0000000000000001-0000000000000000 (prio 0, ram): a\n",
            "2: ends at 0x0; expected no address before its start, 0x1",
        ),
        (
            "address-space: a\n  0000000000000001-0000000000000002 (prio 0, i/o): a\n    {ALL}b\n",
            "3: starts at 0x0; expected no address before its parent's, 0x1",
        ),
        (
            "address-space: a\n  0000000000000000-ffffffffffffffff (prio 0, ram): a\n",
            "2: 'a' has 0x10000000000000000 bytes; expected memory",
        ),
        (
            "address-space: a\n  {ALL}alias a @b 0000000000000000-ffffffffffffffff\n",
            "2: alias 'a @b'; expected a 'memory-region:' block",
        ),
        (
            "address-space: a\n  {ALL}alias a @b 0000000000000000-0000000000000001\n",
            "2: shows 0x0 to 0x1 of its target; expected as many",
        ),
    ];
    for (text, expected) in cases {
        let said = wrong(&text.replace("{ALL}", ALL));
        assert!(said.starts_with(expected), "{text:?}: {said}");
    }
}

#[test]
fn what_a_terminal_would_act_upon_is_not_quoted() {
    let clears = "address-space: a\n  0000000000000000-0000000000000001 (prio \u{1b}[2J, ram): a\n";
    let said = wrong(clears);
    assert!(said.starts_with("2: priority '\u{fffd}[2J'"), "{said}");
}

#[test]
fn what_the_monitor_prints_around_a_dump_is_passed_over() {
    let lines = ["0000000000000000-0000000000000fff (prio 0, ram): low"];
    let dump = system(&lines);
    let session = format!(
        "QEMU 11.1.3 monitor - type 'help' for more information\r\n\
         (qemu) i\u{1b}[K\u{1b}[Dinfo mtree -D\r\n{dump}(qemu) quit\r\n"
    );
    assert_eq!(ranges(&session), ranges(&dump));
}

#[test]
fn a_target_of_another_type_is_none() {
    let text = system(&[
        "0000000000000000-0000000000000fff (prio 0, ram): alias a @b 0000000000000000-0000000000000fff",
    ]) + &target("b", &["0000000000000000-0000000000000fff (prio 0, rom): b"]);
    assert!(wrong(&text).starts_with("3: alias 'a' of type ram; expected a 'memory-region:'"));
}

#[test]
fn what_multiplies_without_end_is_refused() {
    // An alias of itself, two aliases of each other, and a region that shows
    // all of itself.
    let window = "0000000000000000-0000000000000fff";
    let show = |name, of| format!("{window} (prio 0, i/o): alias {name} @{of} {window}");
    let own = target("a", &[&show("a", "a")]);
    assert!(wrong(&(system(&[&show("x", "a")]) + &own)).contains("shows itself again and again"));
    let two = target("a", &[&show("a", "b")]) + &target("b", &[&show("b", "a")]);
    assert!(wrong(&(system(&[&show("x", "a")]) + &two)).contains("shows itself again and again"));
    let whole = "0000000000000000-ffffffffffffffff";
    let again = format!("{whole} (prio 0, container): alias again @system {whole}");
    let text =
        system(&[&again]) + &target("system", &[&format!("{ALL}system"), &format!("  {again}")]);
    assert!(wrong(&text).contains("shows itself again and again"));

    // Each region shows the next one twice, forty times.
    let mut text = String::from("address-space: memory\n");
    for n in 0..40 {
        let (end, half) = (1_u64 << (60 - n), 1_u64 << (59 - n));
        let heading = if n == 0 { "" } else { "memory-region: r{n}\n" };
        let heading = heading.replace("{n}", &n.to_string());
        let last = end - 1;
        writeln!(
            text,
            "{heading}  {:016x}-{last:016x} (prio 0, container): r{n}",
            0
        )
        .unwrap();
        for at in [0, half] {
            let (start, last, next) = (at, at + half - 1, n + 1);
            let shown = half - 1;
            writeln!(
                text,
                "    {start:016x}-{last:016x} (prio 0, container): alias a @r{next} {:016x}-{shown:016x}",
                0
            )
            .unwrap();
        }
        text.push('\n');
    }
    text += "memory-region: r40\n  0000000000000000-00000000000fffff (prio 0, container): r40\n";
    assert!(wrong(&text).contains("through aliases, more than"));
}

#[test]
fn too_many_lines_and_too_many_levels_are_refused() {
    let line = "0000000000000000-0000000000000fff (prio 0, i/o): a";
    let many = system(&vec![line; 20_000]);
    assert_eq!(wrong(&many), "16386: more than 16384 regions");
    let mut deep = system(&[]).trim_end().to_string();
    for level in 1..200 {
        deep += &format!("\n{}{line}", " ".repeat(2 * level + 2));
    }
    assert_eq!(wrong(&deep), "130: more than 128 levels");
}

#[test]
fn a_region_may_show_another_part_of_what_it_lies_in() {
    let lines = [
        "0000000000000000-0000000000000fff (prio 0, ram): low",
        "0000000000001000-0000000000001fff (prio 0, container): alias again @system 0000000000000000-0000000000000fff",
    ];
    let own = [
        format!("{ALL}system"),
        format!("  {}", lines[0]),
        format!("  {}", lines[1]),
    ];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let text = system(&lines) + &target("system", &own);
    let low = "(prio 0, ram): low";
    let expected = [
        "0000000000000000-0000000000000fff",
        "0000000000001000-0000000000001fff",
    ];
    assert_eq!(
        ranges(&text),
        expected.map(|range| format!("{range} {low}"))
    );
}

#[test]
fn a_root_shows_where_it_lies() {
    let bar = "0000000000004000-0000000000004fff (prio 1, i/o): bar";
    let text = format!("address-space: device\n  {bar}\n\n") + &system(&[bar]);
    assert_eq!(ranges(&text), [bar]);
}

#[test]
fn addresses_may_wrap_where_qemu_says_so() {
    let line = "fffffffffffff000-0000000000000fff (prio 0, i/o): a";
    assert!(wrong(&system(&[line])).starts_with("3: ends at 0xfff; expected"));
    let text = system(&[]).trim_end().to_string() + &format!("\n[DETECTED OVERFLOW!]     {line}\n");
    assert_eq!(
        ranges(&text),
        ["fffffffffffff000-ffffffffffffffff (prio 0, i/o): a"]
    );
}

#[test]
fn a_window_of_one_printed_byte_is_closed() {
    let lines = [
        "0000000000000000-0000000000000000 (prio 1, ram): alias window @b 0000000000000000-0000000000000000",
        "0000000000000000-0000000000000000 (prio 0, i/o): register",
    ];
    let text =
        system(&lines) + &target("b", &["0000000000000000-0000000000000fff (prio 0, ram): b"]);
    assert_eq!(ranges(&text), [lines[1]]);
}

#[test]
fn names_may_hold_what_separates_names() {
    let b = "0000000000000000-0000000000000fff (prio 0, ram): b @c";
    let alias = "0000000000000000-0000000000000fff (prio 0, ram): alias a @b @c 0000000000000000-0000000000000fff";
    assert_eq!(ranges(&(system(&[alias]) + &target("b @c", &[b]))), [b]);
    let plain = "0000000000000000-0000000000000fff (prio 0, i/o): alias of nothing";
    assert_eq!(ranges(&system(&[plain])), [plain]);
}

#[test]
fn regions_of_one_name_are_told_apart_by_the_order_of_their_aliases() {
    let window = |start: u64| {
        let last = start + 0xfff;
        format!(
            "{start:016x}-{last:016x} (prio 0, i/o): alias window @bus 0000000000000000-0000000000000fff"
        )
    };
    let bus = |device: &str| {
        let child = format!("  0000000000000000-000000000000000f (prio 0, i/o): {device}");
        target(
            "bus",
            &[
                "0000000000000000-0000000000000fff (prio 0, i/o): bus",
                &child,
            ],
        )
    };
    let text = system(&[&window(0), &window(0x1000)]) + &bus("first") + &bus("second");
    assert_eq!(
        ranges(&text),
        [
            "0000000000000000-000000000000000f (prio 0, i/o): first",
            "0000000000001000-000000000000100f (prio 0, i/o): second"
        ]
    );
}

/// Makes a bus with a window, and the block of a bus with a device.
fn window(name: &str, start: u64, last: u64) -> String {
    format!("{start:016x}-{last:016x} (prio 1, i/o): alias {name} @bus {start:016x}-{last:016x}")
}

fn bus(lines: &[&str]) -> String {
    let mut all = vec!["0000000000000000-000000000000ffff (prio 0, i/o): bus".to_string()];
    all.extend(lines.iter().map(|line| format!("  {line}")));
    target("bus", &all.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_window_shows_the_bus_whose_devices_lie_in_it() {
    let first = "0000000000006000-000000000000600f (prio 1, i/o): first";
    let second = "0000000000002000-000000000000200f (prio 1, i/o): second";
    // The first alias shows the first block, whatever the block contains. By
    // order alone, the first alias called `memory` would show that block, too.
    let text = system(&[
        &window("ports", 0x1000, 0x1fff),
        &window("memory", 0x2000, 0x2fff),
        &window("memory", 0x6000, 0x6fff),
        &window("ports", 0x9000, 0x9fff),
    ]);
    let text = text + &bus(&[first]) + &bus(&[second]);
    assert_eq!(ranges(&text), [second, first]);
}

#[test]
fn one_bridge_shows_one_bus() {
    let text = system(&[
        &window("ports", 0x1000, 0x1fff),
        &window("memory", 0x2000, 0x2fff),
    ]);
    // The second bus fills the window, but the first bus is behind that bridge.
    let device = "0000000000002000-0000000000002fff (prio 1, i/o): device";
    let text = text + &bus(&[&window("memory", 0x2000, 0x20ff)]) + &bus(&[device]);
    let seen = "0000000000002000-00000000000020ff (prio 1, i/o): device";
    assert_eq!(ranges(&text), [seen]);
}

#[test]
fn no_bus_is_behind_itself() {
    // Three buses, each behind the previous one, all through the same window.
    let device = "0000000000002000-000000000000200f (prio 1, i/o): device";
    let open = window("memory", 0x2000, 0x2fff);
    let text = system(&[&open]) + &bus(&[&open]) + &bus(&[&open]) + &bus(&[device]);
    assert_eq!(ranges(&text), [device]);
    // The innermost bus may be drawn first, as the root of an address space.
    let inner = bus(&[&open]).replace("memory-region: bus", "address-space: inner");
    let text = inner + &system(&[&open]) + &bus(&[&open]) + &bus(&[device]) + &bus(&[&open]);
    let machine = qemu_mtree::read("a.tree", &text).unwrap_or_else(|error| panic!("{error}"));
    // In both views: the view of `inner` and the view of `memory`.
    assert_eq!(machine.flat_text().matches(device).count(), 2);
}

#[test]
fn bridges_one_behind_the_other_are_no_multitude() {
    // Each bus shows the next one through three aliases. The device is in only
    // one of the three windows.
    let device = "0000000000002000-000000000000200f (prio 1, i/o): device";
    let windows = [
        window("memory", 0x2000, 0x2fff),
        window("prefetched", 0x4000, 0x4fff),
        window("vga", 0x6000, 0x6fff),
    ];
    let windows: Vec<&str> = windows.iter().map(String::as_str).collect();
    let text = system(&windows) + &bus(&windows).repeat(30) + &bus(&[device]);
    assert_eq!(ranges(&text), [device]);
}

#[test]
fn only_overlaps_whose_order_is_not_stated_are_listed() {
    let overlaps = |lines: &[&str]| -> Vec<(usize, String, String)> {
        let machine = qemu_mtree::read("a.tree", &system(lines)).unwrap();
        let overlaps = machine.overlaps.into_iter();
        overlaps
            .map(|overlap| (overlap.line, overlap.shown, overlap.hidden))
            .collect()
    };
    let a = "0000000000000000-0000000000001fff (prio 0, i/o): a";
    let b = "0000000000001000-0000000000002fff (prio 0, i/o): b";
    assert_eq!(overlaps(&[a, b]), [(4, "b".into(), "a".into())]);
    for other in [
        // QEMU prints the winner first at the same address.
        "0000000000000000-0000000000000fff (prio 0, i/o): b",
        "0000000000001000-0000000000002fff (prio 1, i/o): b",
        "0000000000002000-0000000000002fff (prio 0, i/o): b",
        "0000000000001000-0000000000002fff (prio 0, i/o): b [disabled]",
        "0000000000001000-0000000000002fff (prio 0, container): some container",
    ] {
        assert_eq!(overlaps(&[a, other]), [], "{other}");
    }
}
