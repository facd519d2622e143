// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of whole pictures.

use std::ops::Range;

use memory_model::GuestAccess;

use super::document;
use super::look;
use super::page::Page;
use crate::map::Map;
use crate::rows::{FlatRow, SlotRow, TreeRow};

/// A map whose flat rows belong to the regions of their names.
pub fn map(tree: Vec<TreeRow>, mut flat: Vec<FlatRow>) -> Map {
    for row in &mut flat {
        row.tree_row = tree.iter().position(|region| region.name == row.region);
    }
    Map {
        machine: "test".into(),
        tree,
        flat,
        slots: Vec::new(),
    }
}

pub fn tree_row(depth: usize, name: &str, kind: &'static str, range: Range<u128>) -> TreeRow {
    TreeRow {
        depth,
        name: name.into(),
        kind,
        start: range.start,
        last: range.end - 1,
        priority: 0,
        rank: 0,
        enabled: true,
        readonly: false,
        note: String::new(),
    }
}

pub fn flat_row(region: &str, offset: u64, range: Range<u64>) -> FlatRow {
    FlatRow {
        start: range.start,
        last: range.end - 1,
        region: region.into(),
        tree_row: None,
        offset,
        kind: "mmio",
        access: GuestAccess::Trap,
        host_mapped: false,
        private_side: false,
        slot: None,
        note: String::new(),
    }
}

fn slot_row(id: u16, range: Range<u64>, behind: &str) -> SlotRow {
    let flags = vec!["READONLY"];
    SlotRow {
        id,
        gpa: range.start,
        size: range.end - range.start,
        flags,
        backing: format!("{behind} at 0x7f5c9a400000"),
        behind: vec![behind.into()],
        host_mapped: behind == "host memory",
    }
}

/// RAM, a device in it, a hole of nearly 16 EiB and private MMIO.
fn small() -> Map {
    let mut vga = tree_row(1, "vga", "mmio", 0xa_0000..0xc_0000);
    vga.priority = 1;
    let mut off = tree_row(1, "off", "ram", 0xb_0000..0xd_0000);
    off.enabled = false;
    let mut low = flat_row("ram", 0, 0..0xa_0000);
    (low.access, low.host_mapped, low.slot) = (GuestAccess::ReadWrite, true, Some(0));
    let high = FlatRow {
        start: 0xc_0000,
        last: 0xbfff_ffff,
        offset: 0xc_0000,
        ..low.clone()
    };
    let regs = flat_row("regs", 0, 0xffff_ffff_ffff_0000..0xffff_ffff_ffff_f000);
    let regs = FlatRow {
        access: GuestAccess::ReadWrite,
        slot: Some(7),
        ..regs
    };
    Map {
        slots: vec![
            slot_row(0, 0..0xa_0000, "host memory"),
            slot_row(
                7,
                0xffff_ffff_ffff_0000..0xffff_ffff_ffff_f000,
                "file + 0x0",
            ),
        ],
        ..map(
            vec![
                tree_row(0, "system", "container", 0..1 << 64),
                tree_row(1, "ram", "ram", 0..0xc000_0000),
                vga,
                off,
                tree_row(
                    1,
                    "regs",
                    "private mmio",
                    0xffff_ffff_ffff_0000..0xffff_ffff_ffff_f000,
                ),
            ],
            vec![low, flat_row("vga", 0, 0xa_0000..0xc_0000), high, regs],
        )
    }
}

/// `count` ranges, each different from its neighbours.
fn irregular(count: u64) -> Map {
    let range = |n: u64| n * n * 0x1000..(n * n + n + 1) * 0x1000;
    let name = |n: u64| {
        format!(
            "{}{n}",
            ["ram", "nic", "gpu", "rom", "usb"][usize::try_from(n % 5).unwrap()]
        )
    };
    let wide = |range: Range<u64>| range.start.into()..range.end.into();
    let mut tree = vec![tree_row(0, "system", "container", 0..1 << 64)];
    tree.extend((0..count).map(|n| tree_row(1, &name(n), "mmio", wide(range(n)))));
    map(
        tree,
        (0..count)
            .map(|n| flat_row(&name(n), 0, range(n)))
            .collect(),
    )
}

/// `count` adjacent pages of devices.
fn series(count: u64) -> Map {
    let range = |n: u64| n * 0x1000..(n + 1) * 0x1000;
    let mut tree = vec![tree_row(0, "system", "container", 0..1 << 64)];
    let wide = |range: Range<u64>| range.start.into()..range.end.into();
    tree.extend((0..count).map(|n| tree_row(1, &format!("dev{n}"), "mmio", wide(range(n)))));
    map(
        tree,
        (0..count)
            .map(|n| flat_row(&format!("dev{n}"), 0, range(n)))
            .collect(),
    )
}

fn texts(map: &Map) -> Vec<String> {
    Page::of(map)
        .draw()
        .0
        .texts
        .into_iter()
        .map(|(_, text)| text)
        .collect()
}

/// Checks that the tags are balanced, attributes are quoted, and every `&` and
/// `<` is escaped.
fn is_well_formed(document: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    let mut parts = document.split('<');
    if parts.next() != Some("") {
        return false;
    }
    for part in parts {
        let Some((tag, text)) = part.split_once('>') else {
            return false;
        };
        let entities = ["amp;", "lt;", "gt;", "quot;", "apos;"];
        let unescaped = |text: &str| {
            text.split('&')
                .skip(1)
                .any(|rest| !entities.iter().any(|e| rest.starts_with(e)))
        };
        if unescaped(tag) || unescaped(text) || tag.matches('"').count() % 2 != 0 {
            return false;
        }
        match tag.strip_prefix('/') {
            Some(name) if open.pop() == Some(name) => {}
            Some(_) => return false,
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap_or(tag)),
        }
        if open.is_empty() && !text.trim().is_empty() {
            return false;
        }
    }
    open.is_empty()
}

#[test]
fn every_flat_row_and_every_slot_appears() {
    let texts = texts(&small());
    for wanted in [
        "ram",
        "ram + 0xc0000",
        "vga",
        "regs",
        "no host address",
        "slot 0",
        "slot 7",
    ] {
        assert!(
            texts.iter().any(|text| text == wanted),
            "{wanted} in {texts:?}"
        );
    }
}

#[test]
fn addresses_are_in_order_from_the_top() {
    let page = Page::of(&small()).draw().0;
    let place = |wanted: &str| {
        let found = page.texts.iter().find(|(_, text)| text == wanted);
        found.unwrap_or_else(|| panic!("no {wanted}")).0.y
    };
    let places = [
        "0x0",
        "0xa_0000",
        "0xc_0000",
        "0xc000_0000",
        "0xffff_ffff_ffff_0000",
        "2^64",
    ]
    .map(place);
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn no_text_lies_over_another_or_off_the_page() {
    let long = "a-name-that-is-far-too-long-for-any-box-of-any-column-in-the-picture";
    let mut noted = small();
    noted.flat[1].note = format!("{long} {long} because of {long}");
    noted.tree[2].note.clone_from(&noted.flat[1].note);
    noted.machine = long.repeat(5);
    noted.tree[1].name = long.into();
    for map in [
        small(),
        noted,
        irregular(40),
        irregular(1000),
        series(300),
        map(vec![], vec![]),
    ] {
        let page = Page::of(&map);
        let (canvas, width, height) = page.draw();
        for (n, (a, text)) in canvas.texts.iter().enumerate() {
            assert!(
                a.x >= 0 && a.y >= 0 && a.x + a.w <= width && a.y + a.h <= height,
                "{text}"
            );
            for (b, other) in &canvas.texts[n + 1..] {
                let apart =
                    a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
                assert!(apart, "{text} at {a:?} and {other} at {b:?}");
            }
        }
    }
}

#[test]
fn names_cannot_break_the_document() {
    let mut map = small();
    map.machine = "<script> & \"quotes\" \u{1}".into();
    map.flat[0].region = "a<b>&\"c'".into();
    map.tree[1].name = "]]><!--".into();
    let document = document(&map);
    assert!(is_well_formed(&document));
    assert!(document.contains("a&lt;b&gt;&amp;&quot;c&apos;"));
    assert!(!document.contains("<script>"));
}

#[test]
fn all_pictures_are_well_formed() {
    for map in [small(), irregular(300), series(300), map(vec![], vec![])] {
        assert!(is_well_formed(&document(&map)));
    }
}

#[test]
fn the_same_map_makes_the_same_picture() {
    let mut moved = small();
    assert_eq!(document(&small()), document(&moved));
    // The addresses of the VMM's mappings differ in every run.
    moved.slots[0].backing = "host memory at 0x7fffdeadb000".into();
    assert_eq!(document(&small()), document(&moved));
}

#[test]
fn a_reason_is_written_in_full_in_both_columns() {
    let reason = "the host's pages are larger than this range, so that it cannot be told apart from \
                  its neighbours; these belong to a device that the guest must not reach, and the \
                  kernel has no other way to hide them from it than to leave the whole page out";
    let mut noted = small();
    noted.tree[2].note = reason.into();
    noted.flat[1].note = reason.into();
    let texts = texts(&noted);
    for (column, before) in [("tree", "mmio · "), ("flat view", "")] {
        let whole = format!("{before}{reason}");
        let found = (0..texts.len()).any(|from| {
            let lines = (from..texts.len()).map(|to| texts[from..=to].join(" "));
            let mut lines = lines.take_while(|line| line.len() <= whole.len() + 20);
            lines.any(|lines| lines.starts_with(&whole))
        });
        assert!(found, "{column}: {texts:?}");
    }
}

/// The relative luminance of a colour, as WCAG 2 defines it.
fn luminance(colour: &str) -> f64 {
    let part = |at: usize| {
        let value = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
        let value = f64::from(value) / 255.0;
        match value <= 0.04045 {
            true => value / 12.92,
            false => ((value + 0.055) / 1.055).powf(2.4),
        }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}

fn contrast(one: &str, other: &str) -> f64 {
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

fn dark(light: &str) -> &'static str {
    let found = look::DARK.iter().find(|(from, _)| *from == light);
    found
        .unwrap_or_else(|| panic!("{light} has no dark form"))
        .1
}

#[test]
fn every_colour_of_a_picture_has_a_dark_form() {
    let mut noted = small();
    noted.tree[3].note = "a note".into();
    noted.flat[0].private_side = true;
    for map in [noted, series(300)] {
        let document = document(&map);
        let (style, drawn) = document.split_once("</style>").unwrap();
        assert!(style.contains("@media (prefers-color-scheme:dark)"));
        for attribute in ["fill", "stroke"] {
            for part in drawn.split(&format!("{attribute}=\"#")).skip(1) {
                let light = format!("#{}", part.split('"').next().unwrap());
                let rule = format!("[{attribute}=\"{light}\"]{{{attribute}:{}}}", dark(&light));
                assert!(style.contains(&rule), "{rule}");
            }
        }
    }
}

#[test]
fn text_can_be_read_on_every_background_in_both_forms() {
    let backgrounds = [
        "#ffffff", "#a8cdf0", "#d3ecd0", "#f7e59c", "#f4b183", "#eceef0", "#e7ebef", "#eef0f2",
    ];
    for background in backgrounds {
        for (ink, least) in [
            (look::INK, 7.0),
            (look::SOFT, 3.0),
            (look::REFUSED, 3.0),
            (look::PRIVATE, 3.0),
        ] {
            let light = contrast(ink, background);
            assert!(light >= least, "{ink} on {background}: {light}");
            let dark = contrast(dark(ink), dark(background));
            assert!(dark >= least, "dark {ink} on {background}: {dark}");
        }
    }
}

#[test]
fn ram_with_a_private_side_is_marked_in_all_columns() {
    let hatched = |map: &Map| {
        let document = document(map);
        let (_, drawn) = document.split_once("</style>").unwrap();
        drawn.matches("url(#private)").count()
    };
    let plain = small();
    let mut sided = small();
    // It has a slot.
    sided.flat[0].private_side = true;
    assert_eq!(hatched(&sided), hatched(&plain) + 3);
    let words = "no host address for private pages";
    assert!(!texts(&plain).iter().any(|text| text == words));
    assert!(texts(&sided).iter().any(|text| text == words));
    assert!(
        texts(&plain)
            .iter()
            .any(|text| text == "has a private side")
    );
}

#[test]
fn large_maps_make_pictures_of_limited_height() {
    let (_, _, small) = Page::of(&small()).draw();
    assert!(small < 800, "{small}");
    let (_, _, many) = Page::of(&series(1000)).draw();
    assert!(many < 500, "{many}");
    let (_, _, most) = Page::of(&irregular(1000)).draw();
    assert!(most < 6000, "{most}");
}

#[test]
fn a_fold_says_what_is_in_it() {
    let texts = texts(&series(240));
    assert!(
        texts.iter().any(|text| text == "237 more of dev#"),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|text| text == "4 KiB each: dev2 … dev238"),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("237 of the flat ranges are folded"))
    );
}

#[test]
fn an_empty_machine_has_a_picture_too() {
    let empty = map(vec![tree_row(0, "system", "container", 0..1 << 64)], vec![]);
    let texts = texts(&empty);
    assert!(texts.iter().any(|text| text == "nothing"));
    assert!(texts.iter().any(|text| text == "16 EiB"));
}

#[test]
fn unplaced_regions_are_listed_below() {
    let mut map = small();
    map.tree
        .push(tree_row(0, "flash", "rom device", 0..0x4_0000));
    let texts = texts(&map);
    assert!(
        texts
            .iter()
            .any(|text| text == "flash: rom device, 256 KiB"),
        "{texts:?}"
    );
}
